"""The benchmarks: the frame works and the checks have teeth. Nothing here asserts a time."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks import (
    cases,
    checks,
    cifar,
    contenders,
    field,
    report,
    roofline,
    shapes,
    startup,
    steps,
    tasks,
    worker,
)
from benchmarks.harness import (
    THREADS,
    MissingContenderError,
    Seat,
    Worker,
    WorkerError,
    environment,
)
from minires.cli import bench
from minires.cli import main as minires
from minires.data import Dataset
from minires.ops import fast, reference
from minires.runs import RECIPES

FOLDER = Path(benchmarks.__file__).parent
SMALL = ["--model", "resnet8", "--input-shape", "8,8,1", "--batch", "2"]
TURNS = ["--rounds", "2", "--burst", "1", "--threads", "1"]
REFERENCE = ["--contenders", "minires-reference"]
RUNS = {
    "train_step": [*SMALL, *TURNS],
    "inference": [*SMALL, *TURNS],
    "ops": ["--only", "dense, 64", "--batch", "2", *TURNS],
    "shapes": ["--count", "2", "--seed", "4", *TURNS],
    "memory": [*SMALL, "--steps", "1"],
    "startup": [*SMALL, "--rounds", "1"],
    "scaling": ["--axis", "batch", "--values", "1,2", *TURNS],
}

# answers `work` with times, or fails as it is told on the command line
DUMMY = """
import json, os, sys
how = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    if how == "dies":
        print("the last words", file=sys.stderr)
        os._exit(3)
    if how == "babbles":
        print("not JSON", flush=True)
        continue
    answers = {
        "works": {"answer": [float(sys.argv[2])] * request.get("times", 1)},
        "fails": {"error": "ValueError: no"},
        "lacks": {"missing": "nothing to run"},
    }
    print(json.dumps(answers[how]), flush=True)
