"""Convolution: which kernels run it. `direct.py` runs any shape, `winograd.py` 3x3 at stride 1,
`scatter.py` the gradient of an input with few channels, `columns.py` what suits no tile.

`covers` says what is left to the reference (groups, dilation), `winograd.pays` and
`winograd.gradient_pays` what goes there, and `choice.py` where columns are faster. Winograd takes
float32 only: its error is 1e-5 of the largest output where the direct sum has 1e-6; float64, which
is there to check, does without.
Read next: `direct.py`.
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np

from minires.checks import expect_array
from minires.ops import reference
from minires.ops.fast import choice, columns, direct, scatter, winograd
from minires.ops.fast.blas import calm
from minires.ops.fast.epilogue import finish_in_place
from minires.ops.fast.panels import padded
from minires.ops.reference.conv import ConvCache
from minires.ops.window import Window, looked_up, resolve_window


def conv2d_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlate images with filters; see `reference.conv2d_forward`."""
    window, way, *_, products = plan_for(x, weight, stride, padding, dilation, groups)
    if way is reference:
        with calm(products):
            return reference.conv2d_forward(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
            )
    bias = bias if way is columns else filled(bias, weight)
    y = way.forward(np.ascontiguousarray(x), weight, bias, window)
    return y, ConvCache(x, weight, window, groups)


def conv2d_backward(dy, cache):
    """Gradients of `conv2d_forward`; see `reference.conv2d_backward`."""
    return backward(dy, cache)


class NormConvCache(NamedTuple):
    """The cache of a convolution of relu(batchnorm(x)) that was never stored as a whole."""

    x: np.ndarray
    weight: np.ndarray
    window: Window
    groups: int
    lines: np.ndarray  # (3, C), the batch norm's coefficients


def conv2d_weight_backward(dy, cache):
    """dweight and dbias alone; see `reference.conv2d_weight_backward`."""
    plan = plan_back(dy, cache)
    if plan.weight is reference:
        with calm(plan.products):
            return reference.conv2d_weight_backward(dy, stored(cache))
    return weight_gradient(np.ascontiguousarray(dy), cache, plan.weight, plan.window)


def backward(dy, cache, other=None):
    """Gradients of a convolution; `other` is added to dx."""
    x, weight, *_ = cache
    plan = plan_back(dy, cache)
    way, window = plan.back, plan.window
    if way is reference:
        with calm(plan.products):
            dx, dweight, dbias = reference.conv2d_backward(dy, stored(cache))
        return dx if other is None else other + dx, dweight, dbias
    dy = np.ascontiguousarray(dy)
    if way is plan.weight is columns:
        dx, *gradients = columns.backward(np.ascontiguousarray(x), weight, dy, window)
        return dx if other is None else other + dx, *gradients
    gradients = weight_gradient(dy, cache, plan.weight, window)
    if way is winograd:
        return winograd.input_gradient(x.shape, weight, dy, window, other), *gradients
    if way is direct and scatter.pays(x.shape, window, x.dtype):
        way = scatter
    dx = way.input_gradient(x.shape, weight, dy, window)
    if other is not None:
        finish_in_place(dx, other)
    return dx, *gradients


def stored(cache):
    """The cache as the reference knows it."""
    if not isinstance(cache, NormConvCache):
        return cache
    x, weight, window, groups, (mean, scale, beta) = cache
    return ConvCache(np.maximum((x - mean) * scale + beta, 0), weight, window, groups)


def plan_back(dy, cache):
    """The Plan for the way back; dy is checked, but for the reference, which says more."""
    x, weight, (_, stride, padding, dilation, _), groups = cache[:4]
    plan = plan_for(x, weight, stride, padding, dilation, groups)
    if dy.dtype != x.dtype:
        return plan._replace(back=reference, weight=reference)
    if plan.covered:
        expect_array("conv2d_backward", "dy", dy, (len(x), *plan.window.out, weight.shape[3]))
    return plan


def weight_gradient(dy, cache, way, window):
    """dweight and dbias."""
    if isinstance(cache, NormConvCache):
        return winograd.weight_gradient(cache.x, dy, window, cache.lines)
    if way is winograd and not winograd.gradient_pays(*cache.weight.shape[2:]):
        way = direct
    return way.weight_gradient(np.ascontiguousarray(cache.x), dy, window)


class Plan(NamedTuple):
    """How a convolution of some shapes is run."""

    window: Window
    way: ModuleType  # of the forward
    back: ModuleType  # of the input's gradient
    weight: ModuleType  # of the weight's
    covered: bool  # whether there are kernels, whatever pays
    products: int  # multiply-adds


def plan_for(x, weight, *options):
    """The Plan; remembered for the next call."""
    return plan_of(x.shape, x.dtype, weight.shape, weight.dtype, *options)


def plan_of(*shapes_and_options):
    """The Plan for shapes and dtypes of x and weight, and the options of `conv2d_forward`."""
    return looked_up(remembered, choose, shapes_and_options)


def choose(x_shape, x_dtype, w_shape, w_dtype, stride, padding, dilation, groups):
    """What `plan_for` remembers."""
    window = resolve_window("conv2d", x_shape[1:3], w_shape[:2], stride, padding, dilation)
    products = x_shape[0] * math.prod(window.out) * math.prod(w_shape)
    if not covers(x_shape, x_dtype, w_shape, w_dtype, window, groups):
        return Plan(window, reference, reference, reference, False, products)
    if winograd.pays(x_shape, x_dtype, w_shape, window):
        return Plan(window, winograd, winograd, winograd, True, products)
    given = x_shape, w_shape, window, x_dtype
    way, back, weight = (
        direct if pays(*given) else columns
        for pays in (choice.forward_pays, choice.backward_pays, choice.weight_pays)
    )
    return Plan(window, way, back, direct if back is direct else weight, True, products)


remembered = functools.lru_cache(maxsize=4096, typed=True)(choose)


def filled(bias, weight):
    """The bias, or zeros, in a whole number of panels."""
    if bias is None:
        return padded(np.zeros(weight.shape[3], weight.dtype))
    return padded(columns.checked(bias, weight))


def covers(x_shape, x_dtype, w_shape, w_dtype, window, groups):
    """Whether these kernels apply; everything else runs on `reference`. The one place to look."""
    return (
        groups == 1
        and window.dilation == (1, 1)
        and x_shape[3] == w_shape[2]
        and x_dtype == w_dtype
        and x_dtype in (np.float32, np.float64)
        and 0 not in x_shape
        and 0 not in w_shape
    )


def covers_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """The same, of the arguments of `conv2d_forward`."""
    return plan_for(x, weight, stride, padding, dilation, groups).covered


COVERS = {"conv2d_forward": covers_forward}
