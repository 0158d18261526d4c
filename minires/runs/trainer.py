"""Training that can stop after any step and go on bitwise as if it had not."""

import math
import operator
import time
from functools import partial
from typing import NamedTuple

import numpy as np

from minires.data import ahead, count_batches, split
from minires.data.augment import shrink
from minires.fusion import fuse
from minires.history import Epoch, History
from minires.losses import default_loss
from minires.ops import default as default_ops
from minires.training import RunningMean, accuracy_of, evaluate, rehearse, train_step


class Trainer:
    """A model, its data and a recipe, and how far the training has come.

    What a step does depends on its number, on the seed and on what the model and the optimiser
    hold, and on nothing else: the order of the examples is a function of (seed, epoch), their
    augmentation of (seed, epoch, index), the learning rate of the step.

    Parameters
    ----------
    model : Layer
        Changed in place, by way of its fused twin.
    data : Dataset
    recipe : Recipe
    seed : int
        Of the order and the augmentation.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Attributes
    ----------
    total, epochs : int
        Steps and epochs of the whole training; the last epoch may be cut short.
    history : History
        Of the epochs done.

    Raises
    ------
    ValueError
        If images, labels, model and recipe do not fit.
    """

    def __init__(self, model, data, recipe, *, seed=0, ops=default_ops):
        self.model, self.fast = model, fuse(model)
        self.data, self.recipe, self.seed = data, recipe, seed
        self.preprocess = recipe.make_preprocess(data.x_train, seed)
        self.loss, self.test_loss = recipe.make_loss(model, ops), default_loss(model)
        self.optimizer = recipe.make_optimizer(model, ops)
        self.steps_per_epoch = count_batches(len(data.x_train), recipe.batch_size)
        self.total = recipe.total_steps(self.steps_per_epoch)
        self.epochs = math.ceil(self.total / self.steps_per_epoch)
        self.schedule = recipe.make_schedule(self.total)
        self.history, self.running = History(), RunningMean()
        self.seconds = {"epoch": 0.0, "training": 0.0, "testing": 0.0, "counted": 0.0}
        self.images = 0  # of the seconds counted, for the rate
        self.warm = False  # the first step of a process may compile, and is not counted
        for x, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
            rehearse(self.fast, self.loss, self.preprocess(x[:1]), labels)
        x = shrink(self.preprocess(data.x_train[:1]), self.image_size(0))
        rehearse(self.fast, self.loss, x, data.y_train)

    @property
    def step(self):
        """Updates done."""
        return self.optimizer.steps

    @property
    def finished(self):
        """Whether the last epoch is in the history."""
        return bool(len(self.history)) and self.history[-1].step == self.total

    @property
    def epoch_done(self):
        """Whether the last step of the running epoch is done."""
        return self.step == min((len(self.history) + 1) * self.steps_per_epoch, self.total)

    def steps(self):
        """Train to the end of the epoch, or of the training; yields the loss of each step.

        May be left after any step and called again.
        """
        epoch = len(self.history)
        done = self.step - epoch * self.steps_per_epoch
        todo = split(order(self.seed, epoch, len(self.data.x_train)), self.recipe.batch_size)
        todo = todo[done : self.total - epoch * self.steps_per_epoch]
        start = time.perf_counter()
        for x, labels in ahead(partial(self.batch, epoch=epoch), todo):
            self.optimizer.lr = self.schedule(self.step)
            value, logits = train_step(self.fast, self.loss, self.optimizer, x, labels)
            self.running.add(value, accuracy_of(logits, labels), len(x))
            self.clock(len(x), time.perf_counter() - start)
            yield value
            start = time.perf_counter()

    def batch(self, index, epoch):
        """Images and labels of one step of an epoch, (N, H, W, C) float and (N,) int."""
        x = self.preprocess.training(self.data.x_train[index], index, epoch)
        size = self.image_size(epoch)
        return (x if size == x.shape[1:3] else shrink(x, size)), self.data.y_train[index]

    def image_size(self, epoch):
        """(H, W) of the training images of an epoch, from 0."""
        return self.recipe.image_size(epoch, self.epochs, self.data.input_shape[:2])

    def end_epoch(self):
        """Evaluate, where it is due, and write the epoch into the history.

        Returns
        -------
        epoch : Epoch

        Raises
        ------
        RuntimeError
            If `steps` has not come to the end of the epoch.
        """
        if self.finished or not self.epoch_done:
            raise RuntimeError(
                f"Trainer.end_epoch expects all steps of epoch {len(self.history) + 1} to be done, "
                f"got step {self.step} of {self.total}"
            )
        number, start = len(self.history) + 1, time.perf_counter()
        due = number % self.recipe.test_every == 0 or self.step == self.total
        tested = self.evaluate() if due else (None, None)
        self.spend("testing", time.perf_counter() - start)
        record = Epoch(
            number,
            self.step,
            *self.running.value,
            *tested,
            self.optimizer.lr,
            self.seconds["epoch"],
        )
        self.history.epochs.append(record)
        self.running, self.seconds["epoch"] = RunningMean(), 0.0
        return record

    def evaluate(self):
        """Mean loss and accuracy on the test images, without augmentation."""
        x, labels = self.data.x_test, self.data.y_test
        return evaluate(self.fast, x, labels, loss=self.test_loss, preprocess=self.preprocess)

    def clock(self, images, seconds):
        """Count the time of a training step."""
        self.spend("training", seconds)
        if self.warm:
            self.images += images
            self.seconds["counted"] += seconds
        self.warm = True

    def spend(self, what, seconds):
        """Count time twice: for the epoch and for the whole training."""
        self.seconds["epoch"] += seconds
        self.seconds[what] += seconds

    # ---- to stop and to go on

    def progress(self):
        """What is not in the model or the optimiser, for JSON."""
        return {
            "history": self.history.rows(),
            "totals": self.running.totals.tolist(),
            "count": self.running.count,
            "seconds": dict(self.seconds),
            "images": self.images,
        }

    def resume(self, progress):
        """Put back what `progress` gave; the model and the optimiser are restored elsewhere.

        Parameters
        ----------
        progress : Progress
            From `read_progress`.
        """
        self.history, self.running = progress.history, progress.running
        self.seconds, self.images = self.seconds | progress.seconds, progress.images


class Progress(NamedTuple):
    """What a stored `Trainer.progress` says, checked."""

    history: History
    running: RunningMean
    seconds: dict
    images: int


def read_progress(stored):
    """The Progress that `Trainer.progress` wrote.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is something else.
    """
    history = History(read_epoch(row) for row in stored["history"])
    running = RunningMean()
    running.totals = np.array(stored["totals"], np.float64).reshape(2)
    running.count = operator.index(stored["count"])
    seconds = {name: float(value) for name, value in stored["seconds"].items()}
    return Progress(history, running, seconds, operator.index(stored["images"]))


def read_epoch(row):
    """The Epoch in a row of `History.rows`; only what was not tested may be None."""
    for name, value in row.items():
        absent = value is None and name.startswith("test_")
        if not absent and type(value) not in (int, float):
            raise ValueError(f"expected numbers in the history, got {name} {value!r}")
    return Epoch(**row)


def order(seed, epoch, count):
    """The examples of an epoch in random order, (count,) int: a function of its arguments.

    The last 1 parts the stream from that of the weights: NumPy takes [seed, 0] for seed.
    """
    return np.random.default_rng([seed, epoch, 1]).permutation(count)