"""


SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def dummy(tmp_path):
    """A function that starts a dummy contender."""
    script = tmp_path / "dummy.py"
    script.write_text(DUMMY)

    def start(name, how="works", seconds=1.0):
        return Worker(name, command=(sys.executable, str(script), how, str(seconds)))

    return start


def run(name, *arguments):
    """The exit code of a benchmark."""
    return importlib.import_module(f"benchmarks.{name}").main(list(arguments))


# ---- the harness


def test_a_worker_answers(dummy):
    with dummy("a", seconds=0.5) as worker:
        assert worker.ask("work", times=3) == [0.5, 0.5, 0.5]
    assert worker.process.returncode == 0


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("dies", WorkerError, "gave no answer to 'work' and ended with code 3: the last words"),
        ("babbles", WorkerError, "gave no answer to 'work'"),
        ("fails", WorkerError, "ValueError: no"),
        ("lacks", MissingContenderError, "nothing to run"),
    ],
)
def test_a_worker_that_gives_no_answer_says_why(dummy, how, error, text):
    with dummy("a", how) as worker, pytest.raises(error, match=text):
        worker.ask("work")
    assert worker.process.poll() is not None


def test_who_is_missing_or_fails_drops_out_and_the_others_go_on(dummy, capsys):
    how = {"good": "works", "absent": "lacks", "bad": "dies"}
    with field.Field(list(how), lambda name: dummy(name, how[name])) as runners:
        seconds = field.alternate(runners, "work", rounds=3, burst=2)
    assert seconds == {"good": [1.0] * 6}
    assert runners.skipped == {"absent": "nothing to run"}
    assert "the last words" in runners.failed["bad"]
    assert "absent: skipped, nothing to run\n" in capsys.readouterr().err


def test_contenders_take_turns_and_each_leads():
    turns = []

    class Runner(Seat):
        def ask(self, do, times):
            turns.append((self.name, times))
            return list(range(times))

    with field.Field(["a", "b"], Runner) as runners:
        seconds = field.alternate(runners, "work", rounds=2, burst=3, warmup=1)
    assert turns == [("a", 1), ("b", 1), ("a", 4), ("b", 4), ("b", 4), ("a", 4)]
    assert seconds == {"a": [1, 2, 3, 1, 2, 3], "b": [1, 2, 3, 1, 2, 3]}  # never the first


def test_ratios_refer_to_the_best_peer():
    rows, best = field.compare({"minires": [1, 2, 9], "torch-a": [8, 8], "torch-b": [4, 4]})
    assert best == "torch-b"
    assert [row["median"] for row in rows] == [2, 8, 4]
    assert [row["least"] for row in rows] == [1, 8, 4]
    assert [row["ratio"] for row in rows] == [2, 0.5, 1]
    assert field.compare({}) == ([], "")
    assert field.compare({"minires": [1], "other": [2]})[1] == "minires"


def test_the_environment_sets_threads_and_malloc(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    kept, plain = environment(3, NUMBA_CACHE_DIR="x"), environment(3, keep_memory=False)
    assert {kept[name] for name in THREADS} == {"3"}
    assert kept["NUMBA_CACHE_DIR"] == "x"
    assert kept["MALLOC_TRIM_THRESHOLD_"] == "2000000000"
    assert not any(name.startswith("MALLOC_") for name in plain)


def test_libraries_that_print_do_not_get_between_the_answers():
    lines = '{"do": "load", "contender": "minires-reference"}\n{"do": "nothing"}\n'
    command = [sys.executable, "-m", "benchmarks.worker"]
    options = {"cwd": FOLDER.parent, "capture_output": True, "text": True, "check": True}
    out = subprocess.run(command, input=lines, **options).stdout.splitlines()
    assert json.loads(out[0])["answer"] > 0
    assert json.loads(out[1])["error"].startswith("AttributeError")


def test_what_is_not_there_is_missing():
    with pytest.raises(MissingContenderError, match="not installed"):
        contenders.require("no_such_module", "it is not installed")


def test_only_worker_processes_import_torch():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "torch" for name in names):
                assert path.name in ("peers.py", "theirs.py", "their_training.py")


def test_the_peak_of_memory_is_plausible():
    assert 1e6 < worker.peak_bytes() < 1e12


# ---- the checks


def good():
    rng = np.random.default_rng(0)
    return {"logits": rng.standard_normal((4, 3)), "grad:w": rng.standard_normal(5)}


def test_equal_results_have_no_error():
    assert checks.compare(good(), good()) == {"logits": 0, "grad:w": 0}


def test_errors_are_told_apart_and_an_absent_one_is_no_zero(monkeypatch):
    got = good() | {"grad:w": 1.01 * good()["grad:w"]}
    monkeypatch.setattr(checks, "results", lambda worker, what: got)
    outputs, gradients = checks.checked(Seat("a"), good())
    assert outputs == 0
    assert gradients == pytest.approx(0.01)
    got = {"logits": good()["logits"]}
    assert checks.checked(Seat("a"), got, "infer") == [0, None]
    assert report.error_pair([1e-7, None]) == "1e-07 / -"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda got: got.pop("grad:w"),
        lambda got: got.update(more=np.zeros(1)),
        lambda got: got.update({"grad:w": np.zeros(5)}),
        lambda got: got.update({"grad:w": 2 * got["grad:w"]}),
        lambda got: got.update({"grad:w": got["grad:w"][::-1]}),
        lambda got: got.update(logits=got["logits"].T),
        lambda got: got.update(logits=got["logits"] * np.nan),
    ],
    ids=["left out", "too many", "zeros", "twice", "turned around", "transposed", "NaN"],
)
def test_a_wrong_result_is_refused(spoil, monkeypatch):
    got = good()
    spoil(got)
    monkeypatch.setattr(checks, "results", lambda worker, what: got)
    with pytest.raises(WorkerError, match="a wrong result"):
        checks.checked(Seat("a"), good())


def test_a_gradient_of_mere_rounding_is_no_error():
    expected = good() | {"grad:bias": np.full(3, 1e-17)}
    rounding, real = (expected | {"grad:bias": np.full(3, size)} for size in (-1e-8, 0.1))
    assert checks.compare(rounding, expected)["grad:bias"] < 1e-3
    assert checks.compare(real, expected)["grad:bias"] > 1


def test_every_case_runs_and_agrees_with_float64():
    from benchmarks.ours import Op

    for case in cases.cases(1):
        small = case | {"x": [2, 7, 6, case["x"][-1]] if len(case["x"]) == 4 else case["x"]}
        got = Op("minires-reference", small).results("train")
        expected = Op("minires-reference", small, dtype="float64").results("train")
        assert set(got) >= {"y", "grad:x"}
        assert max(checks.compare(got, expected).values()) < 1e-6


def test_the_work_of_an_op_is_counted_by_hand():
    conv = cases.conv(2, 8, 8, 3, 5, K=3, stride=2)
    assert cases.work(conv) == ("GF/s", 2 * (2 * 4 * 4) * (3 * 3 * 3) * 5, 4 * 32 * 27 * 5)
    assert cases.work(cases.relu(1, 2, 2, 3)) == ("GB/s", 4 * 24, 4 * 36)
    assert cases.work(cases.dense(4, 6, 5)) == ("GF/s", 2 * 4 * 6 * 5, 4 * 4 * 6 * 5)


def test_the_network_is_the_same_for_everybody():
    first, second = (
        tasks.state(tasks.network("resnet8", {"input_shape": [8, 8, 1]})) for _ in range(2)
    )
    assert "stage2.block0.sum.branch.norm1.running_var" in first
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path])


# ---- the commands


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_prints_a_table_and_writes_json(name, tmp_path, capsys):
    file = tmp_path / "out.json"
    assert run(name, *RUNS[name], *REFERENCE, "--json", str(file)) == 0
    out, err = capsys.readouterr()
    assert "\nminires-reference  " in out or "  minires-reference  " in out
    assert "cores" in out
    assert err == ""  # no progress bar where nobody watches
    content = json.loads(file.read_text())
    assert content["benchmark"] == name
    assert content["command"].startswith(f"python -m benchmarks.{name} ")
    assert content["versions"].keys() >= {"minires", "numpy"}
    assert content["options"]["contenders"] == ["minires-reference"]
    assert {row["name"] for row in content["rows"]} == {"minires-reference"}
    assert content["machine"]["cores"] >= 1


def test_the_roofline_measures_all_versions_and_draws_them(tmp_path, capsys):
    figure, file = tmp_path / "roofline.png", tmp_path / "out.json"
    more = ["--batch", "4", "--figure", str(figure), "--json", str(file)]
    assert run("roofline", *more, *TURNS) == 0
    rows = json.loads(file.read_text())["rows"]
    names = ["im2col + BLAS", "seven loops", "register tiles", "Winograd"]
    for what in ("conv 3x3, 32x32, 16", "conv 3x3, 16x16, 32", "conv 3x3, 8x8, 64"):
        assert [row["version"] for row in rows if row["what"] == what] == names
    assert next(row["version"] for row in rows if row["what"] == "roof") == "matrix product"
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "GF/s by our register tiles" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [np.nan, 1.001], ids=["NaN", "one image is off"])
@pytest.mark.parametrize("op", ["conv2d", "batchnorm", "relu"])
def test_the_roofline_refuses_a_wrong_version(op, spoil, monkeypatch, capsys):
    module = reference if op == "conv2d" else fast
    right = getattr(module, f"{op}_forward")

    def wrong(x, *more, **options):
        y, *cache = right(x, *more, **options)
        if x.dtype == np.float32:
            y[-1] *= spoil
        return y, *cache

    monkeypatch.setattr(module, f"{op}_forward", wrong)
    monkeypatch.setattr(roofline, "SHAPES", ((8, 4),))
    monkeypatch.setattr(roofline, "seconds", lambda function, options: [1.0])
    assert run("roofline", "--batch", "6", *TURNS) == 1
    err = capsys.readouterr().err
    assert "to be right, got an error of" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["roofline", "recorder"])
def test_what_measures_the_fast_ops_wants_a_compiler(name, monkeypatch, capsys):
    monkeypatch.setattr(fast, "compiles", lambda: False)
    assert run(name, *TURNS) == 2
    assert "expected a Numba that compiles" in capsys.readouterr().err


def test_fast_contenders_are_skipped_where_nothing_compiles(monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert run("ops", *RUNS["ops"], "--contenders", "minires-fast") == 0
    assert "minires-fast: skipped, Numba is not installed, or told" in capsys.readouterr().out


def test_the_versions_name_numba_where_the_fast_ops_ran(tmp_path):
    file = tmp_path / "out.json"
    assert run("ops", *RUNS["ops"], "--contenders", "minires-fast", "--json", str(file)) == 0
    assert "numba" in json.loads(file.read_text())["versions"]


def test_minires_reference_runs_the_readable_adam():
    from benchmarks.ours import Network

    made = Network("minires-reference", "resnet8", {}, 1)
    assert made.optimizer.ops is reference
    assert made.loss.ops is reference


@pytest.mark.parametrize("padding", [[[1, 1], [2, 2]], [[0, 1], [2, 1]]], ids=["alike", "not"])
@pytest.mark.parametrize("name", ["torch-eager", "torch-channels-last"])
def test_pytorch_pads_both_sides_of_an_image_as_asked(name, padding):
    pytest.importorskip("torch", reason="PyTorch is a peer of benchmarks, and optional")
    from benchmarks import ours, theirs

    case = {"op": "conv2d", "x": [2, 5, 6, 3], "weight": [3, 2, 3, 4]}
    case |= {"stride": [2, 1], "padding": padding}
    expected = ours.Op("minires-reference", case, dtype="float64").results("train")
    found = checks.compare(theirs.Op(name, case).results("train"), expected)
    assert max(found.values()) < 1e-5


def test_shapes_name_who_was_compared():
    rows = [
        {"name": "a", "measure": "a", "ratio": 1},
        {"name": "b", "measure": "a", "ratio": 0.5},
        {"name": "b", "measure": "b", "ratio": 1},  # a has failed
        {"name": "c", "measure": "b", "ratio": 2},
    ]
    first, second = shapes.notes(rows)
    assert first.startswith("b: 0.50 times as fast as a in the median; of 1 passes 1 are slower")
    assert second.startswith("c: 2.00 times as fast as b in the median; of 1 passes 0 are slower")


def test_shapes_whose_contenders_all_fail_end_with_code_1(monkeypatch, capsys):
    def wrong(worker, expected, case):
        raise WorkerError("a wrong result: y")

    monkeypatch.setattr(shapes, "checked_op", wrong)
    assert run("shapes", *RUNS["shapes"], *REFERENCE) == 1
    assert "minires-reference: FAILED, a wrong result: y" in capsys.readouterr().out


def test_startup_lets_pytorch_start_without_minires():
    asked = {}

    class Recorded(Seat):
        def ask(self, do, **arguments):
            asked[do] = arguments
            return [1.0] * 4 if do == "train" else {} if do == "versions" else 1.0

    startup.first_step(Recorded("torch-eager"), {"model": "resnet8"}, {})
    assert asked["build"] == {"model": "resnet8", "own_weights": True}


def test_the_recorder_is_timed_in_three_ways(tmp_path, capsys):
    file = tmp_path / "out.json"
    assert run("recorder", "--model", "resnet8", "--batch", "4", "--json", str(file), *TURNS) == 0
    rows = json.loads(file.read_text())["rows"]
    names = ["no recorder", "recorder, step not recorded", "recorder, step recorded"]
    assert [row["way"] for row in rows] == names
    assert all(second > 0 for row in rows for second in row["seconds"])
    assert rows[0]["more"] == 0


def noise(count=40):
    """A Dataset of the size of CIFAR's images."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 10, count)
    return Dataset(x, y, x[:10], y[:10], tuple("abcdefghij"), "noise")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fast20", {"lr": 0.02}),
        ("fast20", {"lr": 0.02, "optimizer_options": {"radius": 0.7, "weight_decay": 0.02}}),
        ("he2015", {"lr": 0.01}),
        ("adam", {"lr": 1e-4}),
    ],
)
def test_one_recipe_trains_the_same_network_in_minires_and_in_pytorch(name, changes):
    torch = pytest.importorskip("torch", reason="PyTorch is a peer of benchmarks, and optional")
    from benchmarks import our_training, their_training
    from benchmarks.theirs import their_path, to_torch

    recipe = RECIPES[name].changed(epochs=2, batch_size=20, **changes)
    given = "resnet8", recipe, noise(), 3
    ours = our_training.Training("minires", *given)
    ours.run()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs = their_training.Training("torch-eager", *given)
        theirs.run()
    finally:
        torch.set_num_threads(before)
    found = theirs.net.state_dict()
    for path, array in tasks.state(ours.trainer.model).items():
        assert torch.allclose(to_torch(array), found[their_path(path)].detach(), atol=2e-4), path
    assert theirs.error == pytest.approx(ours.error, abs=0.11)  # one image of ten


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(("decay", "groups"), [("all", [0.1] * 3), ("weights", [0.1, 0.1, 0])])
def test_pytorch_updates_parameters_of_one_kind_in_one_call(name, decay, groups):
    pytest.importorskip("torch", reason="PyTorch is a peer of benchmarks, and optional")
    from benchmarks import peers, their_training

    options = {"weight_decay": 0.1, "decay": decay}
    recipe = RECIPES["adam"].changed(optimizer=name, optimizer_options=options)
    made = their_training.make_optimizer(peers.build("resnet8", {}), recipe).optimizer
    assert [group["weight_decay"] for group in made.param_groups] == groups
    assert all(group["fused"] for group in made.param_groups)


