"""The training step, and the loops around it: fit, evaluate, predict."""

import math
import time
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minires.checks import as_rng, expect_array, expect_callable, expect_int, expect_number
from minires.core import Layer
from minires.data import Dataset, batches, count_batches
from minires.finite import explain
from minires.history import Epoch, History
from minires.losses import (
    CategoricalCrossEntropy,
    SoftmaxCrossEntropy,
    as_targets,
    default_loss,
)
from minires.optimizers import Optimizer, clip_gradients, gradient_norm


class Evaluation(NamedTuple):
    """Means over all examples."""

    loss: float
    accuracy: float


def train_step(model, loss, optimizer, x, labels, *, clip_norm=None):
    """One update: forward, loss, backward, step.

    Parameters
    ----------
    model : Layer
    loss : object with forward and backward
        From `minires.losses`.
    optimizer : Optimizer
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    clip_norm : float, optional
        Scale the gradients so that their joint norm is at most this.

    Returns
    -------
    value : float
        The loss before the update.
    logits : (N, K)
        What the model gave.

    Raises
    ------
    NonFiniteError
        If the loss or a gradient is NaN or infinite: names the layer, the pass and the step.

    Notes
    -----
    After any error before the update, weights, optimiser and running statistics are as they were.
    """
    before = model.snapshot()
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # reported below
            logits = model.forward(x, training=True)
            value = loss.forward(logits, labels)
            optimizer.zero_grad()
            model.backward(loss.backward(), input_gradient=False)
            if clip_norm is None:
                norm = gradient_norm(optimizer.parameters, ops=optimizer.ops)
            else:
                norm = clip_gradients(optimizer.parameters, clip_norm, ops=optimizer.ops)
            if not (math.isfinite(value) and math.isfinite(norm)):
                model.restore(before)
                error = explain(model, loss, x, labels, optimizer.steps + 1, value, norm)
                optimizer.zero_grad()
                raise error
    except BaseException:
        model.restore(before)
        raise
    with np.errstate(over="ignore", invalid="ignore"):  # the next forward pass will report it
        optimizer.step()
    return value, logits


def fit(
    model,
    data,
    optimizer,
    epochs,
    *,
    batch_size=64,
    loss=None,
    schedule=None,
    clip_norm=None,
    validation=None,
    rng=None,
    shuffle=True,
    preprocess=None,
    progress=None,
    on_epoch_end=None,
):
    """Train for a number of epochs.

    Parameters
    ----------
    model : Layer
        Changed in place.
    data : Dataset or (x, labels)
        With a Dataset, its test part is evaluated after every epoch.
    optimizer : Optimizer
        Holds parameters of `model`.
    epochs, batch_size : int
    loss : object with forward and backward, optional
        If left out, the cross-entropy that fits the model: see `losses.default_loss`.
    schedule : callable, optional
        step -> learning rate, counted from the optimiser's steps so far; see `minires.schedules`.
    clip_norm : float, optional
        Scale the gradients of each step so that their joint norm is at most this.
    validation : (x, labels), optional
        Evaluated after every epoch instead of the Dataset's test part.
    rng : None, int or numpy.random.Generator
        Shuffles the examples. As in NumPy, None draws from the system's entropy.
    shuffle : bool
        Whether the examples come in a new order in every epoch.
    preprocess : Preprocess, optional
        Centres, scales and augments images in training, centres and scales them in tests. Images
        read from files are uint8 and need one: see `minires.data.Preprocess.of`.
    progress : bool, optional
        Whether to draw a bar; left out, it is drawn in a terminal only.
    on_epoch_end : callable, optional
        Called with the `Epoch` that has just been recorded.

    Returns
    -------
    history : History

    Raises
    ------
    NonFiniteError
        If the loss or a gradient is NaN or infinite.
    TypeError, ValueError
        If an argument, an image shape or a label does not fit; found before the first step, so
        that the model is unchanged then.
    """
    epochs = expect_int("fit", "epochs", epochs)
    batch_size = expect_int("fit", "batch_size", batch_size)
    if clip_norm is not None:
        expect_number("fit", "clip_norm", clip_norm, above=0)
    x, labels, test = training_and_test(data, validation, preprocess)
    loss = default_loss(model, loss)
    expect_players("fit", model, loss, optimizer)
    refuse_foreign_parameters(model, optimizer)
    for name, function in (("schedule", schedule), ("on_epoch_end", on_epoch_end)):
        if function is not None:
            expect_callable("fit", name, function)
    for images, classes in [(x, labels), *([test] if test else [])]:
        rehearse(model, loss, seen(preprocess, images[:1]), classes)
    rng = as_rng("fit", rng)
    history = History()
    total = epochs * count_batches(len(x), batch_size)
    disable = None if progress is None else not progress
    with tqdm(total=total, disable=disable, unit="step", leave=False) as bar:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            bar.set_description(f"epoch {epoch}/{epochs}")
            mean = RunningMean()
            prepare = preprocess and partial(preprocess.training, epoch=epoch)
            options = {"shuffle": shuffle, "prepare": prepare}
            for xb, yb in batches(x, labels, batch_size, rng, **options):
                if schedule is not None:
                    optimizer.lr = schedule(optimizer.steps)
                value, logits = train_step(model, loss, optimizer, xb, yb, clip_norm=clip_norm)
                mean.add(value, accuracy_of(logits, yb), len(xb))
                bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
                bar.update()
            tested = test and evaluate(model, *test, loss=loss, preprocess=preprocess)
            measured = *mean.value, *(tested or (None, None))
            seconds = time.perf_counter() - start
            record = Epoch(epoch, optimizer.steps, *measured, optimizer.lr, seconds)
            history.epochs.append(record)
            if on_epoch_end is not None:
                on_epoch_end(record)
    return history


