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
from minires.ops.fast.panels import padded
from minires.ops.reference.conv import ConvCache
from minires.ops.window import resolve_window


def conv2d_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlate images with filters; see `reference.conv2d_forward`."""
    window = resolve_window("conv2d", x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    cache = ConvCache(x, weight, window, groups)
    if not covered(cache):
        return reference.conv2d_forward(
            x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    x = np.ascontiguousarray(x)
    bias = padded(np.zeros(weight.shape[3], x.dtype) if bias is None else bias)
    way = winograd if winograd.pays(cache) else direct
    return way.forward(x, weight, bias, window), cache


def conv2d_backward(dy, cache):
    """Gradients of `conv2d_forward`; see `reference.conv2d_backward`."""
    x, weight, window, _ = cache
    if not covered(cache) or dy.dtype != x.dtype:
        return reference.conv2d_backward(dy, cache)
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    quick = winograd.pays(cache)
    from_weights = winograd if quick and winograd.gradient_pays(*weight.shape[2:]) else direct
    few = scatter.pays(x.shape, window, x.dtype)
    from_input = winograd if quick else scatter if few else direct
    dweight, dbias = from_weights.weight_gradient(x, dy, window)
    return from_input.input_gradient(x.shape, weight, dy, window), dweight, dbias


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
