"""The dropout layer. Its maths: `ops/reference/dropout.py`."""

from minires.checks import as_rng, expect_number
from minires.core import Layer
from minires.ops import default as default_ops


class Dropout(Layer):
    """In training, zero each number with probability `rate` and divide the rest by 1 - rate.

    Without `training=True` it returns x.

    Parameters
    ----------
    rate : float
        In [0, 1).
    rng : None, int or numpy.random.Generator
        Draws the masks. As in NumPy, None draws from the system's entropy.
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(self, rate=0.5, *, rng=None, ops=default_ops):
        self.rate = expect_number("Dropout", "rate", rate, at_least=0, below=1)
        self.rng = as_rng("Dropout", rng)
        self.ops = ops

    def _forward(self, x, training):
        if not training:
            return x, None
        return self.ops.dropout_forward(x, rate=self.rate, rng=self.rng)

    def _backward(self, dy, mask):
        return dy if mask is None else self.ops.dropout_backward(dy, mask)

    def snapshot(self):
        return self.rng.bit_generator.state

    def restore(self, snapshot):
        self.rng.bit_generator.state = snapshot

    def __repr__(self):
        return f"Dropout({self.rate:g})"
