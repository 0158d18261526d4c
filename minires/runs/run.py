"""A training run in a folder: begun, saved, interrupted, resumed, finished."""

import hashlib
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minires.checkpoint import CheckpointError, load_newest, save_checkpoint, sweep
from minires.checkpoint.reading import previous_path
from minires.data import Preprocess
from minires.runs.machine import machine, peak_memory, versions
from minires.runs.results import measure
from minires.runs.settings import OPS, Settings
from minires.runs.trainer import Trainer
from minires.state import model_state, optimizer_state, random_streams, restore

CHECKPOINT = "checkpoint.npz"
META = "settings", "data", "step", "progress", "origin"  # what a checkpoint of a run holds
WRITTEN = (
    *(CHECKPOINT, previous_path(Path(CHECKPOINT)).name, "history.csv", "history.jsonl"),
    *("results.json", "report.md", "curves.png", "confusion.png", "mistakes.png"),
)
SAVE_AFTER = 300  # seconds between saves within an epoch, unless steps are asked for


class Run:
    """A folder, the settings of its training and how far it has come.

    Parameters
    ----------
    folder : path
        Exists.
    settings : Settings
    data : Dataset

    Attributes
    ----------
    trainer : Trainer
    """

    def __init__(self, folder, settings, data):
        self.folder, self.settings, self.data = Path(folder), settings, data
        self.described = describe_data(data)
        model = settings.build_model(data.input_shape, data.num_classes)
        ops = OPS[settings.ops]
        self.trainer = Trainer(model, data, settings.recipe, seed=settings.seed, ops=ops)
        self.saved_at = time.monotonic()
        self.origin = None  # what the last step was done with, where it was not this process

    # ---- the checkpoint

    def save(self):
        """Write the checkpoint; the one before it is kept as checkpoint.previous.npz."""
        trainer = self.trainer
        arrays = model_state(trainer.model) | optimizer_state(trainer.optimizer)
        arrays |= {"preprocess/mean": trainer.preprocess.mean}
        arrays |= {"preprocess/scale": trainer.preprocess.scale}
        meta = {
            "settings": self.settings.as_dict(),
            "data": self.described,
            "step": trainer.step,
            "lr": trainer.optimizer.lr,
            "streams": random_streams(trainer.model),
            "progress": trainer.progress(),
            "origin": self.origin or origin(),
        }
        save_checkpoint(self.folder / CHECKPOINT, arrays, meta)
        self.saved_at = time.monotonic()

    def load(self, checkpoint):
        """Go on where a checkpoint was saved; on any error nothing is changed.

        Raises
        ------
        ValueError
            If the images are not those of the training so far.
        CheckpointError
            If the checkpoint does not fit.
        """
        wanted, came = checkpoint.meta["data"], self.described
        if {**came, "name": None} != {**wanted, "name": None}:  # a folder may be renamed
            raise ValueError(
                f"{self.folder} expects the images that it was trained on so far, {wanted['name']} "
                f"with the fingerprint {wanted['fingerprint'][:12]}, got {came['name']} with "
                f"{came['fingerprint'][:12]}"
            )
        restore(self.trainer.model, self.trainer.optimizer, checkpoint)
        self.trainer.resume(checkpoint.meta["progress"])
        self.origin = checkpoint.meta["origin"]

    # ---- the training

    def train(self, *, save_every=None, stop=False, on_epoch_end=None, progress=None):
        """Train to the end, or until `stop`.

        Parameters
        ----------
        save_every : int, optional
            Steps between checkpoints; left out, one is written after every epoch and every five
            minutes.
        stop : object
            Looked at after every step; a `StopRequest` turns true at Ctrl-C.
        on_epoch_end : callable, optional
            Called with the `Epoch` that has just been recorded, after it was saved.
        progress : bool, optional
            Whether to draw a bar; left out, it is drawn in a terminal only.

        Returns
        -------
        finished : bool
            False if it was stopped; everything is saved then.
        """
        sweep(self.folder, CHECKPOINT)
        trainer, disable = self.trainer, None if progress is None else not progress
        options = {"initial": trainer.step, "disable": disable, "unit": "step", "leave": False}
        with tqdm(total=trainer.total, **options) as bar:
            while not trainer.finished:
                for value in trainer.steps():
                    self.origin = None
                    bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
                    bar.update()
                    if stop:
                        self.save()
                        return False
                    if self.due(save_every):
                        self.save()
                record = trainer.end_epoch()
                self.save()
                self.write_history()
                if on_epoch_end is not None:
                    on_epoch_end(record)
                if stop and not trainer.finished:
                    return False
        return True

    def due(self, save_every):
        """Whether it is time for a checkpoint."""
        if save_every is None:
            return time.monotonic() - self.saved_at > SAVE_AFTER
        return self.trainer.step % save_every == 0

    # ---- what people read

    def write_recipe(self):
        """recipe.json: everything that decides the run, and what it runs on."""
        write_json(self.folder / "recipe.json", self.settings.as_dict() | origin())

    def write_history(self):
        """history.csv and history.jsonl."""
        self.trainer.history.to_csv(self.folder / "history.csv")
        self.trainer.history.to_jsonl(self.folder / "history.jsonl")

    def report(self):
        """Classify the test images; write results.json, report.md and its pictures.

        Returns
        -------
        results : Results
        """
        from minires.runs.report import write_report  # matplotlib takes a second to import

        trainer = self.trainer
        mirror = self.settings.recipe.flip
        results = measure(trainer.fast, self.data, trainer.preprocess, mirror=mirror)
        facts = self.facts()
        numbers = {
            "test_error": results.error,
            "standard_error": results.standard_error,
            "mirrored_test_error": results.mirrored_error,
        }
        write_json(self.folder / "results.json", numbers | facts)
        self.write_history()
        write_report(self.folder, facts, trainer.history, results, self.data)
        return results

    def facts(self):
        """What the report says besides the results, as plain data."""
        trainer = self.trainer
        progress = {"step": trainer.step, "total": trainer.total, "epochs": len(trainer.history)}
        return {
            "settings": self.settings.as_dict(),
            "data": self.described,
            "progress": progress,
            "seconds": trainer.seconds,
            "images": trainer.images,
        } | (self.origin or origin())