def evaluate(model, x, labels, *, loss=None, batch_size=256, preprocess=None):
    """Mean loss and accuracy, in inference mode.

    Parameters
    ----------
    model : Layer
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward, optional
        If left out, the cross-entropy that fits the model: see `losses.default_loss`.
    batch_size : int
    preprocess : Preprocess or callable, optional
        images -> what the model sees, batch by batch.

    Returns
    -------
    evaluation : Evaluation
        (loss, accuracy), every example with the same weight.
    """
    loss = default_loss(model, loss)
    mean, labels = RunningMean(), np.asarray(labels)
    for xb, yb in batches(x, labels, batch_size, shuffle=False):
        logits = model.forward(seen(preprocess, xb))
        mean.add(loss.forward(logits, yb), accuracy_of(logits, yb), len(xb))
    return Evaluation(*mean.value)


def predict(model, x, *, batch_size=256, preprocess=None):
    """What the model gives in inference mode, batch by batch.

    Parameters
    ----------
    model : Layer
    x : (N, ...) float
    batch_size : int
    preprocess : Preprocess or callable, optional
        images -> what the model sees, batch by batch.

    Returns
    -------
    y : (N, ...)
        Logits, unless the model ends in a Softmax. `y.argmax(axis=1)` are the classes.
    """
    batch_size = expect_int("predict", "batch_size", batch_size)
    expect_array("predict", "x", seen(preprocess, x[:1]))
    parts = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    return np.concatenate([model.forward(seen(preprocess, part)) for part in parts])


def seen(preprocess, x):
    """What the model sees of some images."""
    return x if preprocess is None else preprocess(x)


def accuracy_of(logits, labels):
    """The share of rows whose largest logit is at the label (or at the largest soft label)."""
    labels = np.asarray(labels)
    wanted = labels.argmax(axis=1) if labels.ndim == 2 else labels
    return float((logits.argmax(axis=1) == wanted).mean())


class RunningMean:
    """Mean loss and accuracy of batches of different sizes."""

    def __init__(self):
        self.totals = np.zeros(2)
        self.count = 0

    def add(self, loss, accuracy, count):
        self.totals += np.multiply((loss, accuracy), count)
        self.count += count

    @property
    def value(self):
        return tuple((self.totals / self.count).tolist())


def training_and_test(data, validation, preprocess=None):
    """(x, labels, test) where test is (x, labels) or None.

    Raises
    ------
    TypeError
        If `data` is neither a Dataset nor a pair.
    ValueError
        If images and labels differ in number, or there are none.
    """
    if validation is not None and (
        not isinstance(validation, tuple | list) or len(validation) != 2
    ):
        kind = type(validation).__name__
        raise TypeError(f"fit expects validation as (x, labels), got {kind}")
    if isinstance(data, Dataset):
        x, labels, test = data.x_train, data.y_train, (data.x_test, data.y_test)
    elif isinstance(data, tuple | list) and len(data) == 2:
        (x, labels), test = data, None
    else:
        raise TypeError(f"fit expects data as a Dataset or (x, labels), got {type(data).__name__}")
    test = validation if validation is not None else test
    for images, classes in [(x, labels)] + ([test] if test is not None else []):
        expect_images(images, preprocess)
        count = np.shape(classes)[0] if np.ndim(classes) else 0
        if len(images) != count:
            raise ValueError(
                f"fit expects as many labels as images, got {len(images)} images and {count} labels"
            )
    return x, np.asarray(labels), test and (test[0], np.asarray(test[1]))


def expect_images(images, preprocess):
    """Refuse what no model sees, and pixels as they are stored in a file."""
    if preprocess is not None:
        images = images[:1] if isinstance(images, np.ndarray) else images
        return expect_array("fit", "preprocess(x)", preprocess(images))
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        raise ValueError(
            "fit expects x of dtype float32 or float64, or a preprocess, got uint8: pass "
            "preprocess=minires.data.Preprocess.of(x_train)"
        )
    return expect_array("fit", "x", images)


def rehearse(model, loss, x, labels):
    """One image, as the model sees it, through the model; all labels through the loss's checks."""
    logits = model.forward(x[:1])
    if isinstance(loss, SoftmaxCrossEntropy | CategoricalCrossEntropy):
        expect_array(type(loss).__name__, "logits", logits, ("N", "K"))
        as_targets(type(loss).__name__, labels, len(labels), logits.shape[1], logits.dtype)


def expect_players(owner, model, loss, optimizer):
    """Refuse names, classes and functions where a layer, a loss or an optimiser belongs."""
    if not isinstance(model, Layer):
        raise TypeError(f"{owner} expects model to be a Layer, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(
            f"{owner} expects an optimizer such as Adam(model.parameters()), got {kind}"
        )
    methods = (getattr(loss, name, None) for name in ("forward", "backward"))
    if isinstance(loss, type) or not all(map(callable, methods)):
        raise TypeError(f"{owner} expects a loss such as SoftmaxCrossEntropy(), got {loss!r}")


def refuse_foreign_parameters(model, optimizer):
    """An optimiser made for another model would train nothing, in silence."""
    own = {id(parameter) for parameter in model.parameters()}
    foreign = [p for p in optimizer.parameters if id(p) not in own]
    if foreign:
        raise ValueError(
            f"fit expects an optimizer for the model's own parameters, got {len(foreign)} of "
            f"another: make it with {type(optimizer).__name__}(model.parameters(), ...)"
        )