TRIAL = ["--model", "resnet8", "--recipe", "adam", "--epochs", "1", "--threads", "1"]


@pytest.fixture
def trainings(monkeypatch):
    """Workers of `cifar` that answer at once, or raise what the list says for the next run."""
    outcomes = []

    class Fast(Worker):
        def __init__(self, name, env):
            assert env["OMP_NUM_THREADS"] == "1"
            assert "MALLOC_MMAP_THRESHOLD_" in env
            super().__init__(name, env, (sys.executable, "-c", "input()"))

        def ask(self, do, **arguments):
            if do == "versions":
                return {"minires": "0"}
            error = outcomes.pop(0) if do == "course" and outcomes else None
            if error is not None:
                raise error
            seconds = 10.0 if self.name == "minires" else 20.0
            return {"test_error": 0.25, "seconds": seconds} if do == "course" else 0

    monkeypatch.setattr(cifar, "load_cifar10", lambda root: noise())
    monkeypatch.setattr(cifar, "Worker", Fast)
    return outcomes


def test_cifar_trains_in_a_process_of_its_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cifar, "load_cifar10", lambda root: noise())
    file = tmp_path / "out.json"
    more = ["--contenders", "minires", "--seeds", "1", "--images", "8", "--json", str(file)]
    assert run("cifar", *TRIAL, *more) == 0
    out = capsys.readouterr().out
    assert "resnet8 on noise, 8 training images, recipe adam, epochs=1" in out
    assert "not of imports" in out
    content = json.loads(file.read_text())
    assert [row["seed"] for row in content["rows"]] == [0]
    assert content["versions"].keys() >= {"minires", "numba"}


