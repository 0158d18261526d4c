"""Recipes, and training that goes on bit by bit after any interruption."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import minires as mr
from minires.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from minires.cli import main
from minires.cli.streams import Lenient
from minires.cli.train import warn_of_many_epochs, warn_of_missing_warm_up
from minires.data import Dataset
from minires.data.augment import shrink
from minires.ops.fast import compiles
from minires.runs import (
    RECIPES,
    Recipe,
    Run,
    Settings,
    StopRequest,
    Trainer,
    begin,
    open_saved,
    resume,
)
from minires.runs.lock import LOCK, alone, take
from minires.runs.results import Results
from minires.runs.run import WRITTEN, origin
from minires.runs.stop import Terminated
from minires.runs.trainer import order
from minires.state import model_state, optimizer_state

FAST = ["--model", "resnet8", "--data", "images", "--epochs", "2", "--batch-size", "16"]  # 6 steps


def write_images(folder, count=20, size=8, names=("cat", "dog", "a fox")):
    """A folder of images, each class with a colour of its own; a fifth of them is to test."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 200, (size, size, 3), dtype=np.uint8)
            image[..., k % 3] += 40
            Image.fromarray(image).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory):
    """The folder `images` that FAST names, in the folder that the tests run in."""
    before = Path.cwd()
    place = tmp_path_factory.mktemp("place")
    write_images(place / "images")
    os.chdir(place)
    yield place / "images"
    os.chdir(before)


def small_data(count=60, size=8, dtype=np.uint8):
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    y = rng.permutation(np.arange(count) % 3)
    x[y == 1] //= 2  # darker, so that there is something to learn
    x = x if dtype == np.uint8 else x.astype(dtype) / 255
    return Dataset(x, y, x[:20], y[:20], ("a", "b", "c"), "noise")


def small_recipe(**changes):
    values = {
        "name": "small",
        "version": 1,
        "source": "none",
        "epochs": 3,
        "batch_size": 16,
        "optimizer": "sgd",
        "lr": 0.05,
        "optimizer_options": {"momentum": 0.9, "weight_decay": 1e-3},
        "schedule": "one-cycle",
        "label_smoothing": 0.1,
        "normalize": "channels",
        "pad": 1,
        "flip": True,
        "cutout": 2,
    }
    return Recipe(**values | changes)


def small_trainer(recipe=None, data=None, seed=0):
    model = mr.Sequential(
        mr.Conv2d(3, 4, 3, padding=1, rng=1),
        mr.BatchNorm2d(4),
        mr.ReLU(),
        mr.Dropout(0.3, rng=2),
        mr.GlobalAvgPool2d(),
        mr.Dense(4, 3, rng=3),
    )
    return Trainer(model, data or small_data(), recipe or small_recipe(), seed=seed)


def finish(trainer, steps=None):
    """Train to the end, or for a number of steps."""
    while not trainer.finished and steps != 0:
        for _ in trainer.steps():
            steps = None if steps is None else steps - 1
            if steps == 0:
                return trainer
        trainer.end_epoch()
    return trainer


def all_state(trainer):
    return model_state(trainer.model) | optimizer_state(trainer.optimizer)


def assert_same(one, other):
    a, b = all_state(one), all_state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert_array_equal(a[name], b[name], err_msg=name)
    assert timeless(one.history.rows()) == timeless(other.history.rows())


