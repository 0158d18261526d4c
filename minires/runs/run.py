"""A training run in a folder: begun, saved, interrupted, resumed, finished."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minires.checkpoint import save_checkpoint, sweep
from minires.checkpoint.reading import previous_path
from minires.ops.fast import compiles
from minires.runs.files import read_json, write_json, writing
from minires.runs.machine import machine, peak_memory, versions
from minires.runs.results import measure
from minires.runs.settings import OPS
from minires.runs.trainer import Trainer, read_progress
from minires.state import model_state, optimizer_state, random_streams, restore

CHECKPOINT = "checkpoint.npz"
DAMAGED = "checkpoint.damaged.npz"  # what the one before has taken the place of
WRITTEN = (
    *(CHECKPOINT, previous_path(Path(CHECKPOINT)).name, DAMAGED, "history.csv", "history.jsonl"),
    *("recipe.json", "results.json", "report.md", "curves.png", "confusion.png", "mistakes.png"),
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
        self.origins = []  # what earlier processes computed with
        self.trained = False  # whether this one has taken a step

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
            "streams": random_streams(trainer.model),
            "progress": trainer.progress(),
            "origins": self.all_origins(),
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
        progress = read_progress(checkpoint.meta["progress"])
        free = {"name": None, "verified": None}  # a folder may be renamed, an archive unpacked
        if {**came, **free} != {**wanted, **free}:
            raise ValueError(
                f"{self.folder} expects the images that it was trained on so far, {wanted['name']} "
                f"with the fingerprint {wanted['fingerprint'][:12]}, got {came['name']} with "
                f"{came['fingerprint'][:12]}"
            )
        restore(self.trainer.model, self.trainer.optimizer, checkpoint)
        self.trainer.resume(progress)
        self.origins = checkpoint.meta["origins"]

    # ---- the training

    def train(self, *, save_every=None, stop=False, on_epoch_end=None, progress=None):
        """Train to the end, or until `stop`.

        Parameters
        ----------
        save_every : int, optional
            Steps between checkpoints within an epoch, five minutes if left out. One is written
            after every epoch in any case.
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
                    self.trained = True
                    bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
                    bar.update()
                    if stop:
                        self.save()
                        return False
                    if self.due(save_every) and not trainer.epoch_done:
                        self.save()
                record = trainer.end_epoch()
                self.save()
                self.write_history()
                if on_epoch_end is not None:
                    on_epoch_end(record)
                if stop:
                    return False
        return True

    def due(self, save_every):
        """Whether it is time for a checkpoint."""
        if save_every is None:
            return time.monotonic() - self.saved_at > SAVE_AFTER
        return self.trainer.step % save_every == 0

    # ---- what people read

    def write_recipe(self):
        """recipe.json: everything that decides the run, and what it began on.

        Left as it is if it says so already; a kill or a full disk may have kept it from being
        written when the run began. Where the files of the data are may have changed since.
        """
        path, settings = self.folder / "recipe.json", self.settings.as_dict()
        held, root = read_json(path), {"root": self.settings.root}
        if not isinstance(held, dict) or held | settings != held | root:
            write_json(path, settings | self.all_origins()[0])

    def write_history(self):
        """history.csv and history.jsonl."""
        history = self.trainer.history
        for name, write in (("csv", history.to_csv), ("jsonl", history.to_jsonl)):
            path = self.folder / f"history.{name}"
            with writing(path):
                write(path)

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
            "origins": self.all_origins(),
        }

    def all_origins(self):
        """What all processes that trained computed with, this one last."""
        if self.trained or not self.origins:
            return [*self.origins, origin(self.settings.ops)]
        return self.origins


def resume(folder, saved, data):
    """The Run of a folder, as its checkpoint left it.

    A newest checkpoint that is damaged is replaced by the one before, which would otherwise be the
    next to go; it is kept as checkpoint.damaged.npz.
    """
    run = Run(folder, saved.settings, data)
    run.load(saved.checkpoint)
    if saved.problem is not None:
        newest = run.folder / CHECKPOINT
        if newest.exists():
            os.replace(newest, run.folder / DAMAGED)
        os.replace(saved.path, newest)
    run.write_recipe()
    return run


def begin(folder, settings, data):
    """A new Run, saved before its first step; what the folder held of an earlier one goes.

    Were an earlier checkpoint left, the new run could be resumed from it.

    Raises
    ------
    ValueError
        If something but a file has the name of one that a run writes. Nothing is changed then.
    OSError
        If a file cannot be written or removed.
    """
    for path in (Path(folder) / name for name in WRITTEN):
        if path.exists() and not path.is_file():
            raise ValueError(f"expected {path} to be a file of a run, got something else")
    run = Run(folder, settings, data)
    run.save()
    for name in WRITTEN:
        if name != CHECKPOINT:
            (run.folder / name).unlink(missing_ok=True)
    run.write_recipe()
    return run


def origin(ops):
    """What this process computes with, and the memory it took so far, for JSON.

    Parameters
    ----------
    ops : {"fast", "reference"}
    """
    return {
        "versions": versions(),
        "machine": machine(),
        "compiled": ops == "fast" and compiles(),  # the reference's ops round otherwise
        "peak_memory": peak_memory(),
    }


def describe_data(data):
    """Name, sizes, classes and fingerprint of a Dataset, for JSON."""
    return {
        "name": data.name,
        "verified": data.verified,
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
