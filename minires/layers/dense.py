"""The affine layer. Its maths: `ops/reference/dense.py`."""

import numpy as np

from minires.checks import as_rng, expect_array, expect_callable, expect_dtype, expect_int
from minires.core import Layer, Parameter
from minires.initializers import he_normal
from minires.ops import default as default_ops


class Dense(Layer):
    """y = x weight + bias, PyTorch's Linear with the weight transposed.

    Parameters
    ----------
    in_features, out_features : int
        D and F.
    bias : bool
    initializer : callable
        From `minires.initializers`.
    rng : None, int or numpy.random.Generator
        As in NumPy, None draws from the system's entropy.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Attributes
    ----------
    weight : Parameter, (D, F)
    bias : Parameter, (F,), or None
        Starts at 0.
    """

    def __init__(
        self,
        in_features,
        out_features,
        *,
        bias=True,
        initializer=he_normal,
        rng=None,
        dtype=np.float32,
        ops=default_ops,
    ):
        self.in_features = expect_int("Dense", "in_features", in_features)
        self.out_features = expect_int("Dense", "out_features", out_features)
        dtype = expect_dtype("Dense", dtype)
        shape = (self.in_features, self.out_features)
        rng = as_rng("Dense", rng)
        expect_callable("Dense", "initializer", initializer)
        self.weight = Parameter(initializer(rng, shape, *shape, dtype))
        self.bias = Parameter(np.zeros(out_features, dtype), role="bias") if bias else None
        self.ops = ops

    def _check(self, x):
        expect_array("Dense", "x", x, ("N", self.in_features), dtype=self.weight.dtype)

    def _forward(self, x, training):
        bias = self.bias.value if self.bias else None
        return self.ops.dense_forward(x, self.weight.value, bias)

    def _backward(self, dy, cache):
        dx, dweight, dbias = self.ops.dense_backward(dy, cache)
        self.weight.grad += dweight
        if self.bias:
            self.bias.grad += dbias
        return dx

    def multiply_adds(self, y_shape):
        return y_shape[0] * self.weight.size

    def __repr__(self):
        more = "" if self.bias else ", bias=False"
        return f"Dense({self.in_features}, {self.out_features}{more})"
