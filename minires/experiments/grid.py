"""Which networks vanish, explode or shatter: {plain, residual} x {batch norm, none} x weights.

Two numbers tell the illnesses apart, both measured at initialisation on the digits:

- *growth*, the norm of the gradient at the output of the stem over that at the output of the last
  block. Below 1/100 the gradient vanishes on its way to the input, above 100 it explodes.
- *autocorrelation* of the gradient of the input between neighbours on lines from image to image
  (`flow.shattering`). Below 0.3 it is nearly the 0 of white noise: the gradient is shattered.

Beside them stands what they do to learning, the test accuracy after a few steps of Adam.

What is told and what is so: He et al. (2015), section 4.1, write that plain networks with batch
norm have healthy gradient norms, and still degrade. So it is here at depth 20; by depth 56 their
gradient explodes and is shattered, whatever the first weights. Without batch norm it vanishes and
is not shattered. Residual connections cure the vanishing; without a norm and with He's weights they
turn it into an explosion, as each block adds its variance. And a healthy gradient is not enough:
residual networks that begin with weights of 0.01 and no norm have one, and are slow to learn.

References
----------
He et al. (2015), arXiv:1512.03385, section 4. Balduzzi et al. (2017), arXiv:1702.08591. Yang et al.
(2019), arXiv:1902.08129. De and Smith (2020), arXiv:2002.10444.
"""

import itertools
import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from minires.core import Observer, observe
from minires.data import batches, load_digits
from minires.experiments.rows import Row
from minires.finite import NonFiniteError
from minires.flow import autocorrelation, input_gradients, line
from minires.flow.undisturbed import undisturbed
from minires.initializers import glorot_uniform, he_normal, small_normal
from minires.layers import BatchNorm2d
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet
from minires.models.summary import align
from minires.ops import default as default_ops
from minires.optimizers import Adam
from minires.training import evaluate, train_step

KINDS = ("plain", "residual")
NORMS = ("batch", None)
INITIALIZERS = {"He": he_normal, "Glorot": glorot_uniform, "small": small_normal}
DEPTHS = (8, 20, 56)
GROWTH = 100.0
SHATTERED = 0.3
POINTS, LINES, STEPS = 256, 4, 60


@dataclass(frozen=True)
class Cell:
    """One network of the grid.

    Attributes
    ----------
    kind : {"plain", "residual"}
    norm : "batch" or None
    initializer : {"He", "Glorot", "small"}
    depth : int
    growth : float
        Geometric mean over the seeds; 0 where no gradient arrives.
    autocorrelation : float
        At lag 1, mean over seeds and lines; NaN where no gradient arrives.
    gradient : float
        Norm of the gradient of the first weight, geometric mean over the seeds.
    accuracy : float
        Of the test images after some steps of Adam, of the first seed.
    """

    kind: str
    norm: str | None
    initializer: str
    depth: int
    growth: float
    autocorrelation: float
    gradient: float
    accuracy: float

    @property
    def symptoms(self):
        """What is wrong with its gradient, from the numbers: a list of words, empty if healthy."""
        found = []
        if not math.isfinite(self.growth):
            found.append("not finite")
        if self.growth < 1 / GROWTH:
            found.append("vanishing")
        if GROWTH < self.growth < math.inf:
            found.append("exploding")
        if self.autocorrelation < SHATTERED:
            found.append("shattering")
        return found

    @property
    def verdict(self):
        """The symptoms as text, or "healthy"."""
        return ", ".join(self.symptoms) or "healthy"


@dataclass(frozen=True)
class Grid:
    """All networks that were measured.

    Attributes
    ----------
    cells : list of Cell
    seeds, steps : int
        How many networks a cell, and how many steps of training for the accuracy.
    """

    cells: list[Cell]
    seeds: int
    steps: int

    def select(self, **wanted):
        """The cells with these attributes, such as `select(kind="plain", depth=56)`."""
        return [
            cell
            for cell in self.cells
            if all(getattr(cell, name) == value for name, value in wanted.items())
        ]


def measure(seeds=3, ops=default_ops, *, depths=DEPTHS, steps=STEPS, progress=None):
    """The Grid, on the digits.

    Parameters
    ----------
    seeds : int
        Networks of each kind, with the seeds 0, 1, ...; the accuracy is the first one's.
    ops : module
    depths : sequence of int
    steps : int
        Of Adam with a learning rate of 1e-3 and batches of 64.
    progress : bool, optional
        Whether to draw a bar; left out, it is drawn in a terminal only.
    """
    data = load_digits()
    todo = list(itertools.product(KINDS, NORMS, INITIALIZERS, depths))
    disable = None if progress is None else not progress
    bar = tqdm(todo, "grid", unit="network", disable=disable, leave=False)
    return Grid([measure_cell(data, *which, seeds, steps, ops) for which in bar], seeds, steps)


def measure_cell(data, kind, norm, initializer, depth, seeds, steps, ops):
    """One Cell."""

    def network(seed):
        return cifar_resnet(
            depth,
            kind=kind,
            norm=norm,
            initializer=INITIALIZERS[initializer],
            input_shape=data.input_shape,
            rng=seed,
            ops=ops,
        )

    found = np.array([gradients(network(seed), data, seed) for seed in range(seeds)])
    accuracy = accuracy_after(network(0), data, steps, ops)
    growth, gradient = (geometric_mean(found[:, i]) for i in (0, 1))
    return Cell(
        kind, norm, initializer, depth, growth, float(found[:, 2].mean()), gradient, accuracy
    )


