"""Neighbouring layers in one op: what `fuse` replaces them with.

Here they are the plain ops one after the other; `ops/fast` does them in one pass over memory.
"""

from typing import NamedTuple

import numpy as np

from minires.checks import expect_array
from minires.ops.reference.batchnorm import (
    BatchNormCache,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference_backward,
    batchnorm_inference_forward,
    channel_moments,
)
from minires.ops.reference.conv import conv2d_backward, conv2d_forward
from minires.ops.reference.relu import relu_backward, relu_forward
from minires.ops.window import resolve_window


class FusedCache(NamedTuple):
    """The cache of the batch norm, and what tells where the ReLU let pass."""

    norm: BatchNormCache
    beta: np.ndarray  # (C,)
    y: np.ndarray  # (..., C); None in `ops.fast` where the mask comes from x and beta


def conv2d_moments_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """A convolution, and the mean and variance of its output for the batch norm behind it.

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups
        As for `conv2d_forward`.

    Returns
    -------
    y : (N, OH, OW, F)
    cache : ConvCache
    moments : (mean, var), (F,) each
        The variance is the biased one.
    """
    y, cache = conv2d_forward(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return y, cache, channel_moments(y)


def batchnorm_relu_conv2d_forward(
    x,
    gamma,
    beta,
    weight,
    bias=None,
    *,
    eps,
    moments=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
):
    """conv2d(relu(batchnorm(x))), statistics of the batch, and the moments of the output.

    Parameters
    ----------
    x, gamma, beta, eps, moments
        As for `batchnorm_relu_forward`.
    weight, bias, stride, padding, dilation, groups
        As for `conv2d_forward`.

    Returns
    -------
    y : (N, OH, OW, F)
    norm_cache : FusedCache
        For `batchnorm_relu_backward`.
    conv_cache : ConvCache
        For `conv2d_backward`.
    moments : (mean, var), (F,) each
        Of y.
    """
    h, norm_cache = batchnorm_relu_forward(x, gamma, beta, eps=eps, moments=moments)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y, conv_cache, found = conv2d_moments_forward(h, weight, bias, **options)
    return y, norm_cache, conv_cache, found


def conv2d_add_backward(dy, cache, other):
    """dx + other, dweight, dbias of `conv2d_forward`: the residual sum on the way back.

    Parameters
    ----------
    dy : (N, OH, OW, F) float
    cache : ConvCache
    other : (N, H, W, C) float
        The gradient that reaches x on another path.
    """
    expect_other(other, cache, dy)
    dx, dweight, dbias = conv2d_backward(dy, cache)
    return other + dx, dweight, dbias


def conv2d_batchnorm_relu_backward(dy, norm_cache, cache, other=None, sums=None):
    """The gradients of relu(batchnorm(conv2d(x))), or of a part of a larger sum.

    Parameters
    ----------
    dy : (N, OH, OW, F) float
    norm_cache : FusedCache
        From `batchnorm_relu_forward`, statistics of the batch.
    cache : ConvCache
    other : (N, H, W, C) float, optional
        The gradient that reaches x on another path; added to dx.
    sums : optional
        What `conv2d_batchnorm_add_relu_backward` gave beside this dy, which must not have changed
        since: a fast op then leaves out its pass for the sums over the batch.

    Returns
    -------
    dx : (N, H, W, C)
    dweight, dbias, dgamma, dbeta
    """
    expect_gradient("conv2d_batchnorm_relu_backward", dy, norm_cache)
    dy, *of_norm = batchnorm_relu_backward(dy, norm_cache)
    back = conv2d_backward(dy, cache) if other is None else conv2d_add_backward(dy, cache, other)
    return *back, *of_norm


def conv2d_batchnorm_add_relu_backward(dy, norm_cache, cache):
    """The gradients of relu(batchnorm(conv2d(x)) + residual).

    Parameters
    ----------
    dy : (N, OH, OW, F) float
    norm_cache : FusedCache
        From `batchnorm_add_relu_forward`, statistics of the batch.
    cache : ConvCache

    Returns
    -------
    dx : (N, H, W, C)
    dresidual : (N, OH, OW, F)
    dweight, dbias, dgamma, dbeta
    sums : optional
        None here. Where `cache` is from `batchnorm_relu_conv2d_forward`, a fast op may give what
        `conv2d_batchnorm_relu_backward` of the convolution in front takes as `sums`.
    """
    expect_gradient("conv2d_batchnorm_add_relu_backward", dy, norm_cache)
    dy, dresidual, *of_norm = batchnorm_add_relu_backward(dy, norm_cache)
    dx, *of_conv = conv2d_backward(dy, cache)
    return dx, dresidual, *of_conv, *of_norm, None


def expect_gradient(owner, dy, norm_cache):
    """Refuse a gradient that has not the shape and dtype of the norm's output."""
    x = norm_cache.norm.x
    if dy.shape != x.shape or dy.dtype != x.dtype:
        expect_array(owner, "dy", dy, x.shape, dtype=x.dtype, like="x")


def expect_other(other, cache, dy):
    """Refuse a gradient of another path that has not the shape and dtype of this one's."""
    options = {"dtype": dy.dtype, "like": "dy"}
    expect_array("conv2d_add_backward", "other", other, cache.x.shape, **options)


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
    """relu(conv2d(x) + residual), for inference: nothing is kept for a backward pass.

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups
        As for `conv2d_forward`.
    residual : (N, OH, OW, F) float, optional
        Added to the convolution's output.
    relu : bool
        Whether the ReLU follows.

    Returns
    -------
    y : (N, OH, OW, F)
    """
    y, _ = conv2d_forward(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if residual is not None:
        expect_array("conv2d_add_relu", "residual", residual, y.shape, like="the output")
        y = y + residual
    return relu_forward(y)[0] if relu else y


def prepare_conv2d_add_relu(
    x_shape,
    weight,
    bias=None,
    *,
    adds=False,
    relu=True,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
):
    """`conv2d_add_relu_forward` for many calls with the same weights and shapes.

    A fast op makes beforehand what does not depend on the images, packed weights above all.

    Parameters
    ----------
    x_shape : tuple of int
        (N, H, W, C).
    weight, bias : arrays
        No number in them may change while the function returned is in use.
    adds : bool
        Whether there is a residual.
    relu, stride, padding, dilation, groups
        As for `conv2d_add_relu_forward`.

    Returns
    -------
    forward : function
        y = forward(x), or forward(x, residual) where it adds; arrays of the weight's dtype.
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    window = resolve_window("conv2d", x_shape[1:3], weight.shape[:2], stride, padding, dilation)
    shapes = x_shape, (x_shape[0], *window.out, weight.shape[3]) if adds else None

    def forward(x, residual=None):
        expect_prepared(x, residual, *shapes, weight.dtype)
        return conv2d_add_relu_forward(x, weight, bias, residual, relu=relu, **options)

    return forward


def expect_prepared(x, residual, x_shape, y_shape, dtype):
    """Refuse arrays for which nothing was prepared; without `y_shape` there is no residual."""
    if x.shape != x_shape or x.dtype != dtype:
        expect_array("conv2d_add_relu", "x", x, x_shape, dtype=dtype, like="the weight")
    if (residual is None) is not (y_shape is None):
        wanted, came = ("no ", "one") if y_shape is None else ("a ", "none")
        raise ValueError(f"conv2d_add_relu expects {wanted}residual, as was prepared, got {came}")
    if y_shape and (residual.shape != y_shape or residual.dtype != dtype):
        expected = {"dtype": dtype, "like": "the weight"}
        expect_array("conv2d_add_relu", "residual", residual, y_shape, **expected)


def batchnorm_relu_forward(x, gamma, beta, *, eps, moments=None):
    """relu(batchnorm(x)), statistics of the batch.

    Parameters
    ----------
    x : (N, H, W, C) or (N, C) float
    gamma, beta : (C,) float
    eps : float
    moments : (mean, var), (C,) each, optional
        As for `batchnorm_forward`.

    Returns
    -------
    y : like x
    cache : FusedCache
    """
    z, norm = batchnorm_forward(x, gamma, beta, eps=eps, moments=moments)
    y, mask = relu_forward(z)
    return y, FusedCache(norm, beta, mask)


def batchnorm_relu_backward(dy, cache):
    """dx, dgamma, dbeta of `batchnorm_relu_forward`."""
    return batchnorm_backward(relu_backward(dy, cache.y), cache.norm)


def batchnorm_add_relu_forward(x, residual, gamma, beta, *, eps, moments=None):
    """relu(batchnorm(x) + residual), statistics of the batch.

    Parameters
    ----------
    x, residual : (N, H, W, C) or (N, C) float
    gamma, beta : (C,) float
    eps : float
    moments : (mean, var), (C,) each, optional
        As for `batchnorm_forward`.

    Returns
    -------
    y : like x
    cache : FusedCache
    """
    z, norm = batchnorm_forward(x, gamma, beta, eps=eps, moments=moments)
    y, mask = relu_forward(z + residual)
    return y, FusedCache(norm, beta, mask)


def batchnorm_add_relu_backward(dy, cache):
    """dx, dresidual, dgamma, dbeta of `batchnorm_add_relu_forward`."""
    dresidual = relu_backward(dy, cache.y)
    dx, dgamma, dbeta = batchnorm_backward(dresidual, cache.norm)
    return dx, dresidual, dgamma, dbeta


def batchnorm_inference_relu_forward(x, gamma, beta, mean, var, *, eps):
    """relu(batchnorm(x)) for given statistics.

    Parameters
    ----------
    x : (N, H, W, C) or (N, C) float
    gamma, beta, mean, var : (C,) float
    eps : float

    Returns
    -------
    y : like x
    cache : FusedCache
    """
    z, norm = batchnorm_inference_forward(x, gamma, beta, mean, var, eps=eps)
    y, mask = relu_forward(z)
    return y, FusedCache(norm, beta, mask)


def batchnorm_inference_relu_backward(dy, cache):
    """dx, dgamma, dbeta of `batchnorm_inference_relu_forward`."""
    return batchnorm_inference_backward(relu_backward(dy, cache.y), cache.norm)


def batchnorm_inference_add_relu_forward(x, residual, gamma, beta, mean, var, *, eps):
    """relu(batchnorm(x) + residual) for given statistics.

    Parameters
    ----------
    x, residual : (N, H, W, C) or (N, C) float
    gamma, beta, mean, var : (C,) float
    eps : float

    Returns
    -------
    y : like x
    cache : FusedCache
    """
    z, norm = batchnorm_inference_forward(x, gamma, beta, mean, var, eps=eps)
    y, mask = relu_forward(z + residual)
    return y, FusedCache(norm, beta, mask)


def batchnorm_inference_add_relu_backward(dy, cache):
    """dx, dresidual, dgamma, dbeta of `batchnorm_inference_add_relu_forward`."""
    dresidual = relu_backward(dy, cache.y)
    dx, dgamma, dbeta = batchnorm_inference_backward(dresidual, cache.norm)
    return dx, dresidual, dgamma, dbeta