def timeless(rows):
    """What has to be the same when a history is measured again."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# ---- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_he2015_is_the_recipe_of_the_paper():
    recipe = RECIPES["he2015"]
    model = mr.models.resnet8(rng=0)
    optimizer = recipe.make_optimizer(model)
    assert isinstance(optimizer, mr.SGD)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == (0.9, 1e-4, False)
    assert optimizer.decay == "all"
    schedule = recipe.make_schedule(recipe.total_steps(391))
    rates = [schedule(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert recipe.total_steps(391) == 64_000
    assert (recipe.batch_size, recipe.label_smoothing, recipe.progressive) == (128, 0, None)
    data = small_data()
    made = recipe.make_preprocess(data.x_train, seed=0)
    assert (made.pad, made.flip, made.cutout) == (4, True, 0)
    np.testing.assert_allclose(made.mean, data.x_train.mean(axis=0), rtol=1e-6)  # of each pixel
    assert len(set(made.scale.tolist())) == 1  # nothing but a change of units


def test_a_warm_up_of_the_paper_that_the_recipe_lacks_is_told_where_it_counts(capsys):
    he2015 = RECIPES["he2015"]
    warn_of_missing_warm_up(Settings("resnet110", "digits", he2015.changed(epochs=3)))
    said = capsys.readouterr().err
    assert "he2015 has no warm-up: the paper trained ResNet-110 at a learning rate of 0.01" in said
    assert said.count("\n") == 1
    warn_of_missing_warm_up(Settings("resnet56", "digits", he2015))
    warn_of_missing_warm_up(Settings("resnet110", "digits", he2015.changed(lr=0.01)))
    warn_of_missing_warm_up(Settings("resnet110", "digits", RECIPES["adam"]))
    assert capsys.readouterr().err == ""


def test_steps_that_are_many_epochs_of_few_images_are_told(capsys):
    data, model = (
        mr.data.load_shapes(40, 10, size=8),
        mr.models.resnet8(input_shape=(8, 8, 3), rng=0),
    )
    warn_of_many_epochs(Trainer(model, data, RECIPES["he2015"]))
    said = capsys.readouterr().err
    assert "he2015 takes 64,000 steps, 64,000 epochs of these 40 images; --epochs makes" in said
    for recipe in (RECIPES["he2015"].changed(epochs=3), RECIPES["adam"]):
        warn_of_many_epochs(Trainer(model, data, recipe))
    assert capsys.readouterr().err == ""


def test_the_articles_recipe_is_kerass_adam():
    optimizer = RECIPES["article"].make_optimizer(mr.models.resnet8(rng=0))
    assert (type(optimizer), optimizer.lr, optimizer.eps) == (mr.Adam, 1e-3, 1e-7)
    assert RECIPES["article"].batch_size == 32


def test_a_changed_recipe_says_so_in_its_name():
    recipe = RECIPES["he2015"]
    assert recipe.changed(lr=0.1) is recipe
    changed = recipe.changed(epochs=3, optimizer_options={"momentum": 0.5})
    assert changed.name == "he2015, epochs=3, momentum=0.5, weight_decay=0.0"
    assert (changed.epochs, changed.steps) == (3, None)
    assert recipe.steps == 64_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": None}, "either epochs or steps, got neither"),
        ({"steps": 5}, "either epochs or steps, got ['epochs', 'steps']"),
        ({"batch_size": 0}, "batch_size to be an integer >= 1, got 0"),
        ({"optimizer": "lion"}, "one of 'adam', 'adamw', 'muon', 'sgd', got 'lion'"),
        ({"schedule": "random"}, "schedule to be one of"),
        ({"lr": -1}, "lr to be a number >= 0, got -1"),
        ({"label_smoothing": 1}, "label_smoothing to be a number >= 0 and < 1, got 1"),
        ({"flip": 1}, 'flip (or "alternate") to be True or False, got 1'),
        ({"progressive": 0.5}, "progressive as {'scale': s, 'share': t}, got 0.5"),
        ({"progressive": {"scale": 2, "share": 0.5}}, "scale to be a number <= 1 and > 0, got 2"),
        ({"normalize": "yes"}, "normalize to be one of"),
        ({"optimizer_options": {"speed": 3}}, "optimizer_options of SGD out of ['momentum'"),
        ({"schedule": "step"}, "schedule_options of Step out of ['milestones', 'factor'], got []"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, words):
    with pytest.raises(ValueError, match="Recipe expects") as error:
        small_recipe(**wrong)
    assert words in str(error.value)


def test_a_recipe_with_missing_or_unknown_names_is_refused():
    values = RECIPES["adam"].as_dict()
    for wrong in (values | {"speed": 3}, {k: v for k, v in values.items() if k != "lr"}, None):
        with pytest.raises(ValueError, match="Recipe expects exactly"):
            Recipe.from_dict(wrong)


def test_label_smoothing_is_refused_where_the_model_gives_probabilities():
    model = mr.Sequential(mr.Flatten(), mr.Dense(192, 3, rng=0), mr.Softmax())
    with pytest.raises(ValueError, match="expects a model that gives logits"):
        Trainer(model, small_data(), small_recipe())
    finish(Trainer(model, small_data(), small_recipe(label_smoothing=0.0, epochs=1)))


# ---- the trainer


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_trainer_learns_and_repeats_with_its_seed(dtype):
    data = small_data(dtype=dtype)
    recipe = small_recipe(epochs=20, normalize=None)
    runs = [finish(small_trainer(recipe, data, seed=seed)) for seed in (0, 0, 1)]
    assert_same(*runs[:2])
    assert runs[0].history[-1].loss != runs[2].history[-1].loss
    assert runs[0].history[-1].loss < runs[0].history[0].loss


MUON = {
    "optimizer": "muon",
    "lr": 0.02,
    "optimizer_options": {"weight_decay": 5e-3},
    "flip": "alternate",
    "progressive": {"scale": 0.75, "share": 0.5},
}
ADAM = {"optimizer": "adam", "lr": 1e-2, "optimizer_options": {}, "schedule": "cosine"}


@pytest.mark.parametrize(
    ("changes", "steps"),
    [*(({}, steps) for steps in range(1, 13)), *((c, s) for c in (MUON, ADAM) for s in (1, 4, 6))],
)
def test_after_any_step_a_new_process_could_go_on_bit_by_bit(changes, steps, tmp_path):
    recipe = small_recipe(**changes)
    whole = finish(small_trainer(recipe))
    assert whole.step == whole.total == 12
    data, settings = small_data(), Settings("resnet8", "noise", recipe)
    first = begin(tmp_path, settings, data)
    first.trainer = finish(small_trainer(recipe), steps)
    first.save()
    second = Run(tmp_path, settings, data)
    second.trainer = small_trainer(recipe)
    second.load(load_checkpoint(tmp_path / "checkpoint.npz"))
    assert second.trainer.step == steps
    assert_same(finish(second.trainer), whole)


def test_a_step_of_the_trainer_is_the_training_step_written_out():
    data = small_data()
    recipe = small_recipe(epochs=1)
    trainer = small_trainer(recipe, data, seed=4)
    twin = small_trainer(recipe, data, seed=4)
    model, optimizer = twin.model, twin.optimizer
    loss = mr.SoftmaxCrossEntropy(0.1)
    schedule = mr.schedules.OneCycle(0.05, 4)
    index = order(4, 0, 60)[:16]
    value = next(trainer.steps())
    optimizer.lr = schedule(0)
    x = twin.preprocess.training(data.x_train[index], index, 0)
    by_hand, _ = mr.train_step(mr.fuse(model), loss, optimizer, x, data.y_train[index])
    assert value == by_hand
    assert_same(trainer, twin)


def test_every_step_sees_its_images_as_its_own_epoch_changes_them(monkeypatch):
    trainer, seen = small_trainer(small_recipe(epochs=2)), []

    def spy(model, loss, optimizer, x, labels):
        seen.append(x.copy())
        return mr.train_step(model, loss, optimizer, x, labels)

    monkeypatch.setattr("minires.runs.trainer.train_step", spy)
    finish(trainer)
    parts = [(e, i) for e in range(2) for i in mr.data.split(order(0, e, 60), 16)]
    assert len(seen) == len(parts) == 8
    for x, (epoch, index) in zip(seen, parts, strict=True):
        wanted = trainer.preprocess.training(trainer.data.x_train[index], index, epoch)
        assert_array_equal(x, wanted)


def test_the_order_of_the_examples_is_another_in_every_epoch_and_for_every_seed():
    orders = [tuple(order(seed, epoch, 50)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(o) == list(range(50)) for o in orders)


def test_a_length_in_steps_ends_within_an_epoch():
    trainer = finish(small_trainer(small_recipe(epochs=None, steps=6)))
    assert [epoch.step for epoch in trainer.history] == [4, 6]
    assert trainer.finished
    assert trainer.history[1].test_accuracy is not None
    assert list(trainer.steps()) == []


def test_tests_are_made_as_often_as_the_recipe_says_and_at_the_end():
    trainer = finish(small_trainer(small_recipe(epochs=5, test_every=2)))
    measured = [epoch.test_loss is not None for epoch in trainer.history]
    assert measured == [False, True, False, True, True]
    x = trainer.preprocess(trainer.data.x_test)
    assert trainer.history[-1].test_loss == mr.evaluate(trainer.fast, x, trainer.data.y_test).loss


def test_progressive_training_begins_on_smaller_images_for_a_share_of_the_epochs():
    recipe = small_recipe(epochs=5, progressive={"scale": 0.75, "share": 0.5})
    trainer, seen = small_trainer(recipe), []
    whole = small_trainer(recipe.changed(progressive=None))
    while not trainer.finished:
        index = np.arange(4)
        seen.append(trainer.batch(index, len(seen))[0].shape[1:3])
        full = whole.preprocess.training(whole.data.x_train[:4], index, len(seen) - 1)
        assert_array_equal(trainer.batch(index, len(seen) - 1)[0], shrink(full, seen[-1]))
        for _ in trainer.steps():
            pass
        trainer.end_epoch()
    assert seen == [(6, 6), (6, 6), (8, 8), (8, 8), (8, 8)]
    assert trainer.history[0].test_loss is not None


def test_a_model_for_one_size_is_refused_before_the_first_step():
    model = mr.Sequential(mr.Flatten(), mr.Dense(192, 3, rng=0))
    recipe = small_recipe(progressive={"scale": 0.75, "share": 0.5})
    with pytest.raises(ValueError, match=r"\(N, 192\), got \(1, 108\)"):
        Trainer(model, small_data(), recipe)


def test_an_epoch_ends_after_its_last_step_and_not_before():
    trainer = small_trainer()
    with pytest.raises(RuntimeError, match="all steps of epoch 1 to be done, got step 0 of 12"):
        trainer.end_epoch()
    next(trainer.steps())
    with pytest.raises(RuntimeError, match="got step 1 of 12"):
        trainer.end_epoch()
    finish(trainer)
    with pytest.raises(RuntimeError, match="got step 12 of 12"):
        trainer.end_epoch()


def test_images_and_model_have_to_fit_before_the_first_step():
    model = mr.models.resnet8(2, input_shape=(8, 8, 3), rng=0)
    with pytest.raises(ValueError, match="label"):
        Trainer(model, small_data(), small_recipe())


# ---- results


def test_results_of_five_images():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45]])
    results = Results(probs, None, np.array([0, 1, 1, 0, 1]), ("a", "b"))
    assert results.error == 0.6
    np.testing.assert_allclose(results.standard_error, np.sqrt(0.6 * 0.4 / 5))
    assert_array_equal(results.confusion, [[1, 1], [2, 1]])
    assert_array_equal(results.mistakes(2), [3, 1])
    assert results.mirrored_error is None


# ---- the command


def run_cli(folder, *more):
    return main(["train", *FAST, "--out", str(folder), *more])


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run_cli(folder) == 0
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A folder with a finished run, for one test alone."""
    return shutil.copytree(finished_once, tmp_path / "run")


