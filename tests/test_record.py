"""`tutorials/record.py` keeps the figures of a finished run, and of no other."""

import json
import runpy
from pathlib import Path

import pytest

from minires.data import Dataset, load_digits
from minires.runs import RECIPES, Settings, begin

RECORD = runpy.run_path(str(Path(__file__).parents[1] / "tutorials" / "record.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = load_digits()
    few = data.x_train[:48], data.y_train[:48], data.x_test[:20], data.y_test[:20]
    recipe = RECIPES["adam"].changed(epochs=2, batch_size=16)
    settings = Settings("resnet8", "digits", recipe, seed=3)
    return begin(
        tmp_path_factory.mktemp("run"), settings, Dataset(*few, data.class_names, "digits")
    )


def test_a_run_is_recorded_when_it_is_finished(run, tmp_path):
    with pytest.raises(ValueError, match=r"expected a finished run with a results\.json"):
        RECORD["record"](run.folder, tmp_path)
    run.report()
    with pytest.raises(ValueError, match="after step 0 of 6"):
        RECORD["record"](run.folder, tmp_path)
    assert not list(tmp_path.iterdir())

    run.train(progress=False)
    results = run.report()
    assert RECORD["record"](run.folder, tmp_path) == "adam"
    assert (tmp_path / "adam.csv").read_bytes() == (run.folder / "history.csv").read_bytes()
    facts = json.loads((tmp_path / "adam.json").read_text())
    assert facts["test_error"] == results.error
    assert facts["standard_error"] == results.standard_error
    assert (facts["images"], facts["train_images"], facts["test_images"]) == ("digits", 48, 20)
    assert (facts["steps"], facts["recipe"]) == (6, run.settings.recipe.as_dict())
    assert facts["command"] == (
        "minires train --model resnet8 --data digits --recipe adam --batch-size 16 --epochs 2 "
        "--seed 3 --out run"
    )
    assert str(run.folder) not in (tmp_path / "adam.json").read_text()


def test_a_command_line_that_would_not_be_the_whole_truth_is_refused(run):
    settings = run.settings.as_dict() | {"model_options": {"shortcut": "B"}}
    with pytest.raises(ValueError, match="expected a run without --shortcut"):
        RECORD["command"](settings)
