"""The rectifier and the residual sum: one pass over memory on all threads."""

import numpy as np
from numba import prange

from minires.ops.fast.jit import kernel
from minires.ops.fast.memory import empty


def relu_forward(x):
    """y = max(x, 0), NaN stays NaN; see `reference`."""
    x = np.ascontiguousarray(x)
    y = empty(x.shape, x.dtype)
    rectify(x.reshape(-1), y.reshape(-1))
    return y, y


def relu_backward(dy, y):
    """dx = dy where y > 0, else 0; see `reference`."""
    dy = np.ascontiguousarray(dy)
    dx = empty(dy.shape, dy.dtype)
    mask(dy.reshape(-1), np.ascontiguousarray(y).reshape(-1), dx.reshape(-1))
    return dx


@kernel
def rectify(x, y):
    for i in prange(x.size):
        y[i] = x[i] if not x[i] <= 0 else x.dtype.type(0)


@kernel
def mask(dy, y, dx):
    for i in prange(dy.size):
        d, positive = dy[i], y[i] > 0  # both loaded before the choice, or it does not vectorise
        dx[i] = d if positive else y.dtype.type(0)
