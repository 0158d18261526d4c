"""The convolution layer. Its maths: `ops/reference/conv.py`."""

import math

import numpy as np

from minires.checks import as_rng, expect_array, expect_callable, expect_dtype, expect_int
from minires.core import Layer, Parameter
from minires.initializers import he_normal
from minires.ops import default as default_ops
from minires.ops.window import as_padding, as_pair


class Conv2d(Layer):
    """y[n, i, j, f] = bias[f] + sum_{kh, kw, c} x[n, i s + kh, j s + kw, c] weight[kh, kw, c, f].

    Parameters
    ----------
    in_channels, out_channels : int
        C and F.
    kernel_size : int or pair of int
        (KH, KW).
    stride, dilation : int or pair of int
        (vertical, horizontal); s above is the stride.
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Zeros around the image. "same" is TensorFlow's: ceil(H / stride) rows come out, and an odd
        zero goes to the bottom and the right.
    groups : int
        C and F are divided into as many groups, each seeing only its own channels.
    bias : bool
        Superfluous in front of a batch norm, which subtracts it again.
    initializer : callable
        From `minires.initializers`.
    rng : None, int or numpy.random.Generator
        As in NumPy, None draws from the system's entropy.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Attributes
    ----------
    weight : Parameter, (KH, KW, C // groups, F)
    bias : Parameter, (F,), or None
        Starts at 0.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        initializer=he_normal,
        rng=None,
        dtype=np.float32,
        ops=default_ops,
    ):
        self.in_channels = expect_int("Conv2d", "in_channels", in_channels)
        self.out_channels = expect_int("Conv2d", "out_channels", out_channels)
        self.kernel_size = as_pair("Conv2d", "kernel_size", kernel_size)
        self.stride = as_pair("Conv2d", "stride", stride)
        self.padding = as_padding("Conv2d", padding)
        self.dilation = as_pair("Conv2d", "dilation", dilation)
        self.groups = expect_int("Conv2d", "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d expects in_channels and out_channels divisible by groups={groups}, "
                f"got {in_channels} and {out_channels}"
            )
        dtype = expect_dtype("Conv2d", dtype)
        taps = math.prod(self.kernel_size)
        shape = (*self.kernel_size, in_channels // groups, out_channels)
        fans = taps * in_channels // groups, taps * out_channels // groups
        rng = as_rng("Conv2d", rng)
        expect_callable("Conv2d", "initializer", initializer)
        self.weight = Parameter(initializer(rng, shape, *fans, dtype))
        self.bias = Parameter(np.zeros(out_channels, dtype), role="bias") if bias else None
        self.ops = ops

    def _check(self, x):
        expect_array("Conv2d", "x", x, ("N", "H", "W", self.in_channels), dtype=self.weight.dtype)

    def _forward(self, x, training):
        return self.ops.conv2d_forward(
            x,
            self.weight.value,
            self.bias.value if self.bias else None,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _backward(self, dy, cache):
        dx, dweight, dbias = self.ops.conv2d_backward(dy, cache)
        self.weight.grad += dweight
        if self.bias:
            self.bias.grad += dbias
        return dx

    def _backward_parameters(self, dy, cache):
        dweight, dbias = self.ops.conv2d_weight_backward(dy, cache)
        self.weight.grad += dweight
        if self.bias:
            self.bias.grad += dbias

    def multiply_adds(self, y_shape):
        return math.prod(y_shape[:3]) * self.weight.size

    def __repr__(self):
        more = "" if self.dilation == (1, 1) else f", dilation={show(self.dilation)}"
        more += "" if self.groups == 1 else f", groups={self.groups}"
        more += "" if self.bias else ", bias=False"
        return (
            f"Conv2d({self.in_channels}, {self.out_channels}, {show(self.kernel_size)}, "
            f"stride={show(self.stride)}, padding={show(self.padding)}{more})"
        )


def show(value):
    """(3, 3) as 3 and ((1, 1), (1, 1)) as 1: the shortest form that means the same."""
    if isinstance(value, tuple):
        parts = [show(part) for part in value]
        return parts[0] if parts[0] == parts[1] else f"({parts[0]}, {parts[1]})"
    return repr(value)