def test_train_writes_a_run_folder_and_repeats_with_its_seed(tmp_path, capsys):
    losses = []
    for name in ("a", "b"):
        options = "--model resnet8 --data images --epochs 1 --optimizer sgd --lr 0.05"
        more = "--weight-decay 1e-4 --schedule one-cycle --batch-size 16 --seed 3 --shortcut B"
        folder = tmp_path / name
        assert main(["train", *options.split(), *more.split(), "--out", str(folder)]) == 0
        assert {p.name for p in folder.iterdir()} - {"mistakes.png"} == {
            *("recipe.json", "results.json", "history.csv", "history.jsonl", "report.md"),
            *("curves.png", "confusion.png", "checkpoint.npz", "checkpoint.previous.npz"),
        }
        said = json.loads((folder / "recipe.json").read_text())
        assert (said["model"], said["seed"], said["recipe"]["lr"]) == ("resnet8", 3, 0.05)
        assert said["recipe"]["optimizer_options"] == {
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
            "decay": "all",
        }
        losses.append(json.loads((folder / "history.jsonl").read_text())["loss"])
    assert losses[0] == losses[1]
    out = capsys.readouterr().out
    assert "epoch 1: loss" in out
    assert re.search(r"test error \d+ % ± \d+ % \(binomial standard error, 12 images", out)


