"""What a run folder holds, checked before it is believed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minires.checkpoint import Checkpoint, CheckpointError, load_newest
from minires.data import Preprocess
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
    read_progress(meta["progress"])
    H, W, C = meta["data"]["input_shape"]
    if not meta["data"]["class_names"] or not isinstance(meta["data"]["name"], str):
        raise ValueError("a data set without classes or name")
    np.dtype(meta["data"]["dtype"])
    len(meta["data"]["fingerprint"])
    [origin["versions"] for origin in meta["origins"]]
    mean, scale = arrays["preprocess/mean"], arrays["preprocess/scale"]
    if mean.shape not in ((C,), (H, W, C)) or scale.shape != (C,):
        raise ValueError(f"a mean of shape {mean.shape} and a scale of {scale.shape}")
    return settings


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
