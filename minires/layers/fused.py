"""Layers that stand for two or three neighbours; `fuse` puts them in. They cannot be recorded."""

from minires.core import Layer, add_path


class Fused(Layer):
    """What the fused layers share: the batch norm whose Parameters and statistics they use."""

    @property
    def observers(self):
        """Always empty."""
        return ()

    @observers.setter
    def observers(self, observers):
        if observers:
            raise RuntimeError(
                f"{type(self).__name__} expects no recorder: the outputs between its steps are "
                f"never computed; record the model that `fuse` was given"
            )

    def _normalise(self, norm, training_op, inference_op, x, training, *residual):
        gamma, beta = norm.gamma.value, norm.beta.value
        if not training:
            given = norm.running_mean, norm.running_var
            y, cache = inference_op(x, *residual, gamma, beta, *given, eps=norm.eps)
            return y, (False, cache)
        M = norm.values_per_channel(x)
        y, cache = training_op(x, *residual, gamma, beta, eps=norm.eps)
        norm.follow(cache.norm.mean, cache.norm.var, M)
        return y, (True, cache)


class NormReLU(Fused):
    """y = relu(norm(x)) in one pass.

    Parameters
    ----------
    norm : BatchNorm2d
        Its Parameters and running statistics are used and moved.
    """

    def __init__(self, norm):
        self.norm, self.ops = norm, norm.ops

    def named_layers(self, prefix=""):
        """The norm under this layer's own path, so that its Parameters keep theirs."""
        return [(prefix, self), *self.norm.named_layers(prefix)]

    def _check(self, x):
        self.norm._check(x)

    def _forward(self, x, training):
        ops = self.ops
        ways = ops.batchnorm_relu_forward, ops.batchnorm_inference_relu_forward
        return self._normalise(self.norm, *ways, x, training)

    def _backward(self, dy, cache):
        training, cache = cache
        ops = self.ops
        ways = ops.batchnorm_inference_relu_backward, ops.batchnorm_relu_backward
        dx, dgamma, dbeta = ways[training](dy, cache)
        self.norm.gamma.grad += dgamma
        self.norm.beta.grad += dbeta
        return dx

    def __repr__(self):
        return f"NormReLU({self.norm!r})"


class ResidualReLU(Fused):
    """y = relu(shortcut(x) + branch(x)), for a branch that ends in a batch norm.

    Parameters
    ----------
    branch : Sequential
        Its last layer is a BatchNorm2d.
    shortcut : Layer
    ops : module
    """

    def __init__(self, branch, shortcut, ops):
        self.branch, self.shortcut, self.ops = branch, shortcut, ops

    def _forward(self, x, training):
        shortcut = self._through("shortcut", self.shortcut.forward, x, training=training)
        *before, (name, norm) = self.branch.children()
        for inner, layer in before:
            x = self._through(f"branch.{inner}", layer.forward, x, training=training)
        ops = self.ops
        ways = ops.batchnorm_add_relu_forward, ops.batchnorm_inference_add_relu_forward
        return self._through(f"branch.{name}", self._normalise, norm, *ways, x, training, shortcut)

    def _backward(self, dy, cache):
        training, cache = cache
        ops = self.ops
        ways = ops.batchnorm_inference_add_relu_backward, ops.batchnorm_add_relu_backward
        dx, dshortcut, dgamma, dbeta = ways[training](dy, cache)
        *before, (_, norm) = self.branch.children()
        norm.gamma.grad += dgamma
        norm.beta.grad += dbeta
        for inner, layer in reversed(before):
            dx = self._through(f"branch.{inner}", layer.backward, dx)
        return ops.add_backward(self._through("shortcut", self.shortcut.backward, dshortcut), dx)

    def _through(self, name, method, *args, **options):
        try:
            return method(*args, **options)
        except Exception as error:
            add_path(error, name)
            raise
