"""Gradients with respect to the input along a line, and how fast they forget each other.

In a shallow net the gradients at two nearby inputs resemble each other; in a deep plain one they
are as unrelated as white noise, and a step that helps one input says nothing about its neighbour.
`minires.experiments.shattering` measures it.

References
----------
Balduzzi et al. (2017), "The Shattered Gradients Problem", arXiv:1702.08591, figure 1.
"""

import numpy as np

from minires.checks import expect_array, expect_int
from minires.flow.undisturbed import undisturbed
from minires.layers.containers import expect_layer


def input_gradients(model, x, *, training=True, dy=None):
    """The gradient of the sum of the outputs, or of <dy, y>, with respect to each row of x.

    One forward and one backward pass; gradients of the Parameters, running statistics and random
    streams are left as they were.

    Parameters
    ----------
    model : Layer
    x : (P, ...) float
    training : bool
        As in `Layer.forward`. With the statistics of the batch, row i also acts on the outputs of
        the other rows; with `training=False` row i of the result is dy_i/dx_i and nothing else.
    dy : array, optional
        Weights of the outputs, of the shape of y; all 1 if left out.

    Returns
    -------
    dx : (P, ...)
    """
    with undisturbed(expect_layer("input_gradients", "model", model)):
        y = model.forward(x, training=training)
        return model.backward(np.ones_like(y) if dy is None else dy)


def autocorrelation(gradients, max_lag=15):
    """How much the gradient at one point of a line says about the gradient k points further.

    Parameters
    ----------
    gradients : (P, ...) float
        At P equidistant points, such as from `input_gradients`.
    max_lag : int
        Below P.

    Returns
    -------
    R : (max_lag + 1,) float64
        R[0] is 1. White noise has 0 from R[1] on, brown noise falls slowly.

    Raises
    ------
    ValueError
        If the gradients are all the same: R is 0/0 then.

    Notes
    -----
    With the mean gbar over the line,

        R(k) = sum_i <g_i - gbar, g_{i+k} - gbar> / sum_i |g_i - gbar|^2,

    where the sum in the numerator has k terms less, as is usual.

    References
    ----------
    Balduzzi et al. (2017), arXiv:1702.08591, figure 1.

    Examples
    --------
    >>> autocorrelation(np.array([[1.0], [-1.0], [1.0], [-1.0]]), max_lag=2)
    array([ 1.  , -0.75,  0.5 ])
    """
    expect_array("autocorrelation", "gradients", gradients)
    P, max_lag = len(gradients), expect_int("autocorrelation", "max_lag", max_lag, at_least=0)
    if max_lag >= P:
        raise ValueError(f"autocorrelation expects a max_lag below {P}, the points, got {max_lag}")
    g = gradients.reshape(P, -1).astype(np.float64)
    if (g == g[0]).all():
        raise ValueError(f"autocorrelation expects gradients that differ, got {P} times the same")
    g = g - g.mean(axis=0)
    return np.array([np.vdot(g[: P - k], g[k:]) for k in range(max_lag + 1)]) / np.vdot(g, g)


def line(x0, x1, points):
    """Equidistant inputs from `x0` to `x1`, both included.

    Parameters
    ----------
    x0, x1 : float arrays of one shape (...)
    points : int
        P, at least 2.

    Returns
    -------
    x : (P, ...), of the dtype of `x0`
    """
    expect_array("line", "x0", x0)
    expect_array("line", "x1", x1, x0.shape, dtype=x0.dtype, like="x0")
    return np.linspace(x0, x1, expect_int("line", "points", points, 2), dtype=x0.dtype)