def test_cifar_says_how_many_times_as_fast_minires_is(trainings, capsys):
    assert run("cifar", *TRIAL, "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "times as fast" in next(line for line in lines if line.startswith("contender"))
    assert next(line for line in lines if line.startswith("minires  ")).split()[-1] == "2.00"


@pytest.mark.parametrize(
    ("third", "code", "done", "text"),
    [
        (WorkerError("gave no answer"), 1, 5, "torch-eager: failed, gave no answer"),
        (KeyboardInterrupt(), 130, 3, "error: interrupted"),
    ],
    ids=["killed", "interrupted"],
)
def test_a_comparison_that_is_cut_short_keeps_the_runs_that_are_done(
    third, code, done, text, trainings, tmp_path, capsys
):
    file = tmp_path / "out.json"
    trainings += [None, None, None, third]
    more = ["--seeds", "4", "--contenders", "minires,torch-eager,minires", "--json", str(file)]
    assert run("cifar", *TRIAL, *more) == code
    assert len(json.loads(file.read_text())["rows"]) == done
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_cifar_without_images_names_the_option_that_it_has(monkeypatch, capsys):
    def nowhere(root):
        raise FileNotFoundError("nowhere")

    monkeypatch.setattr(cifar, "load_cifar10", nowhere)
    assert run("cifar") == 2
    assert "nowhere (on this command line: --data-root DIR)\n" in capsys.readouterr().err


def test_cifar_refuses_what_does_not_fit_before_anything_is_trained(trainings, capsys):
    article = ["--model", "article_resnet", "--recipe", "short", "--images", "20"]
    assert run("cifar", *article) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Dense expects x of shape (N, 1600)" in err


def test_cifar_finds_out_before_it_trains_that_pytorch_is_missing(trainings, monkeypatch, capsys):
    ask = cifar.Worker.ask

    def lacking(worker, do, **arguments):
        if do == "load" and worker.name.startswith("torch"):
            raise MissingContenderError("PyTorch is not installed")
        return ask(worker, do, **arguments)

    monkeypatch.setattr(cifar.Worker, "ask", lacking)
    assert run("cifar", *TRIAL, "--seeds", "1") == 0
    out, err = capsys.readouterr()
    assert "torch-eager: skipped, PyTorch is not installed" in out
    assert "minires, seed 0: 25.00 %" in out.replace("%", " %")
    assert err.count("skipped") == 2


def test_an_interrupt_ends_a_worker_in_the_midst_of_its_work():
    with pytest.raises(KeyboardInterrupt), Worker("a", None, (sys.executable, "-c", SLEEP)) as it:
        raise KeyboardInterrupt
    assert it.process.returncode == -9


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "minires.py").write_text("raise KeyboardInterrupt\n")  # as if it came then
    command = [sys.executable, "-m", "benchmarks.train_step"]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{FOLDER.parent}"}
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.returncode == 130
    assert found.stderr == "python -m benchmarks: error: interrupted\n"


