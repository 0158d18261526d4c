"""What is written down of one step: a record of each layer, Parameter, residual block, histogram.

Norms are Euclidean. A gradient is that of the loss, as the loss gave it: of the mean over the
batch for minires' own losses.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerRecord:
    """What went through one layer, forward and backward.

    Attributes
    ----------
    step : int
        From 1: forward passes with training=True since the recorder was made.
    path : str
        Dotted; "" is the model itself.
    layer : str
        Its class.
    y_norm, y_mean, y_std, y_zeros : float
        Of its output; `zeros` is the share of numbers that are exactly 0.
    dy_norm, dy_mean, dy_std, dy_zeros : float
        Of the upstream gradient.
    dx_norm, dx_mean, dx_std, dx_zeros : float
        Of the gradient that it passes on.
    dead : float or None
        For a ReLU: the share of units that gave 0 for every example (and every pixel) of the
        batch. A unit is one channel or feature, the last axis. None for other layers, and where
        the batch has less than 16 rows: half of all units are 0 for a single example.
    """

    step: int
    path: str
    layer: str
    y_norm: float
    y_mean: float
    y_std: float
    y_zeros: float
    dy_norm: float
    dy_mean: float
    dy_std: float
    dy_zeros: float
    dx_norm: float
    dx_mean: float
    dx_std: float
    dx_zeros: float
    dead: float | None = None


@dataclass(frozen=True)
class ParameterRecord:
    """One Parameter.

    Attributes
    ----------
    step : int
    path : str
    role : {"weight", "bias", "norm"}
    depth : int or None
        For weights with at least two axes outside shortcuts: 1 for the one next to the input.
    value_norm : float
        Before the update.
    grad_norm : float
        After the backward pass, before clipping.
    update_norm : float
        Of the difference between the value at the next training pass (or at the end of the `with`
        block) and this one's: what the optimiser did.
    update_ratio : float
        update_norm / value_norm. About 1e-3 is a common guide for weights.
    """

    step: int
    path: str
    role: str
    depth: int | None
    value_norm: float
    grad_norm: float
    update_norm: float
    update_ratio: float


@dataclass(frozen=True)
class ResidualRecord:
    """The ledger of one residual block: how the gradient splits at y = shortcut(x) + branch(x).

    Attributes
    ----------
    step : int
    path : str
    dy_norm : float
        Of what comes in.
    shortcut_norm, branch_norm : float
        Of the gradients that the two paths give back; dx is their sum. An identity gives dy itself.
    cosine : float
        Of the angle between the two.
    dx_norm : float
        Of what goes out.
    shortcut_share : float
        <shortcut part, dx> / ||dx||^2; the branch has the rest, so that shares add up to 1. Outside
        [0, 1] one path works against the sum.
    x_norm, f_norm : float
        Of x, and of F(x) as the branch layer gives it.
    branch_ratio : float
        ||F(x)|| / ||x||.
    """

    step: int
    path: str
    dy_norm: float
    shortcut_norm: float
    branch_norm: float
    cosine: float
    dx_norm: float
    shortcut_share: float
    x_norm: float
    f_norm: float
    branch_ratio: float


@dataclass(frozen=True)
class HistogramRecord:
    """How the numbers of one array are spread.

    Attributes
    ----------
    step : int
    path : str
    array : {"y", "dy", "dx"}
    low, high : float
        The smallest and the largest number.
    counts : tuple of int
        Numbers in bins of equal width from low to high.
    """

    step: int
    path: str
    array: str
    low: float
    high: float
    counts: tuple[int, ...]


KINDS = {
    "layer": LayerRecord,
    "parameter": ParameterRecord,
    "residual": ResidualRecord,
    "histogram": HistogramRecord,
}


def ratio(a, b):
    """a / b as floats; what is divided by 0 is NaN or infinite, in silence."""
    if b:
        return a / b
    return float("nan") if not a or a != a else float("inf")
