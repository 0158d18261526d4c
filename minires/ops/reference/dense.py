"""The affine map y = x w + b. Read next: `conv.py`, which is this on image windows."""

from typing import NamedTuple

import numpy as np

from minires.ops.reference.sums import channel_sum


class DenseCache(NamedTuple):
    """What the backward pass needs."""

    x: np.ndarray  # (N, D)
    weight: np.ndarray  # (D, F)


def dense_forward(x, weight, bias):
    """y = x w + b.

    Parameters
    ----------
    x : (N, D) float
    weight : (D, F) float
    bias : (F,) float or None

    Returns
    -------
    y : (N, F)
        Same dtype as `x`.
    cache : DenseCache
    """
    y = x @ weight
    if bias is not None:
        y += bias
    return y, DenseCache(x, weight)


def dense_backward(dy, cache):
    """Gradients of y = x w + b.

    Parameters
    ----------
    dy : (N, F) float
        Gradient of the loss with respect to the output.
    cache : DenseCache
        What `dense_forward` returned.

    Returns
    -------
    dx : (N, D), dweight : (D, F), dbias : (F,)
        Same dtype as `dy`. No argument is written to.

    Notes
    -----
    y[n, f] = sum_d x[n, d] w[d, f] + b[f], so each gradient is the product in which the summed
    index is the one that is missing from the result:

        dx = dy w^T,  dw = x^T dy,  db = sum_n dy.
    """
    dx = dy @ cache.weight.T
    dweight = cache.x.T @ dy
    dbias = channel_sum(dy)
    return dx, dweight, dbias
