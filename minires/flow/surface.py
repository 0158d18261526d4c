"""The loss on a plane through the weights, along two random directions of the filters' own size."""

import copy
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minires.checks import as_rng, expect_int, expect_number
from minires.layers.containers import expect_layer
from minires.losses import default_loss
from minires.training import evaluate


@dataclass(frozen=True, eq=False)
class LossSurface:
    """The loss on a grid in the plane weights + alpha d1 + beta d2.

    Attributes
    ----------
    alphas, betas : (points,) float64
        From -extent to extent; the one in the middle is exactly 0.
    loss : (points, points) float64
        `loss[i, j]` at `alphas[i]`, `betas[j]`; infinite or NaN where it was.
    moved : tuple of str
        Paths of the Parameters that have a direction.
    """

    alphas: np.ndarray
    betas: np.ndarray
    loss: np.ndarray
    moved: tuple

    @property
    def centre(self):
        """The loss of the model itself."""
        middle = len(self.alphas) // 2
        return float(self.loss[middle, middle])


def loss_surface(
    model, x, labels, *, extent=1.0, points=21, rng=None, loss=None, batch_size=256, progress=None
):
    """The loss around the weights of a model, in inference mode, on a plane of two directions.

    Parameters
    ----------
    model : Layer
        Left as it was: the weights of a copy move.
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    extent : float
        1 moves every filter by its own norm.
    points : int
        Along each direction; odd, so that one is the model itself.
    rng : None, int or numpy.random.Generator
        Draws the directions. As in NumPy, None draws from the system's entropy.
    loss : object with forward, optional
        If left out, the cross-entropy that fits the model: see `default_loss`.
    batch_size : int
    progress : bool, optional
        Whether to draw a bar; left out, it is drawn in a terminal only.

    Returns
    -------
    surface : LossSurface

    Notes
    -----
    Behind a batch norm, or between ReLUs, weights can be scaled without changing the function, and
    a step of one length means little to large weights and much to small ones. Directions whose
    filters have the norms of the weights' filters make surfaces of different networks comparable.

    References
    ----------
    Li et al. (2018), arXiv:1712.09913, section 4.
    """
    loss = default_loss(expect_layer("loss_surface", "model", model), loss)
    extent = expect_number("loss_surface", "extent", extent, above=0)
    alphas = extent * symmetric_grid(points)
    rng = own_stream("loss_surface", rng)
    first, second = (filter_normalised_direction(model, rng) for _ in range(2))
    twin = copy.deepcopy(model)
    start = [parameter.value.copy() for parameter in twin.parameters()]
    surface = np.empty((points, points))
    disable = None if progress is None else not progress
    with tqdm(total=surface.size, disable=disable, unit="point", leave=False) as bar:
        for i, j in np.ndindex(surface.shape):
            step = [alphas[i] * a + alphas[j] * b for a, b in zip(first, second, strict=True)]
            move(twin, start, step)
            with np.errstate(all="ignore"):  # an infinite loss is a result, too
                surface[i, j] = evaluate(twin, x, labels, loss=loss, batch_size=batch_size).loss
            bar.update()
    return LossSurface(alphas, alphas.copy(), surface, moved_paths(model))


def filter_normalised_direction(model, rng=None):
    """A random direction in which every filter has the norm of the same filter of the weights.

    Parameters
    ----------
    model : Layer
    rng : None, int or numpy.random.Generator

    Returns
    -------
    direction : list of arrays
        One a Parameter, of its shape and dtype, in the order of `model.parameters()`. A filter is
        what has one index of the last axis. Biases, gammas and betas get zeros.

    Raises
    ------
    ValueError
        If no Parameter has filters.

    Notes
    -----
    With d drawn from a normal distribution, d_f <- d_f / ||d_f|| * ||w_f||.

    References
    ----------
    Li et al. (2018), arXiv:1712.09913, section 4.
    """
    expect_layer("filter_normalised_direction", "model", model)
    if not moved_paths(model):
        raise ValueError(
            "filter_normalised_direction expects a model with weights of two or more axes, "
            "as convolutions and dense layers have them, got none"
        )
    rng = own_stream("filter_normalised_direction", rng)
    return [filters_of_norm(parameter.value, rng) for parameter in model.parameters()]


def own_stream(owner, rng):
    """A Generator as it is; for a seed, a stream that nobody else gets from the same seed.

    Models draw their weights from a normal distribution, too: with the same seed for both, the
    direction would be the first weights themselves.
    """
    generator = as_rng(owner, rng)
    return generator if generator is rng else generator.spawn(1)[0]


def filters_of_norm(weight, rng):
    """Random numbers like `weight`, with its norm for each index of the last axis."""
    if weight.ndim < 2:
        return np.zeros_like(weight)
    direction = rng.standard_normal(weight.shape)
    scale = filter_norms(weight.astype(np.float64)) / filter_norms(direction)  # (F,)
    return (direction * scale).astype(weight.dtype)


def filter_norms(weight):
    """(..., F) -> (F,)."""
    return np.linalg.norm(weight.reshape(-1, weight.shape[-1]), axis=0)


def moved_paths(model):
    """The paths of the Parameters with filters."""
    return tuple(path for path, parameter in model.named_parameters() if len(parameter.shape) > 1)


def move(model, start, step):
    """Set the weights to start + step, in the dtype of start."""
    for parameter, weight, moved in zip(model.parameters(), start, step, strict=True):
        parameter.value = weight + moved.astype(weight.dtype)


def symmetric_grid(points):
    """From -1 to 1, with an exact 0 in the middle; (points,) float64."""
    points = expect_int("loss_surface", "points", points, at_least=3)
    if points % 2 == 0:
        raise ValueError(
            f"loss_surface expects an odd number of points, so that one is the model itself, "
            f"got {points}"
        )
    half = points // 2
    return np.arange(-half, half + 1) / half
