"""What a run folder holds, checked before it is believed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minires.checkpoint import Checkpoint, CheckpointError, load_newest
from minires.checks import expect_int
from minires.data import Preprocess, count_batches
from minires.runs.recipe import OPTIMIZERS
from minires.runs.run import CHECKPOINT
from minires.runs.settings import Settings
from minires.runs.trainer import read_progress
from minires.state import restore


class Saved(NamedTuple):
    """What a run folder holds.

    Attributes
    ----------
    settings : Settings
    checkpoint : Checkpoint
    path : Path
        Of the checkpoint.
    problem : CheckpointError or None
        Why it is not the newest one.
    """

    settings: Settings
    checkpoint: Checkpoint
    path: Path
    problem: Exception | None

    @property
    def data(self):
        """Name, sizes, classes and fingerprint of the Dataset; see `run.describe_data`."""
        return self.checkpoint.meta["data"]


def open_saved(folder):
    """The newest checkpoint of a run folder that loads, and its settings.

    Raises
    ------
    CheckpointError
        If there is none, or it is of something else.
    """
    found = load_newest(folder, CHECKPOINT)
    try:
        settings = checked(found.checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = {KeyError: f"without {error}", ValueError: f"with this: {error}"}
        raise CheckpointError(
            f"expected {found.path} to be of a run of this version of `minires train`, got one "
            f"{what.get(type(error), 'of something else')}; give the folder of a run, or train anew"
        ) from None
    return Saved(settings, found.checkpoint, found.path, found.problem)


def checked(checkpoint):
    """The Settings in a checkpoint, after a look at all else that a run reads from it."""
    meta, arrays = checkpoint.meta, checkpoint.arrays
    settings = Settings.from_dict(meta["settings"])
    H, W, C = expect_data(meta["data"])
    expect_origins(meta["origins"])
    expect_progress(checkpoint, settings.recipe)
    mean, scale = arrays["preprocess/mean"], arrays["preprocess/scale"]
    if mean.shape not in ((C,), (H, W, C)) or scale.shape != (C,):
        raise ValueError(f"a mean of shape {mean.shape} and a scale of {scale.shape}")
    return settings


def expect_data(data):
    """The shape of the images; refuses what `run.describe_data` does not write."""
    if not data["class_names"] or not isinstance(data["name"], str):
        raise ValueError("a data set without classes or name")
    if not data["dtype"].isalnum() or np.dtype(data["dtype"]).kind not in "biuf":
        raise ValueError(f"images of dtype {data['dtype']}")
    len(data["fingerprint"])
    H, W, C = (expect_int("a run", "sizes of images", size) for size in data["input_shape"])
    return H, W, C


def expect_origins(origins):
    """Refuse what is no list of what `run.origin` gives; one may lack what is recorded since."""
    for origin in origins:
        memory = origin["peak_memory"]
        if not isinstance(origin["versions"], dict) or not isinstance(origin["machine"], dict):
            raise ValueError("an origin without versions or machine")
        if memory is not None:
            expect_int("a run", "peak memory", memory, at_least=0)
    if not origins:
        raise ValueError("no origins")


def expect_progress(checkpoint, recipe):
    """Refuse a history, a step and a running mean that do not go together."""
    meta, arrays = checkpoint.meta, checkpoint.arrays
    progress = read_progress(meta["progress"])
    images = expect_int("a run", "the number of training images", meta["data"]["train"])
    length = count_batches(images, recipe.batch_size)  # of an epoch, in steps
    total = recipe.total_steps(length)
    step = arrays[f"optimizer/{OPTIMIZERS[recipe.optimizer].__name__}/steps"].item()
    begun = 0  # the step that the running epoch begins with
    for number, epoch in enumerate(progress.history, start=1):
        end = min(begun + length, total)
        if begun == total or (epoch.epoch, epoch.step) != (number, end):
            raise ValueError(f"epoch {epoch.epoch} at step {epoch.step} as number {number}")
        begun = end
    if meta["step"] != step or not begun <= step <= min(begun + length, total):
        raise ValueError(f"step {step} of {total} after {len(progress.history)} epochs")
    seen = images if step - begun == length else (step - begun) * recipe.batch_size
    if progress.running.count != seen:
        raise ValueError(f"{progress.running.count} images seen in the epoch by step {step}")


def network_of(saved):
    """The trained model and its Preprocess, without the data it was trained on.

    Returns
    -------
    model : Layer
    preprocess : Preprocess
    class_names : tuple of str
    """
    names = tuple(saved.data["class_names"])
    model = saved.settings.build_model(tuple(saved.data["input_shape"]), len(names))
    restore(model, None, saved.checkpoint)
    arrays = saved.checkpoint.arrays
    preprocess = Preprocess(arrays["preprocess/mean"], arrays["preprocess/scale"])
    return model, preprocess, names
