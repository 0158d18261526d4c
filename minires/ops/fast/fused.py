"""Batch norm with what follows it, in the two passes that batch norm takes anyway.

Apart, batch norm, sum and ReLU read 5 images and write 3 on the way forward; together they read 3
(x twice) and write 1. The kernels are `batchnorm.py`'s with another last step.
"""

import numpy as np

from minires.ops import reference
from minires.ops.fast import choice, columns, conv_norm, direct, winograd
from minires.ops.fast.batchnorm import (
    batchnorm_inference_backward,
    channel_moments,
    dx_masked,
    dx_plain,
    forward_lines,
    inference_forward,
    masked_sums,
    normalise_add_relu,
    normalise_relu,
    residual_sums,
    sums_over_batch,
    training_backward,
    training_forward,
)
from minires.ops.fast.conv import NormConvCache, backward, conv2d_forward, filled, plan_for, plan_of
from minires.ops.fast.epilogue import After, finish_in_place, join
from minires.ops.fast.epilogue import moments as moments_of
from minires.ops.fast.memory import empty
from minires.ops.fast.panels import WIDEST
from minires.ops.fast.relu import relu_backward
from minires.ops.reference.batchnorm import BatchNormCache
from minires.ops.reference.conv import ConvCache
from minires.ops.reference.fused import (
    FusedCache,
    expect_gradient,
    expect_other,
    expect_prepared,
)


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
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    adds = residual is not None
    if weight.dtype != x.dtype or (adds and residual.dtype != x.dtype):
        return reference.conv2d_add_relu_forward(x, weight, bias, residual, relu=relu, **options)
    forward = prepare_conv2d_add_relu(x.shape, weight, bias, adds=adds, relu=relu, **options)
    return forward(x, residual)


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
    """A function that does `conv2d_add_relu_forward` for images of one shape; see `reference`."""
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    window, way, *_ = plan_of(x_shape, weight.dtype, weight.shape, weight.dtype, *options.values())
    given = x_shape, weight.dtype, weight.shape, window
    if way in (direct, columns) and winograd.pays(*given, prepared=True):
        way = winograd
    if way is columns and choice.forward_pays(x_shape, weight.shape, window, weight.dtype, True):
        way = direct
    after = After(adds, relu, False)
    if way is reference:
        convolve = finished(lambda x: conv2d_forward(x, weight, bias, **options)[0], after)
    else:
        bias = bias if way is columns else filled(bias, weight)
        given = x_shape, weight, bias, window
        whole = way is winograd
        convolve = way.prepared(*given, after) if whole else finished(way.prepared(*given), after)
    shapes = x_shape, (x_shape[0], *window.out, weight.shape[3]) if adds else None

    def forward(x, residual=None):
        expect_prepared(x, residual, *shapes, weight.dtype)
        return convolve(x if way is reference else np.ascontiguousarray(x), residual)

    return forward


def finished(convolve, after):
    """A convolution, and in a second pass over its output what comes after it."""

    def forward(x, residual):
        y = convolve(x)
        if after.adds or after.rectifies:
            finish_in_place(y, residual, after.rectifies)
        return y

    return forward


def conv2d_moments_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """A convolution, and mean and variance of its output; see `reference`."""
    window, way, *_ = plan_for(x, weight, stride, padding, dilation, groups)
    F = weight.shape[3]
    if way is winograd and F % WIDEST == 0:
        x, found = np.ascontiguousarray(x), moments_of(F)
        y = winograd.forward(x, weight, filled(bias, weight), window, moments=found)
        return y, ConvCache(x, weight, window, groups), join(*found, x.dtype)
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
    """conv2d(relu(batchnorm(x))); see `reference`.

    Winograd's kernels normalise as they read, so that the image between is neither written nor
    kept for the way back.
    """
    window, way, *_ = plan_for(x, weight, stride, padding, dilation, groups)
    C, F = weight.shape[2:]
    joins = way is winograd and winograd.gradient_pays(C, F) and gamma.dtype == x.dtype
    if not joins or C % WIDEST or F % WIDEST:
        h, norm_cache = batchnorm_relu_forward(x, gamma, beta, eps=eps, moments=moments)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y, conv_cache, found = conv2d_moments_forward(h, weight, bias, **options)
        return y, norm_cache, conv_cache, found
    x, found = np.ascontiguousarray(x), moments_of(F)
    mean, var = channel_moments(x) if moments is None else moments
    lines, rstd = forward_lines(x, gamma, beta, mean, var, eps)
    y = winograd.forward(x, weight, filled(bias, weight), window, moments=found, lines=lines)
    norm_cache = FusedCache(BatchNormCache(x, gamma, mean, var, rstd), beta, None)
    return y, norm_cache, NormConvCache(x, weight, window, groups, lines), join(*found, x.dtype)