def geometric_mean(values):
    """exp(mean(log)), 0 if one of them is, NaN if one of them is."""
    return 0.0 if (values == 0).any() else float(np.exp(np.log(values).mean()))


class Ends(Observer):
    """The norm of the upstream gradient of some layers.

    Parameters
    ----------
    layers : list of Layer
    """

    def __init__(self, layers):
        self.places = {id(layer): i for i, layer in enumerate(layers)}
        self.norms = [math.nan] * len(layers)

    def after_backward(self, layer, dy, dx):
        if id(layer) in self.places:
            self.norms[self.places[id(layer)]] = float(np.linalg.norm(dy.astype(np.float64)))


def gradients(model, data, seed):
    """(growth, gradient norm of the first weight, autocorrelation) of one network."""
    x, labels = data.x_train[:POINTS], data.y_train[:POINTS]
    ends, loss = Ends([model.relu, model.stage3]), SoftmaxCrossEntropy()
    with undisturbed(model), observe(model, ends):
        loss.forward(model.forward(x, training=True), labels)
        model.backward(loss.backward())
        gradient = float(np.linalg.norm(model.conv.weight.grad.astype(np.float64)))
    first, last = ends.norms
    return first / last if last else 0.0, gradient, neighbours(model, x, seed)


def neighbours(model, x, seed):
    """Mean autocorrelation at lag 1 of the input gradient along some lines between images.

    Batch norm uses the statistics of the images, so that each gradient is that of one input.
    """
    rng = np.random.default_rng([seed, 1])  # not the stream of the weights
    take_statistics(model, x)
    found = []
    for _ in range(LINES):
        a, b = rng.choice(len(x), 2, replace=False)
        weights = rng.standard_normal(10).astype(x.dtype)
        points = line(x[a], x[b], POINTS)
        dy = np.tile(weights, (POINTS, 1))
        dx = input_gradients(model, points, training=False, dy=dy).astype(np.float64)
        found.append(autocorrelation(dx, max_lag=1)[1] if np.ptp(dx) > 0 else math.nan)
    return float(np.mean(found))


def take_statistics(model, x):
    """Make the running statistics of every batch norm those of x."""
    norms = [layer for _, layer in model.named_layers() if isinstance(layer, BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.forward(x, training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def accuracy_after(model, data, steps, ops):
    """Test accuracy after some steps of Adam; NaN if training broke down."""
    optimizer, loss = Adam(model.parameters(), 1e-3, ops=ops), SoftmaxCrossEntropy(ops=ops)
    epochs = (batches(data.x_train, data.y_train, 64, [0, epoch]) for epoch in itertools.count())
    try:
        for x, labels in islice(itertools.chain.from_iterable(epochs), steps):
            train_step(model, loss, optimizer, x, labels)
    except NonFiniteError:
        return math.nan
    return evaluate(model, data.x_test, data.y_test, loss=loss).accuracy


# ---- what is claimed


def rows(grid):
    """Counts of cells, expected and got."""
    deepest = max(cell.depth for cell in grid.cells)
    every = len(INITIALIZERS)

    def count(quantity, expected, cells, holds):
        return Row(quantity, expected, sum(map(holds, cells)), math.nan, 0)

    bare = grid.select(kind="plain", norm=None, depth=deepest)
    seen = [cell for cell in bare if not math.isnan(cell.autocorrelation)]  # a gradient arrives
    normed = grid.select(kind="plain", norm="batch", depth=deepest)
    saved = grid.select(kind="residual", norm=None, depth=deepest)
    both = grid.select(kind="residual", norm="batch")
    he = [cell for cell in saved if cell.initializer == "He"]
    deep = [cell for cell in both if cell.depth == deepest and cell.initializer != "small"]
    return [
        count(f"plain-{deepest} without norm that vanish, of {every}", every, bare, vanishes),
        count(f"plain-{deepest} without norm that shatter, of {len(seen)}", 0, seen, shatters),
        count(f"plain-{deepest} with batch norm that explode, of {every}", every, normed, explodes),
        count(f"plain-{deepest} with batch norm that shatter, of {every}", every, normed, shatters),
        count(f"residual-{deepest} without norm that vanish", 0, saved, vanishes),
        count(f"residual-{deepest} without norm, He, that explode, of 1", 1, he, explodes),
        count(f"residual with batch norm that are healthy, of {len(both)}", len(both), both, well),
        extreme(
            f"least test accuracy of residual-{deepest} with batch norm", 0.95, 0.05, min, deep
        ),
        extreme(f"greatest of plain-{deepest} with batch norm", 0.15, 0.15, max, normed),
    ]


def extreme(quantity, expected, tolerance, choose, cells):
    """The Row of the least or the greatest accuracy."""
    return Row(quantity, expected, choose(cell.accuracy for cell in cells), math.nan, tolerance)


def details(grid):
    """The networks as text, one a line."""
    head = ("network", "norm", "weights", "growth", "autocorrelation", "accuracy", "verdict")
    lines = [
        (
            f"{cell.kind}-{cell.depth}",
            cell.norm or "none",
            cell.initializer,
            f"{cell.growth:.2g}",
            f"{round(cell.autocorrelation, 2) + 0.0:.2f}",
            f"{cell.accuracy:.3f}",
            cell.verdict,
        )
        for cell in grid.cells
    ]
    return align([head, *lines], left=3)


def vanishes(cell):
    return "vanishing" in cell.symptoms


def explodes(cell):
    return "exploding" in cell.symptoms


def shatters(cell):
    return "shattering" in cell.symptoms


def well(cell):
    return not cell.symptoms
