"""The command line: what it prints and writes, and one line for every mistake."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minires.cli import COMMANDS, main
from minires.flow import FlowLog, HistogramRecord, ResidualRecord
from minires.models import BUILDERS

LAYER = """
import numpy as np

class Good:
    def forward(self, x):
        self.x = x
        return x ** 3
    def backward(self, dy):
        return 3 * self.x ** 2 * dy

class Wrong(Good):
    def backward(self, dy):
        return self.x ** 2 * dy

class NeedsArgument(Good):
    def __init__(self, size):
        pass

class Crashes(Good):
    def forward(self, x):
        return x @ np.ones((7, 7))

def make():
    return Good()

constant = 3
"""


@pytest.fixture
def layer_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LAYER)
    return path


def test_the_demo_writes_three_pictures_and_the_history_and_says_what_was_seen(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    for network in ("plain-8", "residual-8", "plain-56", "residual-56", "plain-56 without norm"):
        assert f"\n{network}" in out
    assert "test accuracy" in out
    assert "Batch norm turns vanishing into exploding, and the identity path cures both" in out
    for name in ("gradient_norms.png", "ledger.png", "training.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("L").getcolors(256)) > 20  # not blank
    with (tmp_path / "demo" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == [
        "plain-8",
        "residual-8",
        "plain-56",
        "residual-56",
    ]
    assert all(float(row["loss"]) > 0 for row in rows)


def test_flow_trains_records_compares_and_draws_and_a_log_draws_the_same(tmp_path, capsys):
    out = tmp_path / "flow"
    arguments = ["flow", "--models", "plain8,resnet8", "--steps", "6", "--every", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "recorded every 2" in text
    assert re.search(r"resnet8 +5 .*first block, \d+% last +0\.\d{3}\n", text)
    assert "plain8: Healthy: nothing to report in 3 recorded steps." in text
    assert sorted(path.name for path in out.iterdir()) == [
        "flow.png",
        "plain8.csv",
        "plain8.jsonl",
        "resnet8.csv",
        "resnet8.jsonl",
    ]
    picture = (out / "flow.png").read_bytes()
    logs = [str(out / "plain8.csv"), str(out / "resnet8.jsonl")]
    assert main(["flow", "--out", str(tmp_path / "again"), "--log", *logs]) == 0
    assert (tmp_path / "again" / "flow.png").read_bytes() == picture


def test_flow_goes_on_with_the_others_when_one_model_breaks_down(tmp_path, capsys):
    arguments = ["flow", "--models", "resnet8,plain8", "--no-norm", "--lr", "1e30", "--steps", "5"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    for name in ("resnet8", "plain8"):
        assert f"{name}: stopped: training expects finite numbers" in text
    assert "Update too large" in text
    assert (tmp_path / "flow.png").is_file()


def test_flow_of_a_run_that_breaks_down_at_once_gives_a_picture_and_no_warning(tmp_path):
    arguments = ["flow", "--models", "resnet8", "--steps", "2", "--lr", "1e30"]
    run = [sys.executable, "-W", "error", "-m", "minires", *arguments, "--out", str(tmp_path)]
    result = subprocess.run(run, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "")
    with Image.open(tmp_path / "flow.png") as picture:
        assert len(picture.convert("L").getcolors(256)) > 20


def test_flow_that_is_interrupted_keeps_what_was_recorded(tmp_path, capsys, monkeypatch):
    from minires.cli import flow

    steps = iter(range(5))

    def interrupted(*arguments):
        if next(steps) == 4:
            raise KeyboardInterrupt
        return train_step(*arguments)

    train_step = flow.train_step
    monkeypatch.setattr(flow, "train_step", interrupted)
    arguments = ["flow", "--models", "plain8,resnet8,plain20", "--steps", "3", "--every", "1"]
    assert main([*arguments, "--out", str(tmp_path / "some")]) == 130
    captured = capsys.readouterr()
    assert captured.err == "minires: error: interrupted\n"
    files = "plain8.csv, plain8.jsonl, resnet8.csv, resnet8.jsonl"
    assert captured.out.endswith(f"\nwrote {files} into {tmp_path / 'some'}\n")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == files.split(", ")
    assert FlowLog.read(tmp_path / "some" / "resnet8.csv").steps == [1]

    steps = iter([4])  # before the first step
    assert main([*arguments, "--out", str(tmp_path / "none")]) == 130
    assert "wrote nothing" in capsys.readouterr().out
    assert list((tmp_path / "none").iterdir()) == []


def residual_record(share=0.5):
    return ResidualRecord(1, "block0", 2.0, 2.0, 1.0, 0.5, 3.0, share, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["residuals", "_run", "a$\\frac$", "\u6a21\u578b"])
def test_flow_draws_a_log_of_residual_blocks_alone_whatever_its_name(name, tmp_path, capsys):
    FlowLog([residual_record()]).to_csv(tmp_path / f"{name}.csv")
    assert main(["flow", "--log", str(tmp_path / f"{name}.csv"), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r" 1 +- +50% first block, 50% last +-\n", text)
    assert f"\n{name}: Healthy" in text
    assert (tmp_path / "flow.png").is_file()


def test_flow_says_in_one_line_that_a_log_has_nothing_to_draw_and_writes_nothing(tmp_path, capsys):
    FlowLog([HistogramRecord(1, "conv", "y", 0.0, 1.0, (1, 1))]).to_csv(tmp_path / "h.csv")
    out = tmp_path / "out"
    assert main(["flow", "--log", str(tmp_path / "h.csv"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "expects records of weights or residual blocks" in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    "given",
    [
        *("--steps 100", "--every 1", "--no-norm", "--lr 0", "--batch-size 64", "--data digits"),
        *("--seed 0", "--ops fast", "--models resnet8", "--steps 3 --seed 1"),
    ],
)
def test_flow_refuses_options_of_training_beside_a_log(given, tmp_path, capsys):
    FlowLog([residual_record()]).to_csv(tmp_path / "log.csv")
    arguments = ["flow", "--log", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, *given.split()]) == 2
    named = ", ".join(word for word in given.split() if word.startswith("--"))
    line = f"minires: error: flow expects either {named} to train or --log to read, got both\n"
    assert capsys.readouterr() == ("", line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--no-norm"]])
def test_flow_leaves_out_batch_norm_only_if_it_is_asked_to(more, tmp_path):
    arguments = ["flow", "--models", "resnet8", "--steps", "1", "--out", str(tmp_path)]
    assert main([*arguments, *more]) == 0
    assert ("BatchNorm2d" in (tmp_path / "resnet8.csv").read_text()) == (not more)


def test_reproduce_prints_expected_beside_got_and_writes_both(tmp_path, capsys):
    assert main(["reproduce", "growth", "--seeds", "1", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"quantity +expected +got", text)
    assert "within tolerance, in" in text
    with (tmp_path / "growth.csv").open(newline="") as file:
        assert {row["agrees"] for row in csv.DictReader(file)} == {"True"}


def test_the_demo_says_so_if_the_data_do_not_show_the_theory():
    from minires.cli.demo import Run, sentence
    from minires.flow import GradientNorm
    from minires.history import Epoch, History

    flat = [GradientNorm(i, "w", 1.0) for i in range(1, 5)]
    history = History([Epoch(1, 1, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0)])
    names = ("plain-8", "residual-8", "plain-56", "residual-56")
    runs = {name: Run(flat, flat, history) for name in names}
    bare = {f"{kind}-56 without norm": flat for kind in ("plain", "residual")}
    text = sentence(runs, bare)
    assert text.startswith("Not the textbook's picture")
    assert "does not vanish" in text
    assert "does not explode" in text


@pytest.mark.parametrize("name", ["resnet20", "plain8", "article_resnet", "resnet18"])
def test_summary_prints_any_model(name, capsys):
    assert main(["summary", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("path")
    assert any(line.startswith("total") for line in lines)
    assert all(len(line) < 120 for line in lines)


def test_summary_takes_a_size_and_a_number_of_classes(capsys):
    assert main(["summary", "resnet8", "--input-shape", "8,8,1", "--classes", "3"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fc", "Dense", "3", "195", "192", "12"] in rows


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--epochs", "1", "--out", "{folder}"],
        ["train", "--model", "resnet8", "--epochs", "1", "--out", "{folder}"],
        ["train", "--model", "plain8", "--epochs", "1", "--optimizer", "sgd", "--out", "{folder}"],
        ["check"],
        ["flow", "--models", "plain8,resnet8", "--steps", "2", "--out", "{folder}"],
        ["reproduce", "growth", "--seeds", "1"],
    ],
    ids=" ".join,
)
def test_ops_reference_runs_without_numba(arguments, tmp_path):
    """Whatever part of a command forgot the option would load Numba."""
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    code = (
        "import sys; from minires.cli import demo, main; demo.DEEP = 14; code = main(sys.argv[1:])"
    )
    code += "; print('numba' in sys.modules); sys.exit(code)"
    run = [sys.executable, "-c", code, *arguments, "--ops", "reference"]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("which", ["fast", "reference"])
def test_check_goes_through_every_layer(which, capsys):
    assert main(["check", "--ops", which]) == 0
    out = capsys.readouterr().out
    assert "gradients of every layer of minires: right" in out
    for name in ("Conv2d: weight", "BatchNorm2d, inference: x", "SoftmaxCrossEntropy: logits"):
        assert name in out


def test_warmup_says_where_the_kernels_came_from_and_the_second_time_it_is_the_disk():
    run = [sys.executable, "-m", "minires", "warmup"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "0"}
    for _ in range(2):
        result = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
        assert result.stderr == ""  # no bar for a pipe
        counts, place = result.stdout.splitlines()
    found = re.fullmatch(r"0 kernels compiled, (\d+) from the disk, in [\d.]+ s", counts)
    assert int(found[1]) > 20
    assert place.startswith("kept in ")


AFTER_WARMUP = """
import numpy as np, minires as mr
from minires.cli import main
assert main(["warmup"]) == 0
from minires.ops.fast import cache, progress
before = len(progress.progress.compiled), len(cache.loaded)
sizes = {"resnet20": 32, "plain20": 28, "preact_resnet20": 8, "article_resnet": 32, "resnet34": 64}
for name, size in (sizes | {"resnet50": 32}).items():
    model = mr.models.build(name, num_classes=10, input_shape=(size, size, 3), rng=0)
    x = np.random.default_rng(0).standard_normal((40, size, size, 3)).astype("f")
    labels = np.zeros(40, int)
    for net in (model, mr.fuse(model)):
        mr.fit(net, (x, labels), mr.AdamW(net.parameters()), 1, batch_size=32, progress=False)
        mr.evaluate(net, x, labels)
    with mr.flow.FlowRecorder(model):
        mr.fit(model, (x, labels), mr.Adam(model.parameters()), 1, progress=False)
