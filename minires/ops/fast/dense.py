"""The affine map: matrix products on the kernels' threads."""

import numpy as np

from minires.ops import reference
from minires.ops.fast.blas import calm
from minires.ops.fast.matmul import alone, matmul
from minires.ops.fast.memory import empty
from minires.ops.fast.sums import channel_sum
from minires.ops.reference.dense import DenseCache


def dense_forward(x, weight, bias):
    """y = x w + b; see `reference`."""
    products = len(x) * weight.size
    if not covers(x, weight) or x.shape[1:] != weight.shape[:1]:
        with calm(products):
            return reference.dense_forward(x, weight, bias)
    y = empty((len(x), weight.shape[1]), x.dtype)
    with alone(products):
        matmul(np.ascontiguousarray(x), np.ascontiguousarray(weight), y)
    if bias is not None:
        y += bias
    return y, DenseCache(x, weight)


def dense_backward(dy, cache):
    """Gradients of `dense_forward`; see `reference`."""
    x, weight = cache
    products = len(dy) * weight.size
    if not covers(dy, x, weight) or dy.shape != (len(x), weight.shape[1]):
        with calm(products):
            return reference.dense_backward(dy, cache)
    dx, dweight = empty(x.shape, x.dtype), empty(weight.shape, x.dtype)
    dy, x, weight = map(np.ascontiguousarray, (dy, x, weight))
    with alone(products):
        matmul(dy, weight.T, dx)
        matmul(x.T, dy, dweight)
    return dx, dweight, channel_sum(dy)


def covers(*matrices):
    """Whether all are matrices of one dtype that BLAS multiplies, and none is empty."""
    dtype = matrices[0].dtype
    return dtype in (np.float32, np.float64) and all(
        a.ndim == 2 and a.dtype == dtype and a.size for a in matrices
    )