def test_the_report_says_what_was_measured_and_with_what(finished):
    text = (finished / "report.md").read_text()
    results = json.loads((finished / "results.json").read_text())
    assert f"**{100 * results['test_error']:.0f} % ± " in text  # one image of 12 is 8 %
    for words in ("images a second", "peak memory", "| 6 of 6 |", '"numpy"', '"processor"'):
        assert words in text
    for picture in re.findall(r"\((\w+\.png)\)", text):
        assert (finished / picture).stat().st_size > 5000
    names = "a fox", "cat", "dog"
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    confusion = np.array([row[2:-1] for row in rows if row[1].strip() in names], int)
    assert_array_equal(confusion.sum(axis=1), [4, 4, 4])
    assert confusion.sum() - np.trace(confusion) == round(12 * results["test_error"])


def test_a_folder_with_a_run_is_not_written_over(finished, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert run_cli(finished, "--seed", "1") == 2
    assert "go on with it by --resume, replace it by --overwrite" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in finished.iterdir()}
    assert run_cli(finished, "--seed", "1", "--overwrite") == 0
    assert open_saved(finished).settings.seed == 1


def test_a_run_that_is_replaced_leaves_nothing_to_resume_or_to_read(finished):
    assert main(["train", *FAST, "--out", str(finished), "--overwrite", "--lr", "1e30"]) == 1
    assert {path.name for path in finished.iterdir()} == {"recipe.json", "checkpoint.npz"}
    saved = open_saved(finished)
    assert (saved.settings.recipe.lr, saved.checkpoint.meta["step"]) == (1e30, 0)


def test_a_run_that_has_not_come_to_a_step_yet_is_not_begun_by_another(tmp_path, capsys):
    settings = Settings("resnet8", "noise", small_recipe())
    begin(tmp_path, settings, small_data())
    assert run_cli(tmp_path) == 2
    assert "expected a folder without a run" in capsys.readouterr().err


def test_the_previous_checkpoint_alone_is_a_run_too(finished, capsys):
    (finished / "checkpoint.npz").unlink()
    assert run_cli(finished) == 2
    assert "expected a folder without a run" in capsys.readouterr().err


def test_the_first_step_of_a_process_which_may_compile_is_not_in_the_rate(finished):
    counted = json.loads((finished / "results.json").read_text())
    assert counted["images"] == 2 * 48 - 16
    assert counted["seconds"]["counted"] < counted["seconds"]["training"]


def test_a_nan_stops_in_one_line_and_leaves_the_checkpoint_of_before(finished, monkeypatch, capsys):
    """Of a run that is resumed at step 3 and breaks down at step 5."""
    path = finished / "checkpoint.npz"
    shutil.copy(finished / "checkpoint.previous.npz", path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "batch", spoilt(Trainer.batch, step=5))
        assert main(["train", "--resume", str(finished)]) == 1
    error = capsys.readouterr().err
    assert "training expects finite numbers" in error
    assert "at step 5" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before
    assert main(["train", "--resume", str(finished)]) == 0


