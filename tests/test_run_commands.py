"""evaluate, predict and report: what they say of a run, wherever it and its images are now."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from definitions import softmax
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from test_runs import write_images

import minires as mr
from minires.checkpoint import load_checkpoint, save_checkpoint
from minires.cli import main
from minires.data import load_digits, load_image_folder
from minires.runs import network_of, open_saved, resume

OPTIONS = ["--model", "resnet8", "--epochs", "2", "--batch-size", "16", "--shortcut", "B"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with images and a run on them."""
    place = tmp_path_factory.mktemp("made")
    write_images(place / "images", size=10)
    more = ["--data", str(place / "images"), "--recipe", "he2015", "--lr", "0.05"]
    assert main(["train", *OPTIONS, *more, "--out", str(place / "run")]) == 0
    return place


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    arguments = ["train", "--model", "resnet8", "--epochs", "1", "--batch-size", "128"]
    assert main([*arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of both for one test alone, which is the working directory; the first one is away."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "images", tmp_path / "images")
    away = made.with_name("away")
    made.rename(away)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    away.rename(made)


def said(capsys, *arguments, code=0):
    """The lines of stdout; or the line of stderr, of a mistake."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    if code == 0:
        assert captured.err == ""
        return captured.out.splitlines()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err


def by_hand(folder, data):
    """Error and error with mirror images, from the checkpoint alone."""
    model, preprocess, _ = network_of(open_saved(folder))
    x = data.x_test
    x = preprocess(x)
    one, mirror = (softmax(mr.predict(model, i)) for i in (x, x[:, :, ::-1]))
    return [float((p.argmax(axis=1) != data.y_test).mean()) for p in (one, one + mirror)]


def test_what_a_console_cannot_write_is_written_otherwise(on_digits):
    command = [sys.executable, "-m", "minires", "evaluate", str(on_digits)]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode("ascii")
    assert r" % \xb1 " in shown


# ---- evaluate


def test_evaluate_says_the_error_that_the_checkpoint_has_and_the_report_too(made, capsys):
    lines = said(capsys, "evaluate", made / "run")
    error, mirrored = by_hand(made / "run", load_image_folder(made / "images"))
    assert lines[0] == "resnet8 after 6 steps on 12 images of images"
    assert lines[1].startswith(f"test error {100 * error:.0f} % ± ")
    mirror_line = f"with the mean over each image and its mirror image {100 * mirrored:.0f} %"
    assert lines[2:] == [mirror_line]
    results = json.loads((made / "run" / "results.json").read_text())
    assert (results["test_error"], results["mirrored_test_error"]) == (error, mirrored)
    assert_allclose(results["standard_error"], np.sqrt(error * (1 - error) / 12))
    assert mirror_line in (made / "run" / "report.md").read_text()


def test_mirror_images_are_left_out_where_training_saw_none(on_digits, capsys):
    lines = said(capsys, "evaluate", on_digits)
    assert len(lines) == 2
    data = load_digits()
    error, _ = by_hand(on_digits, data)
    assert lines[1].startswith(f"test error {100 * error:.1f} % ± ")


def test_run_and_images_that_were_moved_are_found(here, capsys):
    message = said(capsys, "evaluate", "run", code=2)
    assert "expected a folder of images for each class at /" in message
    assert "say by --data-root where it is now" in message
    (here / "images").rename(here / "other name")
    assert len(said(capsys, "evaluate", "run", "--data-root", "other name")) == 3
    assert len(said(capsys, "report", "run", "--data-root", "other name")) == 3
    shutil.copy("run/checkpoint.previous.npz", "run/checkpoint.npz")
    assert main(["train", "--resume", "run", "--data-root", "other name/"]) == 0
    assert len(said(capsys, "evaluate", "run")) == 3  # where they are is saved with the run


def test_images_that_a_run_knows_by_a_name_alone_are_found_by_data_root(here, capsys):
    saved = open_saved("run")
    settings = saved.settings.changed(data="pictures", root=str(here / "images"))  # as runs had it
    meta = saved.checkpoint.meta | {"settings": settings.as_dict()}
    save_checkpoint("run/checkpoint.npz", saved.checkpoint.arrays, meta)
    _, *first = said(capsys, "evaluate", "run")
    (here / "images").rename(here / "moved")
    assert said(capsys, "evaluate", "run", "--data-root", "moved")[1:] == first


def test_a_folder_that_was_named_in_short_is_found_from_anywhere(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "images")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["train", *OPTIONS, "--data", "images/", "--out", "run"]
    assert main(arguments) == 0
    assert main([*arguments, "--resume"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", "../run"]) == 0
    assert len(said(capsys, "evaluate", "../run")) == 2


def test_other_images_are_told_and_can_be_evaluated_but_not_reported(here, capsys):
    whole = said(capsys, "evaluate", "run", "--data-root", "images")
    file = here / "images" / "cat" / "0.png"
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    lines = said(capsys, "evaluate", "run", "--data-root", "images")
    assert lines[1] == "not the files that it was trained beside: the fingerprints differ"
    assert len(lines) == len(whole) + 1
    message = said(capsys, "report", "run", "--data-root", "images", code=2)
    assert "expects the images that it was trained on so far" in message


def test_images_that_do_not_fit_the_model_are_refused(here, capsys):
    for path in (here / "images").rglob("*.png"):
        Image.open(path).resize((9, 9)).save(path)
    message = said(capsys, "evaluate", "run", "--data-root", "images", code=2)
    assert "expected input_shape [10, 10, 3], got [9, 9, 3] in images" in message
    shutil.rmtree(here / "images")
    write_images(here / "images", size=10, names=("cat", "dog"))
    message = said(capsys, "evaluate", "run", "--data-root", "images", code=2)
    assert "expected class_names ['a fox', 'cat', 'dog'], got ['cat', 'dog'] in images" in message


def read_only(folder):
    """Nothing in a folder can be written to, nor can anything come into it."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def locked(here):
    read_only(here / "run")
    if os.access(here / "run", os.W_OK):
        pytest.skip("permissions do not hold for this user")
    yield here
    (here / "run").chmod(0o755)


def test_a_run_that_cannot_be_written_to_is_evaluated_but_not_reported(locked, capsys):
    assert len(said(capsys, "evaluate", "run", "--data-root", "images")) == 3
    assert len(said(capsys, "predict", "run", "images/cat/0.png")) == 4
    for command in (["report", "run"], ["train", "--resume", "run"]):
        message = said(capsys, *command, "--data-root", "images", code=2)
        assert "expected a folder to write to, got 'run'" in message


def test_reading_writes_nothing(here, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}

    def touch(path):
        raise AssertionError(path)

    monkeypatch.setattr(Path, "touch", touch)
    said(capsys, "evaluate", "run", "--data-root", "images")
    said(capsys, "predict", "run", "images/cat/0.png")
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_a_folder_that_turns_out_to_be_read_only_is_told_before_the_work(here, capsys, monkeypatch):
    def touch(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr(mr.runs.Run, "report", None)
    message = said(capsys, "report", "run", "--data-root", "images", code=2)
    assert "expected a folder to write to, got 'run' (Permission denied)" in message


# ---- predict


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of one picture that is red above and blue below, in many forms."""
    folder = tmp_path_factory.mktemp("some pictures")
    pixels = np.zeros((30, 20, 3), np.uint8)
    pixels[:15, :, 0] = pixels[15:, :, 2] = 204  # which a palette has
    image = Image.fromarray(pixels)
    image.save(folder / "plain.png")
    image.save(folder / "plain.jpg", quality=100)
    image.resize((10, 10)).save(folder / "right size.png")
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("LA").save(folder / "grey with alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("1").save(folder / "bits.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    Image.fromarray(np.full((30, 20), 40_000, np.uint16)).save(folder / "grey of 16 bits.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by a quarter to the right
    image.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=100)
    image.resize((1, 1)).save(folder / "one pixel.png")
    image.resize((3000, 7)).save(folder / "wide.PNG")
    return folder


def test_predict_names_the_classes_of_any_picture_with_probabilities(made, pictures, capsys):
    files = sorted(pictures.iterdir())
    lines = said(capsys, "predict", made / "run", *files)
    assert len(lines) == 4 * len(files)  # three classes are fewer than five
    for i, file in enumerate(files):
        heading, *rows = lines[4 * i : 4 * i + 4]
        with Image.open(file) as image:
            width, height = image.size[::-1] if file.name == "turned.jpg" else image.size
        resized = "" if (width, height) == (10, 10) else ", resized to 10x10"
        assert heading == f"{file} ({width}x{height}{resized})"
        found = [re.fullmatch(r" +([\d.]+)%  (cat|dog|a fox)", row).groups() for row in rows]
        shares = [float(share) for share, _ in found]
        assert shares == sorted(shares, reverse=True)
        assert abs(sum(shares) - 100) < 0.2
        assert {name for _, name in found} == {"cat", "dog", "a fox"}


def test_one_picture_in_several_forms_is_one_to_the_model(made, pictures, capsys):
    def shares(name):
        rows = said(capsys, "predict", made / "run", pictures / name)[1:]
        return dict(reversed(row.split(maxsplit=1)) for row in rows)

    plain = shares("plain.png")
    assert shares("rgba.png") == shares("palette.png") == plain
    for name in ("plain.jpg", "turned.jpg"):  # a JPEG is not exact
        for label, share in shares(name).items():
            assert abs(float(share[:-1]) - float(plain[label][:-1])) < 3


def test_predict_gives_what_the_model_gives(made, capsys):
    data = load_image_folder(made / "images")
    model, preprocess, names = network_of(open_saved(made / "run"))
    path = made / "images" / "dog" / "3.png"
    x = np.asarray(Image.open(path))[None]
    probs = softmax(mr.predict(model, preprocess(x)))[0]
    assert names == data.class_names
    best = probs.argmax()
    row = said(capsys, "predict", made / "run", path)[1]
    assert row == f"  {probs[best]:6.1%}  {names[best]}"


def test_grey_images_are_scaled_as_the_digits_are(on_digits, tmp_path, capsys):
    data = load_digits()
    model, preprocess, _ = network_of(open_saved(on_digits))
    pixels = np.round(data.x_test[5] * 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "five.png")
    lines = said(capsys, "predict", on_digits, tmp_path / "five.png")
    assert lines[0].endswith("five.png (8x8)")
    assert len(lines) == 6  # the first five classes of ten
    x = (pixels / 255).astype(np.float32)[None]
    probs = softmax(mr.predict(model, preprocess(x)))[0]
    assert lines[1] == f"  {probs.max():6.1%}  {probs.argmax()}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", "expects an image file at {path}, got nothing there"),
        ("folder", "expects an image file at {path}, got a folder"),
        ("text.png", "{whole} UnidentifiedImageError"),
        ("empty.jpg", "{whole} UnidentifiedImageError"),
        ("cut.png", "{whole} "),
        ("moving.gif", "{whole} UnidentifiedImageError"),
    ],
)
def test_what_is_no_picture_is_named_and_the_others_are_classified(
    name, words, made, pictures, tmp_path, capsys
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((pictures / "wide.PNG").read_bytes()[:100])
    Image.new("RGB", (10, 10)).save(tmp_path / "moving.gif")
    files = pictures / "plain.png", tmp_path / name, pictures / "grey.png"
    capsys.readouterr()
    assert main(["predict", str(made / "run"), *map(str, files)]) == 2
    out, message = capsys.readouterr()
    whole = f"expects {tmp_path / name} to be a whole PNG or JPEG image that Pillow can read, got"
    assert words.format(path=tmp_path / name, whole=whole) in message
    assert message.count("\n") == 1
    assert [line.split(" (")[0] for line in out.splitlines() if line[0] != " "] == [
        str(files[0]),
        str(files[2]),
    ]


# ---- report


def test_the_report_of_a_run_that_is_not_finished_says_so(here, capsys):
    shutil.copy("run/checkpoint.previous.npz", "run/checkpoint.npz")  # after the first epoch
    lines = said(capsys, "report", "run", "--data-root", "images")
    assert lines[0].startswith("test error ")
    text = Path("run/report.md").read_text()
    assert "The training is not finished: step 3 of 6." in text
    assert "| epochs | 1 |" in text
    assert len(Path("run/history.csv").read_text().splitlines()) == 2
    assert said(capsys, "evaluate", "run", "--data-root", "images")[0].startswith(
        "resnet8 after 3 steps"
    )


def test_a_run_before_its_first_step_has_a_report(here, capsys):
    saved = open_saved("run")
    settings = saved.settings.changed(data="images")
    mr.runs.begin("run", settings, settings.load_data())
    assert said(capsys, "report", "run")[0].startswith("test error ")
    text = Path("run/report.md").read_text()
    assert "step 0 of 6" in text
    assert "curves.png" not in text
    assert "images a second" not in text


def test_the_numbers_of_the_report_are_those_of_the_checkpoint(made):
    meta = open_saved(made / "run").checkpoint.meta
    text = (made / "run" / "report.md").read_text()
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    progress, history = meta["progress"], meta["progress"]["history"]
    error, _ = by_hand(made / "run", load_image_folder(made / "images"))
    assert table["test accuracy"] == f"{100 * (1 - error):.0f} %"
    assert table["training images"] == "48"
    assert table["steps"] == "6 of 6"
    assert table["training loss, last epoch"] == f"{history[-1]['loss']:.4f}"
    seconds = sum(epoch["seconds"] for epoch in history) / 2
    assert table["seconds an epoch, evaluation included"] == f"{seconds:.1f}"
    rate = progress["images"] / progress["seconds"]["counted"]
    assert table["images a second in training, after the first step"] == f"{rate:,.0f}"
    assert_allclose(
        sum(epoch["seconds"] for epoch in history),
        progress["seconds"]["training"] + progress["seconds"]["testing"],
    )


def test_a_report_made_again_is_the_same(here, capsys):
    said(capsys, "report", "run", "--data-root", "images")
    first = Path("run/report.md").read_text()
    said(capsys, "report", "run", "--data-root", "images")
    assert Path("run/report.md").read_text() == first


# ---- whatever the command


@pytest.mark.parametrize("command", ["evaluate", "predict", "report"])
def test_the_checkpoint_before_is_used_and_told_if_the_newest_is_damaged(here, command, capsys):
    Path("run/checkpoint.npz").write_bytes(b"PK")
    more = ["images/cat/0.png"] if command == "predict" else ["--data-root", "images"]
    capsys.readouterr()
    assert main([command, "run", *more]) == 0
    error = capsys.readouterr().err
    assert error.startswith("minires: warning: load_checkpoint expects run/checkpoint.npz")
    assert error.endswith("; using run/checkpoint.previous.npz\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "predict", "report"])
def test_a_checkpoint_of_something_else_is_refused(command, tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"
    more = ["a.png"] if command == "predict" else []
    save_checkpoint(path, {"weights/w": np.zeros(3)}, {})
    message = said(capsys, command, tmp_path, *more, code=2)
    assert f"expected {path} to be of a run of this version of `minires train`" in message
    meta = dict.fromkeys(("data", "step", "progress", "origins"), 0)
    save_checkpoint(path, {"weights/w": np.zeros(3)}, meta | {"settings": {"model": "resnet8"}})
    message = said(capsys, command, tmp_path, *more, code=2)
    assert f"expected {path} to be of a run of this version of `minires train`" in message
    assert "Settings expects exactly" in message


def test_the_articles_model_which_ends_in_a_softmax_goes_all_the_way(tmp_path, capsys):
    write_images(tmp_path / "images", count=5, size=16)
    arguments = ["--model", "article_resnet", "--recipe", "article", "--epochs", "1"]
    data = ["--data", str(tmp_path / "images"), "--image-size", "14,13"]
    folder = tmp_path / "run"
    assert main(["train", *arguments, *data, "--out", str(folder)]) == 0
    assert len(said(capsys, "evaluate", folder)) == 2
    lines = said(capsys, "predict", folder, tmp_path / "images" / "cat" / "0.png")
    assert lines[0].endswith("0.png (16x16, resized to 13x14)")
    assert abs(sum(float(line.split("%")[0]) for line in lines[1:]) - 100) < 0.2
    assert main(["report", str(folder)]) == 0


def test_the_options_of_the_model_are_those_it_was_trained_with(tmp_path, capsys):
    write_images(tmp_path / "images", count=5)
    options = ["--model", "resnet8", "--epochs", "1", "--no-norm", "--no-relu-after-add"]
    folder = tmp_path / "run"
    arguments = [*options, "--data", str(tmp_path / "images"), "--out", str(folder)]
    assert main(["train", *arguments]) == 0
    model, _, _ = network_of(open_saved(folder))
    assert "BatchNorm2d" not in repr(model)
    assert len(said(capsys, "evaluate", folder)) == 2


def test_the_number_of_threads_changes_no_bit_of_a_resumed_run(made, tmp_path):
    folder = shutil.copytree(made / "run", tmp_path / "run")
    whole = load_checkpoint(folder / "checkpoint.npz")
    shutil.copy(folder / "checkpoint.previous.npz", folder / "checkpoint.npz")
    threads = 2 if whole.meta["origins"][-1]["machine"]["threads"] == 1 else 1
    command = [sys.executable, "-m", "minires", "train", "--resume", str(folder)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    again = load_checkpoint(folder / "checkpoint.npz")
    assert (again.meta["step"], again.meta["origins"][-1]["machine"]["threads"]) == (6, threads)
    for name, array in whole.arrays.items():
        assert_array_equal(again.arrays[name], array, err_msg=name)


def test_a_resumed_run_keeps_the_data_it_was_given(made):
    saved = open_saved(made / "run")
    with pytest.raises(ValueError, match="expects the images that it was trained on so far"):
        resume(made / "run", saved, load_digits())
