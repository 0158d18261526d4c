"""Loss surfaces: around a trained residual network a bowl, around a plain one ground with folds.

Networks are trained on the digits and their weights moved along two random directions of the
filters' own size. Two numbers describe the ground:

    folds   the share of places on the grid at which the loss bends down along a line: a negative
            second difference, so that the ground is not convex
    width   the share of the grid on which the loss is below ln 10, that of guessing

The article shows pictures without numbers, of CIFAR-10 and of 20, 56 and 110 layers: the ground of
plain-20 is still benign there, that of plain-56 chaotic. What is expected here are our own
measurements, and depths and grid were chosen for them:

- 20 and 32 layers, since plain-56 does not learn the digits in a few epochs (test accuracies of 0.1
  to 0.5, with several schedules), so that there is no minimum to look around from;
- a grid as far as 0.3 filter norms instead of 1. Farther out, and around networks that have
  not learned, the loss explodes with depth, into the hundreds and more; that is convex along most
  lines, and the share of folds no longer tells networks apart.

What differs from the article: plain-20 has folds already.

References
----------
Li et al. (2018), arXiv:1712.09913, figures 1 and 5.
"""

import math
from dataclasses import dataclass

import numpy as np

from minires.data import load_digits
from minires.experiments.rows import row
from minires.experiments.trained import TRAINED, network, streams, train
from minires.flow import loss_surface
from minires.losses import SoftmaxCrossEntropy
from minires.ops import default as default_ops

DEPTHS, EPOCHS, IMAGES = (20, 32), 8, 128
EXTENT, POINTS = 0.3, 15
GUESSING = math.log(10)


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What `measure` saw.

    Attributes
    ----------
    depths : tuple of int
    surfaces : {"plain-20", "residual-20", ...: list of LossSurface}
        One a seed.
    """

    depths: tuple
    surfaces: dict

    def of(self, figure, kind, depth):
        """(S,) of a figure, such as `folds`, of one network."""
        return np.array([figure(surface) for surface in self.surfaces[f"{kind}-{depth}"]])


def measure(
    *, seeds=10, depths=DEPTHS, epochs=EPOCHS, images=IMAGES, points=POINTS, ops=default_ops
):
    """The loss around plain and residual networks, trained alike.

    Parameters
    ----------
    seeds : int
        At most two are used: networks are trained.
    depths : tuple of int
    epochs, images, points : int
        How long they are trained, of how many training digits the loss is, and the grid.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Surfaces
    """
    data = load_digits()
    seen, loss = (data.x_train[:images], data.y_train[:images]), SoftmaxCrossEntropy(ops=ops)
    surfaces = {f"{kind}-{depth}": [] for depth in depths for kind in ("plain", "residual")}
    for seed in range(min(seeds, TRAINED)):
        for name, found in surfaces.items():
            kind, depth = name.split("-")
            weights, order, directions = streams(seed, 3)
            model = train(network(kind, int(depth), weights, ops), epochs, order, ops)
            given = {"extent": EXTENT, "points": points, "loss": loss, "progress": False}
            found.append(loss_surface(model, *seen, rng=directions, **given))
    return Surfaces(tuple(depths), surfaces)


def folds(surface):
    """The share of places at which the loss bends down along a line of the grid."""
    bends = [np.diff(surface.loss, 2, axis=axis).ravel() for axis in (0, 1)]
    return (np.concatenate(bends) < 0).mean()


def width(surface):
    """The share of the grid on which the loss is below that of guessing."""
    return (surface.loss < GUESSING).mean()


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : Surfaces

    Returns
    -------
    rows : list of Row
        "Hardly any" is 0 with a tolerance of 0.06, "clearly more" a difference of 0.25 with 0.2,
        "narrower" a ratio of 0.5 with 0.5.
    """
    found = []
    for depth in result.depths:
        seeds = f"{len(result.surfaces[f'plain-{depth}'])} seeds"
        plain, residual = (result.of(folds, kind, depth) for kind in ("plain", "residual"))
        wide, wider = (result.of(width, kind, depth) for kind in ("plain", "residual"))
        found += [
            row(f"folds, residual-{depth}, {seeds}", 0, 0.06, residual),
            row(f"folds, plain-{depth} minus residual-{depth}", 0.25, 0.2, plain - residual),
            row(f"width, plain-{depth} over residual-{depth}", 0.5, 0.5, wide / wider),
        ]
    return found