def conv2d_add_backward(dy, cache, other):
    """dx + other, dweight, dbias; see `reference`."""
    expect_other(other, cache, dy)
    return backward(dy, cache, np.ascontiguousarray(other))


def conv2d_batchnorm_relu_backward(dy, norm_cache, cache, other=None, sums=None):
    """dx, dweight, dbias, dgamma, dbeta; see `reference`."""
    expect_gradient("conv2d_batchnorm_relu_backward", dy, norm_cache)
    if not gradients_join(norm_cache, cache):
        dy, *of_norm = relu_gradients(dy, norm_cache, sums)
        if other is None:
            return *backward(dy, cache), *of_norm
        return *conv2d_add_backward(dy, cache, other), *of_norm
    if other is not None:
        expect_other(other, cache, dy)
        other = np.ascontiguousarray(other)
    dy, (norm, beta, _) = np.ascontiguousarray(dy), norm_cache
    lines, *of_norm = sums_over_batch(dy, norm, beta, masked_sums, parts=sums)
    *back, _ = conv_norm.gradients((norm.x, dy), lines, True, *convolved(cache), other)
    return *back, *of_norm


def conv2d_batchnorm_add_relu_backward(dy, norm_cache, cache):
    """dx, dresidual, dweight, dbias, dgamma, dbeta, sums; see `reference`."""
    expect_gradient("conv2d_batchnorm_add_relu_backward", dy, norm_cache)
    if not gradients_join(norm_cache, cache):
        dy, dresidual, *of_norm = batchnorm_add_relu_backward(dy, norm_cache)
        dx, *of_conv = backward(dy, cache)
        return dx, dresidual, *of_conv, *of_norm, None
    dy, (norm, beta, y) = np.ascontiguousarray(dy), norm_cache
    dresidual = empty(dy.shape, dy.dtype)
    lines, *of_norm = sums_over_batch(dy, norm, beta, residual_sums, y, dresidual)
    given = norm.x, dresidual
    dx, *of_conv, found = conv_norm.gradients(given, lines, False, *convolved(cache))
    return dx, dresidual, *of_conv, *of_norm, found


def gradients_join(norm_cache, cache):
    """Whether the kernels of `conv_norm.py` apply."""
    x, weight, window, groups = cache[:4]
    way = plan_for(x, weight, window.stride, window.padding, window.dilation, groups).back
    y_shape = len(x), *window.out, weight.shape[3]
    return (
        way is winograd
        and norm_cache.norm.x.shape == y_shape
        and norm_cache.norm.x.dtype == norm_cache.beta.dtype == x.dtype
        and conv_norm.pays(x.shape, weight.shape, window)
    )


def convolved(cache):
    """x, weight, and the coefficients of the batch norm whose output was convolved, if any."""
    lines = cache.lines if isinstance(cache, NormConvCache) else winograd.NO_LINES
    return np.ascontiguousarray(cache.x), cache.weight, lines


def batchnorm_relu_forward(x, gamma, beta, *, eps, moments=None):
    """relu(batchnorm(x)), statistics of the batch; see `reference`."""
    y, norm = training_forward(x, gamma, beta, eps, normalise_relu, moments=moments)
    return y, FusedCache(norm, beta, y)


def batchnorm_relu_backward(dy, cache):
    """dx, dgamma, dbeta; the mask is computed again from x, which is read anyway."""
    return relu_gradients(dy, cache)


def relu_gradients(dy, cache, sums=None):
    """`batchnorm_relu_backward`, with parts of its sums over the batch if there are any."""
    dy = np.ascontiguousarray(dy)
    return training_backward(dy, cache.norm, cache.beta, masked_sums, dx_masked, parts=sums)


def batchnorm_add_relu_forward(x, residual, gamma, beta, *, eps, moments=None):
    """relu(batchnorm(x) + residual), statistics of the batch; see `reference`."""
    y, norm = training_forward(x, gamma, beta, eps, normalise_add_relu, residual, moments)
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
