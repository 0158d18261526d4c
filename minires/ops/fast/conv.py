"""Convolution: which kernels run it. `direct.py` runs any shape, `winograd.py` 3x3 at stride 1,
`scatter.py` the gradient of an input with few channels.

`covered` says what is left to the reference (groups, dilation), `winograd.pays` and
`winograd.gradient_pays` what goes there. Winograd takes float32 only: its error is 1e-5 of the
largest output where the direct sum has 1e-6; float64, which is there to check, stays direct.
Read next: `direct.py`.
"""

import numpy as np

from minires.ops import reference
from minires.ops.fast import direct, scatter, winograd
from minires.ops.fast.epilogue import finish_in_place
from minires.ops.fast.panels import padded
from minires.ops.reference.conv import ConvCache
from minires.ops.window import resolve_window


def conv2d_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlate images with filters; see `reference.conv2d_forward`."""
    window, way = plan(x, weight, stride, padding, dilation, groups)
    if way is reference:
        return reference.conv2d_forward(
            x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    x = np.ascontiguousarray(x)
    y = way.forward(x, weight, filled(bias, weight), window)
    return y, ConvCache(x, weight, window, groups)


def conv2d_backward(dy, cache):
    """Gradients of `conv2d_forward`; see `reference.conv2d_backward`."""
    return backward(dy, cache)


def backward(dy, cache, other=None):
    """Gradients of a convolution; `other` is added to dx."""
    x, weight, window, _ = cache
    if not covered(cache) or dy.dtype != x.dtype:
        dx, dweight, dbias = reference.conv2d_backward(dy, cache)
        return dx if other is None else other + dx, dweight, dbias
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    quick = winograd.pays(cache)
    from_weights = winograd if quick and winograd.gradient_pays(*weight.shape[2:]) else direct
    dweight, dbias = from_weights.weight_gradient(x, dy, window)
    if quick:
        return winograd.input_gradient(x.shape, weight, dy, window, other), dweight, dbias
    from_input = scatter if scatter.pays(x.shape, window, x.dtype) else direct
    dx = from_input.input_gradient(x.shape, weight, dy, window)
    if other is not None:
        finish_in_place(dx, other)
    return dx, dweight, dbias


def plan(x, weight, stride, padding, dilation, groups):
    """The window of a convolution, and the module that runs it."""
    window = resolve_window("conv2d", x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    cache = ConvCache(x, weight, window, groups)
    if not covered(cache):
        return window, reference
    return window, winograd if winograd.pays(cache) else direct


def filled(bias, weight):
    """The bias, or zeros, in a whole number of panels."""
    return padded(np.zeros(weight.shape[3], weight.dtype) if bias is None else bias)


def covered(cache):
    """Whether these kernels apply; everything else runs on `reference`. The one place to look."""
    x, weight, window, groups = cache
    return (
        groups == 1
        and window.dilation == (1, 1)
        and x.shape[3] == weight.shape[2]
        and x.dtype == weight.dtype
        and x.dtype in (np.float32, np.float64)
        and x.size > 0
        and weight.size > 0
    )


def covers_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """`covered`, of the arguments of `conv2d_forward`."""
    window = resolve_window("conv2d", x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    return covered(ConvCache(x, weight, window, groups))


COVERS = {"conv2d_forward": covers_forward}
