"""The batch normalisation layer. Its maths: `ops/reference/batchnorm.py`."""

import numpy as np

from minires.checks import expect_array, expect_choice, expect_dtype, expect_int, expect_number
from minires.core import Layer, Parameter
from minires.ops import default as default_ops


class BatchNorm2d(Layer):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, one mean and variance a channel.

    With `training=True` they are the batch's own, over all axes but the last, and the running
    statistics move towards them; otherwise they are the running statistics. x is (N, H, W, C) or
    (N, C).

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float
        Weight of the NEW value, as in PyTorch: running += momentum * (batch - running). Keras'
        momentum of 0.99 is 0.01 here.
    running_variance : {"unbiased", "biased"}
        Whether the running variance follows the batch variance divided by M - 1 (PyTorch) or by M
        (Keras), for M values a channel. The batch itself is always normalised with the biased one.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Attributes
    ----------
    gamma, beta : Parameter, (C,)
        Start at 1 and 0.
    running_mean, running_var : (C,) arrays
        Start at 0 and 1. Not trained.

    References
    ----------
    Ioffe and Szegedy (2015), arXiv:1502.03167.
    """

    def __init__(
        self,
        num_features,
        *,
        eps=1e-5,
        momentum=0.1,
        running_variance="unbiased",
        dtype=np.float32,
        ops=default_ops,
    ):
        self.num_features = expect_int("BatchNorm2d", "num_features", num_features)
        self.eps = expect_number("BatchNorm2d", "eps", eps, above=0)
        self.momentum = expect_number("BatchNorm2d", "momentum", momentum, at_least=0, at_most=1)
        self.running_variance = expect_choice(
            "BatchNorm2d", "running_variance", running_variance, ("unbiased", "biased")
        )
        dtype = expect_dtype("BatchNorm2d", dtype)
        self.gamma = Parameter(np.ones(num_features, dtype), role="norm")
        self.beta = Parameter(np.zeros(num_features, dtype), role="norm")
        self.running_mean = np.zeros(num_features, dtype)
        self.running_var = np.ones(num_features, dtype)
        self.ops = ops

    def _check(self, x):
        C = self.num_features
        expect_array("BatchNorm2d", "x", x, ("N", "H", "W", C), ("N", C), dtype=self.gamma.dtype)

    def _forward(self, x, training):
        gamma, beta = self.gamma.value, self.beta.value
        if not training:
            y, cache = self.ops.batchnorm_inference_forward(
                x, gamma, beta, self.running_mean, self.running_var, eps=self.eps
            )
            return y, (False, cache)
        M = self.values_per_channel(x)
        y, cache = self.ops.batchnorm_forward(x, gamma, beta, eps=self.eps)
        self.follow(cache.mean, cache.var, M)
        return y, (True, cache)

    def values_per_channel(self, x):
        """M; one value is refused."""
        M = x.size // self.num_features
        if M == 1:
            raise ValueError(
                f"BatchNorm2d expects more than one value per channel in training mode, got x of "
                f"shape {x.shape}: its variance would be 0 and its output beta, whatever x is"
            )
        return M

    def follow(self, mean, var, M):
        """Move the running statistics; into new arrays, so that `snapshot` need not copy."""
        if self.running_variance == "unbiased":
            var = var * (M / (M - 1))
        momentum = float(self.momentum)  # NumPy's float64 would make the arrays float64
        self.running_mean = self.running_mean + momentum * (mean - self.running_mean)
        self.running_var = self.running_var + momentum * (var - self.running_var)

    def _backward(self, dy, cache):
        training, cache = cache
        ops = self.ops
        backward = ops.batchnorm_backward if training else ops.batchnorm_inference_backward
        dx, dgamma, dbeta = backward(dy, cache)
        self.gamma.grad += dgamma
        self.beta.grad += dbeta
        return dx

    def snapshot(self):
        return self.running_mean, self.running_var

    def restore(self, snapshot):
        self.running_mean, self.running_var = snapshot

    def __repr__(self):
        return f"BatchNorm2d({self.num_features}, eps={self.eps:g}, momentum={self.momentum:g})"
