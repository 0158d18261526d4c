"""The pooling layers. Their maths: `ops/reference/pool.py`."""

from minires.checks import expect_array
from minires.core import Layer
from minires.layers.conv import show
from minires.ops import default as default_ops
from minires.ops.window import as_padding, as_pair


class _Pool2d(Layer):
    """A window, moved over each channel."""

    def __init__(self, kernel_size, *, stride=None, padding=0, ops=default_ops):
        name = type(self).__name__
        self.kernel_size = as_pair(name, "kernel_size", kernel_size)
        self.stride = as_pair(name, "stride", kernel_size if stride is None else stride)
        self.padding = as_padding(name, padding)
        self.ops = ops

    def _check(self, x):
        expect_array(type(self).__name__, "x", x, ("N", "H", "W", "C"))

    def __repr__(self):
        return (
            f"{type(self).__name__}({show(self.kernel_size)}, stride={show(self.stride)}, "
            f"padding={show(self.padding)})"
        )


class MaxPool2d(_Pool2d):
    """The largest number of each window; ties go to the first, padding never wins.

    Parameters
    ----------
    kernel_size : int or pair of int
    stride : int or pair of int, optional
        The kernel's size if left out.
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Less than the kernel on each side.
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def _forward(self, x, training):
        return self.ops.maxpool2d_forward(
            x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding
        )

    def _backward(self, dy, cache):
        return self.ops.maxpool2d_backward(dy, cache)


class AvgPool2d(_Pool2d):
    """The mean of each window.

    Parameters
    ----------
    kernel_size : int or pair of int
    stride : int or pair of int, optional
        The kernel's size if left out.
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Zeros; less than the kernel on each side.
    count_include_pad : bool
        Whether the zeros count when dividing: PyTorch's default says yes, Keras says no.
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(
        self,
        kernel_size,
        *,
        stride=None,
        padding=0,
        count_include_pad=True,
        ops=default_ops,
    ):
        super().__init__(kernel_size, stride=stride, padding=padding, ops=ops)
        self.count_include_pad = bool(count_include_pad)

    def _forward(self, x, training):
        return self.ops.avgpool2d_forward(
            x,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            count_include_pad=self.count_include_pad,
        )

    def _backward(self, dy, cache):
        return self.ops.avgpool2d_backward(dy, cache)


class GlobalAvgPool2d(Layer):
    """The mean of each image and channel: (N, H, W, C) -> (N, C).

    Parameters
    ----------
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(self, *, ops=default_ops):
        self.ops = ops

    def _check(self, x):
        expect_array("GlobalAvgPool2d", "x", x, ("N", "H", "W", "C"))

    def _forward(self, x, training):
        return self.ops.global_avgpool2d_forward(x)

    def _backward(self, dy, cache):
        return self.ops.global_avgpool2d_backward(dy, cache)
