"""Layers that move numbers and compute nothing: Flatten, Identity and the padding shortcut."""

import math

from minires.checks import expect_array, expect_int
from minires.core import Layer
from minires.layers.conv import show
from minires.ops import default as default_ops
from minires.ops.window import as_pair


class Flatten(Layer):
    """(N, H, W, C) -> (N, H*W*C), in memory order; any rank of at least 2."""

    def _check(self, x):
        super()._check(x)
        if x.ndim < 2:
            raise ValueError(f"Flatten expects x of shape (N, ...), got {x.shape}")

    def _forward(self, x, training):
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def _backward(self, dy, shape):
        return dy.reshape(shape)


class Identity(Layer):
    """y = x: the shortcut of a residual block, so its gradient is dy itself."""

    def _forward(self, x, training):
        return x, ()

    def _backward(self, dy, cache):
        return dy


class PadShortcut(Layer):
    """The shortcut without parameters: every `stride`-th pixel, zeros for the new channels.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels that come, and at least as many that leave.
    stride : int or pair of int
    ops : module
        The implementation, such as `minires.ops.reference`.

    References
    ----------
    He et al. (2015), arXiv:1512.03385, section 3.3, option A.
    """

    def __init__(self, in_channels, out_channels, *, stride=1, ops=default_ops):
        self.in_channels = expect_int("PadShortcut", "in_channels", in_channels)
        self.out_channels = expect_int("PadShortcut", "out_channels", out_channels, in_channels)
        self.stride = as_pair("PadShortcut", "stride", stride)
        self.ops = ops

    def _check(self, x):
        expect_array("PadShortcut", "x", x, ("N", "H", "W", self.in_channels))

    def _forward(self, x, training):
        return self.ops.pad_shortcut_forward(x, stride=self.stride, channels=self.out_channels)

    def _backward(self, dy, cache):
        return self.ops.pad_shortcut_backward(dy, cache)

    def backward_onto(self, dx, dy):
        """Add the gradient to `dx`, in place; returns it."""
        self.ops.pad_shortcut_backward_onto(dx, dy, self._take_cache(dy))
        return self._seen(dy, dx)

    def __repr__(self):
        return f"PadShortcut({self.in_channels}, {self.out_channels}, stride={show(self.stride)})"
