"""Layers without parameters that act number by number, and softmax."""

from minires.checks import expect_array
from minires.core import Layer
from minires.ops import default as default_ops


class ReLU(Layer):
    """y = max(x, 0), for x of any shape.

    Parameters
    ----------
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(self, *, ops=default_ops):
        self.ops = ops

    def _forward(self, x, training):
        return self.ops.relu_forward(x)

    def _backward(self, dy, cache):
        return self.ops.relu_backward(dy, cache)


class Softmax(Layer):
    """p = exp(x) / sum exp(x) along the last axis of x, (N, K).

    To train, leave it out and give the logits to `SoftmaxCrossEntropy`: a probability that has
    been rounded to 0 or 1 has lost its logarithm and its gradient, its logit has not.

    Parameters
    ----------
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(self, *, ops=default_ops):
        self.ops = ops

    def _check(self, x):
        expect_array("Softmax", "x", x, ("N", "K"))

    def _forward(self, x, training):
        return self.ops.softmax_forward(x)

    def _backward(self, dy, cache):
        return self.ops.softmax_backward(dy, cache)