# ---- a folder that holds a run already


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
    checkpoint: object
    path: Path
    problem: Exception | None


def open_saved(folder):
    """The newest checkpoint of a run folder that loads, and its settings.

    Raises
    ------
    CheckpointError
        If there is none, or it is of something else.
    """
    found = load_newest(folder, CHECKPOINT)
    meta = found.checkpoint.meta
    missing = [name for name in META if name not in meta]
    if missing:
        raise CheckpointError(
            f"expected {found.path} to be of a run of `minires train`, got a checkpoint without "
            f"{', '.join(missing)}: give the folder of a run"
        )
    try:
        settings = Settings.from_dict(meta["settings"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected {found.path} to be of a run of this version of minires, got one of "
            f"which: {error}; train anew"
        ) from None
    return Saved(settings, found.checkpoint, found.path, found.problem)


def resume(folder, saved, data):
    """The Run of a folder, as its checkpoint left it."""
    run = Run(folder, saved.settings, data)
    run.load(saved.checkpoint)
    return run


def begin(folder, settings, data):
    """A new Run, saved before its first step; what the folder held of an earlier one goes.

    Were an earlier checkpoint left, the new run could be resumed from it.
    """
    run = Run(folder, settings, data)
    for name in WRITTEN:
        (run.folder / name).unlink(missing_ok=True)
    run.write_recipe()
    run.save()
    return run


def network_of(saved):
    """The trained model and its Preprocess, without the data it was trained on.

    Returns
    -------
    model : Layer
    preprocess : Preprocess
    class_names : tuple of str
    """
    described = saved.checkpoint.meta["data"]
    names = tuple(described["class_names"])
    model = saved.settings.build_model(tuple(described["input_shape"]), len(names))
    restore(model, None, saved.checkpoint)
    arrays = saved.checkpoint.arrays
    preprocess = Preprocess(arrays["preprocess/mean"], arrays["preprocess/scale"])
    return model, preprocess, names


def origin():
    """What this process computes with, and the memory it took so far, for JSON."""
    return {"versions": versions(), "machine": machine(), "peak_memory": peak_memory()}


def describe_data(data):
    """Name, sizes, classes and fingerprint of a Dataset, for JSON."""
    return {
        "name": data.name,
        "dtype": data.x_train.dtype.name,
        "train": len(data.x_train),
        "test": len(data.x_test),
        "input_shape": list(data.input_shape),
        "class_names": list(data.class_names),
        "fingerprint": fingerprint(data),
    }


def fingerprint(data):
    """sha256 of all images and labels."""
    total = hashlib.sha256()
    for array in (data.x_train, data.y_train, data.x_test, data.y_test):
        total.update(f"{array.dtype.str} {array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def write_json(path, content):
    """Indented, with a line end."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
