"""The gradient at the input as a sum over paths, sorted by how many branches they pass."""

import contextlib
import math
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from minires.checks import expect_int
from minires.core import add_path, retain_caches
from minires.flow.undisturbed import undisturbed
from minires.layers import Residual, Sequential
from minires.layers.containers import expect_layer
from minires.layers.fused import Fused
from minires.losses import default_loss


@dataclass(frozen=True, eq=False)
class PathGradients:
    """The gradient at the input, one part for each path length; the length counts branches.

    Attributes
    ----------
    parts : (L + 1, *x.shape) float
        `parts[k]` is the sum over all paths that pass k branches.
    total : (*x.shape,) float
        The gradient of an ordinary backward pass: the sum of the parts, to rounding.
    counts : list of int
        How many paths have each length; exact.
    """

    parts: np.ndarray
    total: np.ndarray
    counts: list

    @property
    def lengths(self):
        """0..L, (L + 1,) int."""
        return np.arange(len(self.counts))

    @property
    def norms(self):
        """||parts[k]||, (L + 1,) float64."""
        return np.array([np.linalg.norm(part.astype(np.float64)) for part in self.parts])

    @property
    def total_norm(self):
        """||total||, a float. Parts may cancel: it is no sum of `norms`."""
        return float(np.linalg.norm(self.total.astype(np.float64)))

    @property
    def shares(self):
        """<parts[k], total> / ||total||^2, (L + 1,) float64: signed, and they sum to 1."""
        total = self.total.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # no shares of a gradient of zero
            return np.array([np.vdot(part, total) for part in self.parts]) / np.vdot(total, total)

    @property
    def path_shares(self):
        """The share of all paths that has each length, (L + 1,) float64."""
        return np.array([count / sum(self.counts) for count in self.counts])

    @property
    def norm_per_path(self):
        """norms / counts, (L + 1,) float64: the typical path of a length, if none cancel."""
        return self.norms / np.array([float(count) for count in self.counts])


def gradient_by_path_length(model, x, labels, *, loss=None):
    """The parts of the gradient at the input that come by paths of each length; exact.

    One forward pass in training mode, then backward with one gradient for each length. Weights,
    gradients, running statistics, random streams and caches are left as they were.

    Parameters
    ----------
    model : Layer
        Sequentials and Residuals in each other, around layers of any kind; not fused.
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward and backward, optional
        If left out, the cross-entropy that fits the model: see `default_loss`.

    Returns
    -------
    gradients : PathGradients

    Raises
    ------
    TypeError
        If the model is no Layer.
    ValueError
        If it has a fused layer, or a layer of another kind with a Residual inside: their paths
        cannot be told apart.
    RuntimeError
        If the backward of a layer can be called only once after its forward.

    Notes
    -----
    A backward pass is linear, and at every Residual dx = shortcut'(dy) + branch'(dy), so L blocks
    one after the other give a sum over 2^L paths. With G_k the part of paths of length k,

        G_k <- shortcut'(G_k) + branch'(G_{k-1})

    at a Residual, and G_k <- layer'(G_k) elsewhere, with the ReLU masks and batch statistics of
    the one forward pass. That is L branches times at most L parts, instead of 2^L paths. For
    a Residual in a branch the same is done inside: its paths count both branches.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, section 5 and figure 6, which samples the paths.
    """
    expect_layer("gradient_by_path_length", "model", model)
    expect_known_paths(model)
    loss = default_loss(model, loss)
    with repeatable(model):
        loss.forward(model.forward(x, training=True), labels)
        dy = loss.backward()
        total = model.backward(dy)
        parts = by_length(model, [dy], backward_again)
    counts = by_length(model, [1], lambda layer, count: count)
    return PathGradients(np.stack(parts), total.copy(), counts)


def by_length(layer, parts, backward):
    """Parts behind `layer` -> parts in front of it, [k]: by k branches.

    With counts instead of gradients, and nothing to do in a layer, it counts paths.
    """
    if type(layer)._backward is Residual._backward:
        with in_layer("shortcut"):
            shortcut = by_length(layer.shortcut, parts, backward)
        with in_layer("branch"):
            branch = by_length(layer.branch, parts, backward)
        return [a + b for a, b in zip_longest(shortcut, [0, *branch], fillvalue=0)]
    if type(layer)._backward is Sequential._backward:
        for name, child in reversed(layer.children()):
            with in_layer(name):
                parts = by_length(child, parts, backward)
        return parts
    return [backward(layer, part) for part in parts]


def backward_again(layer, dy):
    """`layer.backward` after an ordinary one, which went well."""
    try:
        return layer.backward(dy)
    except Exception as error:
        raise RuntimeError(
            f"gradient_by_path_length expects a backward that can be called several times and "
            f"leaves its cache as it is, got {type(error).__name__} ({error}) from the second of "
            f"{type(layer).__name__}"
        ) from error


@contextlib.contextmanager
def in_layer(name):
    """An error that passes gets the name of a layer, as it does on its way out of a container."""
    try:
        yield
    except Exception as error:
        add_path(error, name)
        raise


def path_counts(blocks):
    """How many of the 2^blocks paths through a chain of residual blocks pass 0..blocks branches.

    Parameters
    ----------
    blocks : int
        At least 0.

    Returns
    -------
    counts : list of int
        Binomials, exact.

    Examples
    --------
    >>> path_counts(3)
    [1, 3, 3, 1]
    """
    blocks = expect_int("path_counts", "blocks", blocks, at_least=0)
    return [math.comb(blocks, k) for k in range(blocks + 1)]


def share_of_paths(blocks, shortest, longest):
    """The share of the paths through a chain that pass `shortest` to `longest` branches.

    Parameters
    ----------
    blocks, shortest, longest : int
        0 <= shortest <= longest <= blocks.

    Returns
    -------
    share : float

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, section 5 and figure 6 (a).

    Examples
    --------
    >>> round(share_of_paths(54, 19, 35), 3)
    0.98
    """
    counts = path_counts(blocks)
    shortest = expect_int("share_of_paths", "shortest", shortest, at_least=0)
    longest = expect_int("share_of_paths", "longest", longest, at_least=0)
    if not shortest <= longest <= blocks:
        raise ValueError(
            f"share_of_paths expects shortest <= longest <= blocks, "
            f"got {shortest}, {longest} and {blocks}"
        )
    return sum(counts[shortest : longest + 1]) / 2**blocks


def expect_known_paths(layer, path=""):
    """Refuse a model in which `by_length` would take several paths for one."""
    kind = type(layer)
    where = f" as {path}" if path else ""
    if isinstance(layer, Fused):
        raise ValueError(
            f"gradient_by_path_length expects no fused layer, got {kind.__name__}{where}: give it "
            f"the model that `fuse` was given"
        )
    if kind._backward in (Residual._backward, Sequential._backward):
        for name, child in layer.children():
            expect_known_paths(child, f"{path}.{name}" if path else name)
    elif any(isinstance(inner, Residual) for _, inner in layer.named_layers()):
        raise ValueError(
            f"gradient_by_path_length expects every Residual to stand in Sequentials and "
            f"Residuals, with their own backward, got one in {kind.__name__}{where}"
        )


@contextlib.contextmanager
def repeatable(model):
    """`undisturbed`, with as many backward passes after a forward pass as wanted.

    The caches of before come back, too: a backward pass that is still to come finds its own.
    """
    layers = [layer for _, layer in model.named_layers()]
    caches = [layer._cache for layer in layers]
    try:
        with undisturbed(model), retain_caches(model):
            yield
    finally:
        for layer, cache in zip(layers, caches, strict=True):
            layer._cache = cache
