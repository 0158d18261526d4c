"""Batch norm with what follows it, in the two passes that batch norm takes anyway.

Apart, batch norm, sum and ReLU read 4 images and write 3 on the way forward; together they read 3
(x twice) and write 1. The kernels are `batchnorm.py`'s with another last step.
"""

import numpy as np

from minires.ops.fast.batchnorm import (
    batchnorm_inference_backward,
    dx_masked,
    dx_plain,
    inference_forward,
    masked_sums,
    normalise_add_relu,
    normalise_relu,
    residual_sums,
    training_backward,
    training_forward,
)
from minires.ops.fast.conv import conv2d_forward
from minires.ops.fast.jit import PARTS, kernel, part_of
from minires.ops.fast.panels import FEW
from minires.ops.fast.relu import relu_backward
from minires.ops.reference.fused import FusedCache


def conv2d_add_relu_forward(
    x,
    weight,
    bias=None,
    residual=None,
    *,
    relu=True,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
):
    """relu(conv2d(x) + residual) without a cache; see `reference`."""
    y, _ = conv2d_forward(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if residual is not None or relu:
        other = y if residual is None else np.ascontiguousarray(residual)
        run = finish.alone if y.size < FEW else finish
        run(PARTS, y.reshape(-1), other.reshape(-1), residual is not None, relu)
    return y


@kernel
def finish(k, y, other, adds, rectifies):
    """y = relu(y + other) in place, both steps optional."""
    y, other, zero = part_of(y, k), part_of(other, k), y.dtype.type(0)
    if adds:
        for i in range(min(y.size, other.size)):
            y[i] += other[i]
    if rectifies:
        for i in range(y.size):
            y[i] = y[i] if not y[i] <= zero else zero


def batchnorm_relu_forward(x, gamma, beta, *, eps):
    """relu(batchnorm(x)), statistics of the batch; see `reference`."""
    y, norm = training_forward(x, gamma, beta, eps, normalise_relu)
    return y, FusedCache(norm, beta, y)


def batchnorm_relu_backward(dy, cache):
    """dx, dgamma, dbeta; the mask is computed again from x, which is read anyway."""
    dy = np.ascontiguousarray(dy)
    return training_backward(dy, cache.norm, cache.beta, masked_sums, dx_masked)


def batchnorm_add_relu_forward(x, residual, gamma, beta, *, eps):
    """relu(batchnorm(x) + residual), statistics of the batch; see `reference`."""
    y, norm = training_forward(x, gamma, beta, eps, normalise_add_relu, residual)
    return y, FusedCache(norm, beta, y)


def batchnorm_add_relu_backward(dy, cache):
    """dx, dresidual, dgamma, dbeta; see `reference`."""
    dy = np.ascontiguousarray(dy)
    return training_backward(dy, cache.norm, cache.beta, residual_sums, dx_plain, cache.y)


def batchnorm_inference_relu_forward(x, gamma, beta, mean, var, *, eps):
    """relu(batchnorm(x)) for given statistics; see `reference`."""
    y, norm = inference_forward(x, gamma, beta, mean, var, eps, normalise_relu)
    return y, FusedCache(norm, beta, y)


def batchnorm_inference_relu_backward(dy, cache):
    """dx, dgamma, dbeta; see `reference`."""
    return batchnorm_inference_backward(relu_backward(dy, cache.y), cache.norm)


def batchnorm_inference_add_relu_forward(x, residual, gamma, beta, mean, var, *, eps):
    """relu(batchnorm(x) + residual) for given statistics; see `reference`."""
    y, norm = inference_forward(x, gamma, beta, mean, var, eps, normalise_add_relu, residual)
    return y, FusedCache(norm, beta, y)


def batchnorm_inference_add_relu_backward(dy, cache):
    """dx, dresidual, dgamma, dbeta; see `reference`."""
    dresidual = relu_backward(dy, cache.y)
    dx, *rest = batchnorm_inference_backward(dresidual, cache.norm)
    return dx, dresidual, *rest