print(before == (len(progress.progress.compiled), len(cache.loaded)), progress.progress.compiled)
"""


def test_after_warmup_no_model_waits_for_a_kernel():
    run = [sys.executable, "-c", AFTER_WARMUP]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1].startswith("True")


def test_warmup_without_jit_says_that_there_is_nothing_to_compile(monkeypatch, capsys):
    monkeypatch.setattr("minires.ops.fast.compiles", lambda: False)
    assert main(["warmup"]) == 2
    assert "NUMBA_DISABLE_JIT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "words"), [("Good", 0, "right"), ("make", 0, "right"), ("Wrong", 1, "fail")]
)
def test_check_of_a_users_own_layer(layer_file, name, code, words, capsys):
    assert main(["check", f"{layer_file}:{name}", "--input-shape", "3,4"]) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [[], *([command.__name__.rpartition(".")[2]] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_fits_a_screen_and_shows_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 40
    assert f"example: minires {' '.join(command)}" in out


TRAIN = ["train", "--model", "resnet8", "--out", "{out}"]
MISTAKES = [
    ([], "required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["demo", "--quick"], "unrecognized arguments: --quick"),
    (["tutorials", "course"], "unrecognized arguments: course (see minires tutorials --help)"),
    (["demo", "--epochs", "0"], "expected an integer >= 1, got '0'"),
    (["demo", "--epochs", "two"], "expected an integer >= 1, got 'two'"),
    (["demo", "--seed", "-1"], "expected an integer >= 0, got '-1'"),
    (["demo", "--out", "{file}"], "expected a folder to write to, got"),
    (["demo", "--out", "{file}/below"], "expected a folder to write to, got"),
    (["train"], "expected --model, a name that `minires summary` knows, or --resume"),
    (["train", "--model", "resnet21"], "expected --model to be one of resnet8"),
    (["train", "--model", "resnet8", "--data", "imagenet"], "expected --data to be one of digits"),
    (["train", "--model", "resnet8", "--lr", "fast"], "expected a number >= 0, got 'fast'"),
    (["train", "--model", "resnet8", "--lr", "nan"], "expected a number >= 0, got 'nan'"),
    (["train", "--model", "resnet8", "--optimizer", "lion"], "invalid choice: 'lion'"),
    (["train", "--model", "resnet8", "--batch-size", "0"], "expected an integer >= 1"),
    (["train", "--model", "article_resnet"], "images of at least 13x13, got 8x8"),
    (["train", "--model", "article_resnet", "--data", "shapes", "--no-norm"], "neither"),
    (["train", "--model", "resnet8", "--out", "{file}"], "expected a folder to write to"),
    ([*TRAIN, "--recipe", "slow"], "invalid choice: 'slow'"),
    ([*TRAIN, "--schedule", "step"], "invalid choice: 'step'"),
    ([*TRAIN, "--shortcut", "C"], "invalid choice: 'C'"),
    ([*TRAIN, "--save-every", "0"], "expected an integer >= 1, got '0'"),
    ([*TRAIN, "--seed", "0.5"], "expected an integer >= 0, got '0.5'"),
    ([*TRAIN, "--seed", str(2**64)], "a seed below 2^64"),
    ([*TRAIN, "--weight-decay", "-1"], "expected a number >= 0, got '-1'"),
    ([*TRAIN, "--label-smoothing", "1"], "label_smoothing to be a number >= 0 and < 1, got 1.0"),
    ([*TRAIN, "--epochs", "1", "--batch-size", "2000", "--schedule", "one-cycle"], "2 steps"),
    ([*TRAIN, "--image-size", "8,8"], "expected --image-size for a folder of images, got 'digits'"),
    ([*TRAIN, "--data", "cifar10", "--image-size", "8,8"], "for a folder of images, got 'cifar10'"),
    ([*TRAIN, "--data", "{folder}", "--image-size", "8"], "expected a size such as 32,32, got '8'"),
    ([*TRAIN, "--data", ""], "expected --data to be one of digits"),
    ([*TRAIN, "--data", "cifra10", "--data-root", "{folder}"], "to be one of mnist, fashion-mnist"),
    ([*TRAIN, "--data", "{folder}", "--data-root", "{empty}"], "is named by --data alone"),
    ([*TRAIN, "--data", "{folder}"], "expected --out outside the folder of images"),
    ([*TRAIN, "--data", "{empty}"], "for each of at least two classes in {empty}, got none"),
    ([*TRAIN, "--data-root", "{folder}"], "expected --data-root for data from files, got 'digits'"),
    ([*TRAIN, "--download"], "expected --download for one of mnist, fashion-mnist, cifar10"),
    ([*TRAIN, "--data", "{empty}", "--download"], "expected --download for one of mnist"),
    ([*TRAIN, "--data", "mnist", "--data-root", "{empty}"], "load_mnist expects"),
    (["train", "--model", "plain8", "--shortcut", "B"], "--shortcut for a residual network"),
    (["train", "--model", "plain8", "--no-relu-after-add"], "--no-relu-after-add for one of resn"),
    (["train", "--resume", "{empty}"], "in {empty}, got neither: nothing has been saved there"),
    (["train", "--resume", "{folder}/none"], "nothing has been saved there"),
    (["train", "--resume", "{empty}", "--out", "{folder}"], "expected one folder, got --resume"),
    (["train", "--resume", "{empty}", "--overwrite"], "either --resume or --overwrite, got both"),
    (["evaluate"], "required: RUN"),
    (["evaluate", "{empty}"], "in {empty}, got neither: nothing has been saved there"),
    (["evaluate", "{file}"], "got neither: nothing has been saved there"),
    (["evaluate", "{empty}", "--data", "digits"], "unrecognized arguments: --data digits"),
    (["predict"], "required: RUN, IMAGE"),
    (["predict", "{empty}"], "required: IMAGE"),
    (["predict", "{empty}", "{file}"], "nothing has been saved there"),
    (["report"], "required: RUN"),
    (["report", "{folder}/none"], "nothing has been saved there"),
    (["flow", "--models", "resnet21"], "expects --models to be out of resnet8"),
    (["flow", "--models", "resnet8,resnet8"], "each of --models once"),
    (["flow", "--models", "article_resnet"], "images of at least 13x13, got 8x8"),
    (["flow", "--steps", "0"], "expected an integer >= 1"),
    (["flow", "--log", "nowhere.csv"], "expects --log to be files, got 'nowhere.csv'"),
    (["flow", "--log", "{layer}"], "expects a .csv or .jsonl file"),
    (["flow", "--log", "{log}", "--models", "resnet8"], "either --models to train or --log"),
    (["flow", "--log", "{log}"], "an empty log"),
    (["flow", "--log", "{full}", "{full}"], "expects each --log once"),
    (["flow", "--log", "{full}", "{folder}/./full.jsonl"], "expects each --log once"),
    (["flow", "--models", "resnet8", "--out", "{file}"], "expected a folder to write to"),
    (["reproduce", "everything"], "invalid choice: 'everything'"),
    (["reproduce", "paths", "--seeds", "0"], "expected an integer >= 1"),
    (["summary"], "required: MODEL"),
    (["summary", "alexnet"], "got 'alexnet'"),
    (["summary", "resnet8", "--input-shape", "32x32"], "expected sizes such as 32,32,3"),
    (["summary", "resnet8", "--input-shape", "32,32"], "expects input_shape (H, W, C)"),
    (["summary", "article_resnet", "--input-shape", "4,4,3"], "at least 13x13, got 4x4"),
    (["check", "mine"], "expected FILE.py:NAME, got 'mine'"),
    (["check", "nowhere.py:Layer"], "expected a Python file, got 'nowhere.py'"),
    (["check", "{layer}:Missing"], "expected a class or function 'Missing'"),
    (["check", "{layer}:constant"], "expected a class or function 'constant'"),
    (["check", "{layer}:NeedsArgument"], "raised TypeError"),
    (["check", "{layer}:Crashes"], "raised ValueError"),
    (["check", "{broken}:Layer"], "raised SyntaxError"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_gets_one_line_on_stderr_and_code_2(arguments, words, layer_file, capsys):
    (layer_file.parent / "broken.py").write_text("class Layer(:\n")
    (layer_file.parent / "file").write_text("")
    (layer_file.parent / "log.jsonl").write_text("")
    FlowLog([residual_record()]).to_jsonl(layer_file.parent / "full.jsonl")
    (layer_file.parent / "empty").mkdir()
    places = {
        "empty": layer_file.parent / "empty",
        "out": layer_file.parent / "out",
        "folder": layer_file.parent,
        "full": layer_file.parent / "full.jsonl",
        "log": layer_file.parent / "log.jsonl",
        "file": layer_file.parent / "file",
        "layer": layer_file,
        "broken": layer_file.parent / "broken.py",
    }
    code = main([a.format(**places) for a in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words.format(**places) in captured.err
    assert captured.err.startswith("minires")
    for made in ("empty", "out"):
        assert list((layer_file.parent / made).glob("*")) == []


def test_steps_of_the_learning_rate_that_come_after_the_end_are_told(tmp_path, capsys):
    arguments = ["train", "--model", "resnet8", "--recipe", "he2015", "--epochs", "1"]
    assert main([*arguments, "--lr", "1e30", "--out", str(tmp_path)]) == 1
    warning = capsys.readouterr().err.splitlines()[0]
    assert warning.startswith("minires: warning: the learning rate of he2015, lr=1e+30, epochs=1")
    assert "does not change at step 32000 and 48000, since the training ends at 12" in warning


def test_files_that_are_missing_are_named_with_the_options_that_help(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    run = ["train", "--model", "resnet8", "--data", "cifar10", "--out", str(tmp_path / "run")]
    assert main(run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("cifar-10-binary.tar.gz", str(tmp_path / "nowhere"), "--download", "--data-root"):
        assert words in error


def test_ctrl_c_while_numba_is_imported_is_an_interruption_too(monkeypatch, capsys):
    from minires.cli import COMMANDS

    def interrupted(options):
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr(COMMANDS[0], "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "minires: error: interrupted\n"


def test_python_m_minires_is_the_same_command():
    run = [sys.executable, "-m", "minires", "--version"]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("minires 0.")


def test_the_model_names_are_in_the_help_of_summary(capsys):
    main(["summary", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(name in out for name in BUILDERS)


# ---- tutorials


def test_tutorials_copies_the_notebooks_and_says_how_to_open_them(tmp_path, capsys):
    folder = tmp_path / "course"
    assert main(["tutorials", "--out", str(folder)]) == 0
    copied = sorted(path.name for path in folder.glob("*.ipynb"))
    originals = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
    assert copied == [path.name for path in originals]
    assert (folder / copied[0]).read_bytes() == originals[0].read_bytes()
    out = capsys.readouterr().out
    assert out.startswith(f"{len(copied)} notebooks in {folder}; begin with 01_")
    assert f"jupyter lab {folder}" in out
    assert main(["tutorials", "--out", str(folder)]) == 0  # nothing has changed


def test_tutorials_keeps_what_a_learner_has_written(tmp_path, capsys):
    folder = tmp_path / "course"
    main(["tutorials", "--out", str(folder)])
    first, *others = sorted(folder.glob("*.ipynb"))
    first.write_text("my solution")
    for other in others:
        other.unlink()
    assert main(["tutorials", "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"got {str(folder)!r} with {first.name}: keep them by another --out" in error
    assert first.read_text() == "my solution"
    assert list(folder.glob("*.ipynb")) == [first]  # nothing half done
    assert main(["tutorials", "--out", str(folder), "--overwrite"]) == 0
    assert first.read_text() != "my solution"


def test_tutorials_says_what_to_install_where_jupyter_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tutorials", "--out", str(tmp_path)]) == 0
    assert "-m pip install jupyterlab, then jupyter lab" in capsys.readouterr().out