@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_help_fits_a_screen_and_shows_an_example(name, capsys):
    assert run(name, "--help") == 0
    out = capsys.readouterr().out
    assert f"example: python -m benchmarks.{name} --" in out
    assert len(out.splitlines()) <= 32


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train_step", "--batch", "0"], "expected an integer >= 1, got '0'"),
        (["train_step", "--contenders", "jax"], "got 'jax'"),
        (["train_step", "--model", "vgg"], "invalid choice: 'vgg'"),
        (["train_step", "--input-shape", "8,8"], "input_shape (H, W, C), got (8, 8)"),
        (["train_step", "--json", "no/such/folder/x.json"], "expected a file to write to"),
        (["inference", "--model", "article_resnet", "--input-shape", "9,9,3"], "at least 13x13"),
        (["ops", "--only", "fft"], "got 'fft'"),
        (["roofline", "--figure", "no/such/folder/x.png"], "expected a place to write to"),
        (["roofline", "--figure", "roofline"], "a file that ends in .png, .svg, .pdf, got 'roofl"),
        (["roofline", "--figure", "roofline.xyz"], "got 'roofline.xyz'"),
        (["ops", "--contenders", "torch-compile"], "torch-channels-last, got 'torch-compile'"),
        (["shapes", "--contenders", "minires-fused"], "got 'minires-fused'"),
        (["shapes", "--seed", "-1"], "argument --seed: expected an integer >= 0, got '-1'"),
        (["scaling", "--axis", "batch", "--batch", "7"], "--axis batch, got --batch 7"),
        (["scaling", "--axis", "threads", "--threads", "1"], "--values V,... with --axis threads"),
        (["scaling", "--axis", "colour"], "invalid choice: 'colour'"),
        (
            ["scaling", "--axis", "depth", "--values", "9"],
            "44, 56, 110), got 9",
        ),
        (["memory", "--what", "dream"], "invalid choice: 'dream'"),
        (["cifar", "--model", "resnet18"], "invalid choice: 'resnet18'"),
        (
            ["cifar", "--contenders", "torch-compile"],
            "minires,torch-channels-last,torch-eager, got",
        ),
        (["cifar", "--threads", "0"], "expected an integer >= 1, got '0'"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(arguments, text, capsys):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


def test_a_wrong_contender_is_reported_and_the_exit_code_is_1(monkeypatch, capsys):
    def wrong(worker, expected, what):
        raise WorkerError("a wrong result: logits")

    monkeypatch.setattr(steps, "checked", wrong)
    assert run("inference", *RUNS["inference"], *REFERENCE) == 1
    assert "minires-reference: FAILED, a wrong result: logits" in capsys.readouterr().out


def test_minires_bench_runs_the_same(capsys):
    assert minires(["bench", "ops", *RUNS["ops"], *REFERENCE]) == 0
    assert "dense, 64->10" in capsys.readouterr().out
    assert minires(["bench", "ops", "--help"]) == 0
    assert "usage: minires bench ops" in capsys.readouterr().out
    assert minires(["bench", "opps"]) == 2
    assert "bench expects one of train_step, " in capsys.readouterr().err


def test_minires_bench_says_where_to_get_the_benchmarks(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench.minires, "__file__", str(tmp_path / "minires" / "__init__.py"))
    assert minires(["bench", "ops"]) == 2
    err = capsys.readouterr().err
    assert "run it inside a checkout" in err
    assert err.count("\n") == 1


def test_a_report_without_timings_says_so():
    empty = report.Report("title", ("a",), [], [], failed={"x": "broke"})
    assert "no timings" in str(empty)
    assert "x: FAILED, broke" in str(empty)


def test_a_busy_machine_is_said_to_be_busy(monkeypatch):
    monkeypatch.setattr(report.os, "getloadavg", lambda: (99.0, 0, 0), raising=False)
    assert "a load of 99.0" in report.busy()[0]
    monkeypatch.setattr(report.os, "getloadavg", lambda: (0.0, 0, 0), raising=False)
    assert report.busy() == []