def spoilt(batch, step):
    """`Trainer.batch` with a NaN in the images of one step, counted over two epochs of three."""
    calls = iter(range(4, 7))

    def spoilt_batch(self, index, epoch):
        x, labels = batch(self, index, epoch)
        return (x * np.float32(np.nan) if next(calls) == step else x), labels

    return spoilt_batch


def test_a_full_disk_while_training_is_told_in_one_line_and_nothing_is_lost(
    finished, monkeypatch, capsys
):
    path = finished / "checkpoint.npz"
    shutil.copy(finished / "checkpoint.previous.npz", path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minires.checkpoint.saving.write", full)
        assert main(["train", "--resume", str(finished)]) == 2
    error = capsys.readouterr().err
    assert f"save_checkpoint could not write {path} (No space left on device)" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before
    assert main(["train", "--resume", str(finished)]) == 0


def test_the_history_of_a_resumed_run_is_that_of_a_whole_one_but_for_the_seconds(finished):
    def measured():
        with (finished / "history.csv").open(newline="") as file:
            return timeless(csv.DictReader(file))

    whole = measured()
    shutil.copy(finished / "checkpoint.previous.npz", finished / "checkpoint.npz")
    assert main(["train", "--resume", str(finished)]) == 0
    assert measured() == whole
    assert [row["step"] for row in whole] == ["3", "6"]


def test_a_finished_run_resumes_to_its_report(finished, capsys):
    weights = load_checkpoint(finished / "checkpoint.npz")
    (finished / "report.md").unlink()
    assert main(["train", "--resume", str(finished)]) == 0
    assert (finished / "report.md").exists()
    again = load_checkpoint(finished / "checkpoint.npz")
    assert again.meta == weights.meta


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seed", "1"], "a run goes on as it was begun: expected resnet8 on /"),
        (
            ["--lr", "0.5"],
            "images, recipe adam, batch_size=16, epochs=2, lr=0.5 (version 1)",
        ),
        (["--model", "resnet20"], "got resnet20 on /"),
        (["--shortcut", "B"], "got resnet8, shortcut=B on /"),
        (["--ops", "reference"], "ops reference"),
        (["--image-size", "8,8"], "images 8x8, recipe"),
        (["--data", "digits"], "got resnet8 on digits"),
        (["--overwrite"], "either --resume or --overwrite, got both"),
        (["--out", "elsewhere"], "expected one folder, got --resume"),
        (["--out", ""], "expected --out to name a folder, got ''"),
        (["--resume", ""], "expected --resume to name a folder, got ''"),
    ],
)
def test_a_run_goes_on_as_it_was_begun(more, words, finished, capsys):
    capsys.readouterr()
    assert main(["train", "--resume", str(finished), *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_whole_command_with_resume_behind_it_goes_on(finished):
    assert run_cli(finished, "--resume") == 0


def test_one_folder_may_be_written_in_two_ways(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    assert main(["train", "--resume", "run", "--out", f"{finished}/"]) == 0


def test_resume_without_a_run_says_so(tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "checkpoint.npz" in error
    assert error.count("\n") == 1


def test_other_images_are_refused(tmp_path):
    data, settings = small_data(), Settings("resnet8", "noise", small_recipe(epochs=1))
    run = begin(tmp_path, settings, data)
    assert run.train()
    data.x_train[0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="expects the images that it was trained on so far"):
        resume(tmp_path, open_saved(tmp_path), data)


@pytest.mark.parametrize(
    ("meta", "arrays"),
    [
        ({"progress": []}, {}),
        ({"progress": {"history": [{"epoch": 1}]}}, {}),
        ({"progress": {"history": []}}, {}),
        ({"progress": {"count": 5}}, {}),
        ({"progress": {"seconds": []}}, {}),
        ({"data": None}, {}),
        ({"data": {"class_names": []}}, {}),
        ({"data": {"train": None}}, {}),
        ({"data": {"input_shape": "881"}}, {}),
        ({"data": {"dtype": "{"}}, {}),
        ({"origins": None}, {}),
        ({"origins": []}, {}),
        ({"origins": [{"versions": {}}]}, {}),
        ({"settings": {"recipe": {}}}, {}),
        ({"settings": {"model_options": []}}, {}),
        ({"settings": {"data": ["x"]}}, {}),
        ({"settings": {"seed": -1}}, {}),
        ({"settings": {"image_size": ["a", "b"]}}, {}),
        ({"step": 5}, {}),
        ({}, {"optimizer/Adam/steps": np.array(1000)}),
        ({}, {"preprocess/mean": np.zeros(7, np.float32)}),
    ],
    ids=str,
)
def test_a_whole_checkpoint_of_something_else_is_refused(meta, arrays, finished, capsys):
    held = load_checkpoint(finished / "checkpoint.npz")
    meta = {k: held.meta[k] | v if isinstance(v, dict) else v for k, v in meta.items()}
    expect_refusal(finished, held.arrays | arrays, held.meta | meta, capsys)


def test_a_history_of_text_or_with_an_epoch_too_few_is_refused(finished, capsys):
    held = load_checkpoint(finished / "checkpoint.npz")
    first, last = held.meta["progress"]["history"]
    for rows in ([first, last | {"loss": "x"}], [first], [last], [first, last, last]):
        progress = held.meta["progress"] | {"history": rows}
        expect_refusal(finished, held.arrays, held.meta | {"progress": progress}, capsys)


def expect_refusal(finished, arrays, meta, capsys):
    """With this checkpoint no command goes on; each says so in a line that names the file."""
    save_checkpoint(finished / "checkpoint.npz", arrays, meta)
    for command in (["evaluate", str(finished)], ["train", "--resume", str(finished)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{finished / 'checkpoint.npz'} to be of a run of this version of `min" in error
        assert error.count("\n") == 1


def test_files_that_are_no_run_are_not_written_over(tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    assert run_cli(tmp_path) == 2
    assert "expected a folder without a run" in capsys.readouterr().err
    assert (tmp_path / "report.md").read_text() == "mine"


def test_a_stored_recipe_depends_on_nobodys_defaults():
    for recipe in RECIPES.values():
        optimizer = recipe.make_optimizer(mr.models.resnet8(rng=0))
        stored = recipe.as_dict()["optimizer_options"]
        for name, value in stored.items():
            held = getattr(optimizer, name)
            assert (list(held) if isinstance(held, tuple) else held) == value
        assert {"weight_decay", "decay"} <= set(stored)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_told(finished, capsys):
    whole = load_checkpoint(finished / "checkpoint.npz")
    path = finished / "checkpoint.npz"
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    assert main(["train", "--resume", str(finished)]) == 0
    assert (finished / "checkpoint.damaged.npz").read_bytes() == damaged
    captured = capsys.readouterr()
    assert "minires: warning" in captured.err
    assert "from step 3" in captured.out
    again = load_checkpoint(path)
    for name, array in whole.arrays.items():
        assert_array_equal(again.arrays[name], array)
    assert load_checkpoint(finished / "checkpoint.previous.npz").meta["step"] == 3
    path.write_bytes(b"")
    (finished / "checkpoint.previous.npz").write_bytes(b"")
    with pytest.raises(CheckpointError):
        open_saved(finished)
    assert main(["evaluate", str(finished)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def contents(folder):
    """{name: bytes} of what a run writes and of all else there."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("command", [["report"], ["train", "--resume"]])
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_replaced(
    command, finished, monkeypatch, capsys
):
    before = contents(finished)

    def read_nothing(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("minires.checkpoint.reading.read_array", read_nothing)
    assert main([*command, str(finished)]) == 2
    error = capsys.readouterr().err
    assert "Too many open files" in error
    assert error.count("\n") == 1
    assert contents(finished) == before


# ---- one process a folder


def test_a_folder_in_which_another_trains_is_left_alone(finished, capsys):
    with alone(finished):
        before = contents(finished)
        for command in (
            ["train", *FAST, "--out", str(finished), "--overwrite"],
            ["train", "--resume", str(finished)],
            ["report", str(finished)],
        ):
            assert main(command) == 2
            assert capsys.readouterr().err == (
                f"minires: error: expected a folder that no other process trains in, got "
                f"'{finished}' (process {os.getpid()})\n"
            )
        assert contents(finished) == before
        assert main(["evaluate", str(finished)]) == 0
    assert not (finished / LOCK).exists()
    (finished / LOCK).write_text("4711")  # as a killed process leaves it
    assert main(["train", "--resume", str(finished)]) == 0
    assert not (finished / LOCK).exists()


def test_a_new_folder_is_held_from_the_look_at_it_to_the_report(tmp_path, monkeypatch, capsys):
    codes = []

    def meanwhile(function):
        def watched(*arguments, **options):
            codes.append(run_cli(tmp_path, "--overwrite"))
            return function(*arguments, **options)

        return watched

    monkeypatch.setattr(Settings, "load_data", meanwhile(Settings.load_data))
    monkeypatch.setattr(Run, "report", meanwhile(Run.report))
    assert run_cli(tmp_path, "--epochs", "1") == 0
    assert codes == [2, 2]


def test_a_lock_file_that_its_holder_removes_in_between_is_not_taken_for_held(
    tmp_path, monkeypatch
):
    fcntl = pytest.importorskip("fcntl")
    path, flock, calls = tmp_path / LOCK, fcntl.flock, []

    def late(*arguments):
        calls.append(path.unlink() if not calls else None)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    descriptor = take(path)
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert len(calls) == 2
    os.close(descriptor)


def test_a_holder_whose_folder_was_moved_away_leaves_the_lock_of_the_next_alone(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with alone(folder):
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        (folder / LOCK).write_text("4711")
    assert (folder / LOCK).read_text() == "4711"


def test_a_lock_file_that_one_may_only_read_is_held_by_nobody(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("4711")
    plain = os.open

    def another_users(path, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, flags, mode)

    monkeypatch.setattr(os, "open", another_users)
    with alone(tmp_path):
        pass


# ---- what cannot be written


def test_a_full_disk_at_the_beginning_leaves_no_half_recipe_and_resume_writes_it(
    tmp_path, monkeypatch, capsys
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert run_cli(tmp_path) == 2
    path = tmp_path / "recipe.json"
    error = capsys.readouterr().err
    assert f"could not write {path} (No space left on device)" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["checkpoint.npz"]
    assert main(["train", "--resume", str(tmp_path)]) == 0
    whole = json.loads(path.read_text())
    assert whole == open_saved(tmp_path).settings.as_dict() | whole
    assert whole["versions"] == open_saved(tmp_path).checkpoint.meta["origins"][0]["versions"]


@pytest.mark.parametrize("harm", ["", "[]", None])
def test_a_recipe_that_is_empty_or_of_another_run_is_written_anew_by_resume(harm, finished):
    path = finished / "recipe.json"
    whole = path.read_text()
    path.write_text(whole.replace('"seed": 0', '"seed": 1') if harm is None else harm)
    saved = open_saved(finished)
    resume(finished, saved, saved.settings.load_data())
    for name in ("model", "data", "recipe", "seed", "versions", "machine"):
        assert json.loads(path.read_text())[name] == json.loads(whole)[name]


@pytest.mark.parametrize("name", ["mistakes.png", "checkpoint.npz"])
def test_a_folder_with_the_name_of_a_file_of_a_run_stops_before_anything_goes(
    name, finished, capsys
):
    assert name in WRITTEN
    (finished / name).unlink(missing_ok=True)
    (finished / name).mkdir()
    before = contents(finished)
    assert run_cli(finished, "--overwrite") == 2
    assert f"expected {finished / name} to be a file of a run" in capsys.readouterr().err
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["report.md", "confusion.png", "history.csv", "results.json"])
def test_what_of_the_report_cannot_be_written_is_named_and_how_to_go_on(name, finished, capsys):
    (finished / name).unlink()
    (finished / name).mkdir()
    assert main(["train", "--resume", str(finished)]) == 2
    error = capsys.readouterr().err
    assert f"could not write {finished / name} (Is a directory)" in error
    assert f"the training is saved; the report is written by: minires report {finished}" in error
    assert error.count("\n") == 1


class NobodyReads(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text=""):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = write


def test_training_goes_on_to_its_report_where_nobody_reads_what_it_says(finished, monkeypatch):
    shutil.copy(finished / "checkpoint.previous.npz", finished / "checkpoint.npz")
    (finished / "report.md").unlink()
    monkeypatch.setattr(sys, "stdout", NobodyReads())
    monkeypatch.setattr(sys, "stderr", NobodyReads())
    assert main(["train", "--resume", str(finished)]) == 0
    assert load_checkpoint(finished / "checkpoint.npz").meta["step"] == 6
    assert (finished / "report.md").exists()
    assert main(["train", "--resume", str(finished), "--seed", "1"]) == 2  # complains to nobody


@pytest.mark.parametrize("closed", [False, True])
def test_training_goes_on_without_any_stream(closed, finished, monkeypatch):
    shutil.copy(finished / "checkpoint.previous.npz", finished / "checkpoint.npz")
    for name in ("stdout", "stderr"):
        stream = io.StringIO()
        stream.close()
        monkeypatch.setattr(sys, name, stream if closed else None)
    assert main(["train", "--resume", str(finished)]) == 0
    assert main(["train", "--resume", str(finished), "--seed", "1"]) == 2


def test_lines_after_the_first_that_cannot_be_printed_go_nowhere():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1) as stream:
        for _ in range(3):
            print("a line", file=Lenient(stream), flush=True)
        stream.write("the last flush does not fail either")


# ---- what it is trained by


def test_another_program_or_processor_that_goes_on_is_told(finished, monkeypatch, capsys):
    now = origin("fast")
    assert now["compiled"] == compiles()
    assert not origin("reference")["compiled"]
    others = [
        ("numpy", now | {"versions": now["versions"] | {"numpy": "0.1"}}),
        ("processor", now | {"machine": now["machine"] | {"processor": "abacus"}}),
        ("compiled", now | {"compiled": not compiles()}),
    ]
    for name, other in others:
        monkeypatch.setattr("minires.cli.train.origin", lambda ops, other=other: other)
        assert main(["train", "--resume", str(finished)]) == 0
        error = capsys.readouterr().err
        assert re.match(f"minires: warning: trained so far with {{'{name}': .*}}, now {{", error)
        assert error.count("\n") == 1


def test_a_run_from_before_it_was_recorded_whether_ops_compile_goes_on_unwarned(finished, capsys):
    held = load_checkpoint(finished / "checkpoint.npz")
    origins = [{k: v for k, v in o.items() if k != "compiled"} for o in held.meta["origins"]]
    save_checkpoint(finished / "checkpoint.npz", held.arrays, held.meta | {"origins": origins})
    assert main(["train", "--resume", str(finished)]) == 0
    assert capsys.readouterr().err == ""


LARGE = """
import os, sys
large = b"x" * 400_000_000
code = "from minires.runs.machine import peak_memory; print(peak_memory())"
os.execv(sys.executable, [sys.executable, "-c", code])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_peak_memory_is_not_that_of_the_program_that_started_this_one():
    said = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert 10e6 < int(said.stdout) < 390e6


# ---- interruptions


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


@pytest.fixture
def python_s_ctrl_c():
    """SIGINT raises KeyboardInterrupt, also where the shell has it ignored in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_noted_and_the_second_stops(python_s_ctrl_c, capsys):
    with StopRequest() as stop:
        assert not stop
        press_ctrl_c()
        assert stop
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert "once more to stop at once" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def test_the_note_of_a_signal_cannot_fail(python_s_ctrl_c, monkeypatch):
    monkeypatch.setattr(sys, "stderr", NobodyReads())
    with StopRequest() as stop:
        press_ctrl_c()
        assert stop


def test_the_second_sigterm_ends_with_its_own_code(finished, monkeypatch, capsys):
    def train(self, **options):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    monkeypatch.setattr(Run, "train", train)
    with pytest.raises(Terminated), StopRequest():
        train(None)
    assert main(["train", "--resume", str(finished)]) == 143
    words = f"interrupted (go on with: minires train --resume {finished})\n"
    assert capsys.readouterr().err.endswith(words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_after_the_last_step_still_gives_its_code(
    number, code, finished, monkeypatch, python_s_ctrl_c, capsys
):
    train = Run.train

    def interrupted(self, **options):
        done = train(self, **options)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        return done

    monkeypatch.setattr(Run, "train", interrupted)
    assert main(["train", "--resume", str(finished)]) == code
    assert "interrupted at step 6 of 6, saved; go on with" in capsys.readouterr().err


def test_ctrl_c_during_the_report_says_that_the_training_is_saved(
    finished, monkeypatch, python_s_ctrl_c, capsys
):
    monkeypatch.setattr("minires.runs.run.measure", lambda *_, **options: press_ctrl_c())
    assert main(["train", "--resume", str(finished)]) == 130
    assert capsys.readouterr().err == (
        f"minires: error: interrupted (the training is saved; the report is written by: minires "
        f"report {finished})\n"
    )


KILLS = int(os.environ.get("MINIRES_KILLS", "3"))  # 100 take three minutes
# 60 steps or more, so that the training outlives the kills; on ops that need no compiling
LONG = [*FAST, "--epochs", str(max(20, 5 * KILLS)), "--ops", "reference"]


def start(folder, *more):
    """A training in a process of its own, which has saved at least once."""
    path, command = folder / "checkpoint.npz", [sys.executable, "-m", "minires", "train", *LONG]
    before = saved_at(path)
    process = subprocess.Popen(
        [*command, "--out", str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while saved_at(path) == before and process.poll() is None:
        time.sleep(0.01)
    return process


def saved_at(path):
    """When a checkpoint was written, in ns; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("whole")
    assert main(["train", *LONG, "--out", str(folder)]) == 0
    return load_checkpoint(folder / "checkpoint.npz")


def assert_ends_the_same(folder, whole):
    assert main(["train", "--resume", str(folder)]) == 0
    again = load_checkpoint(folder / "checkpoint.npz")
    assert again.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        assert_array_equal(again.arrays[name], array, err_msg=name)
    histories = [timeless(saved.meta["progress"]["history"]) for saved in (again, whole)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_says_how_to_go_on_and_nothing_is_lost(number, code, tmp_path, uninterrupted):
    process = start(tmp_path, "--save-every", "2")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"go on with: minires train --resume {tmp_path}" in error
    assert "Traceback" not in error
    assert_ends_the_same(tmp_path, uninterrupted)


def test_ctrl_c_that_ends_the_reader_of_the_pipe_first_saves_all_the_same(tmp_path):
    process = start(tmp_path, "--save-every", "1000")
    process.stdout.close()  # as of `minires train 2>&1 | tee log`
    process.stderr.close()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert open_saved(tmp_path).checkpoint.meta["step"] > 0
    assert not (tmp_path / "report.md").exists()


def test_after_kill_9_at_random_moments_a_resumed_run_ends_the_same(tmp_path, uninterrupted):
    rng, steps = np.random.default_rng(0), [0]
    for kill in range(KILLS):
        process = start(tmp_path, "--save-every", "1", *(["--resume"] if kill else []))
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"
        steps.append(open_saved(tmp_path).checkpoint.meta["step"])
    assert steps == sorted(steps)
    assert 0 < steps[-1] < uninterrupted.meta["step"]
    (tmp_path / f".checkpoint.npz.{process.pid}-{'0' * 16}.new").write_bytes(b"half")
    assert_ends_the_same(tmp_path, uninterrupted)
    assert not list(tmp_path.glob(".*"))  # what killed saves have left is gone
