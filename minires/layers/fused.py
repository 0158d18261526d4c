"""Layers that stand for two to four neighbours; `fuse` puts them in. They cannot be recorded."""

import numpy as np

from minires.core import Layer, add_path, join_path


class Fused(Layer):
    """What the fused layers share: they refuse recorders, since nobody sees what is between."""

    passing = (*Layer.passing, "_observers")
    _observers = ()

    @property
    def observers(self):
        """Those that are content with what goes in and what comes out of the whole."""
        return self._observers

    @observers.setter
    def observers(self, observers):
        self._observers = observers
        if not all(observer.coarse for observer in observers):
            self._observers = ()
            raise RuntimeError(
                f"{type(self).__name__} expects no recorder: the outputs between its steps are "
                f"never computed; record the model that `fuse` was given"
            )

    def snapshot(self):
        """Its own, because it moves the statistics of its norm without that norm's `forward`."""
        return super().snapshot()

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


class ConvNorm(Fused):
    """y = norm(conv(x)) or relu(norm(conv(x))); in inference one convolution.

    Parameters
    ----------
    conv : Conv2d
    norm : BatchNorm2d
    norm_name : str
        What the norm was called beside the convolution.
    relu : bool
    """

    def __init__(self, conv, norm, norm_name, *, relu):
        self.conv, self.after = conv, NormReLU(norm) if relu else norm
        self.norm_name, self.relu = norm_name, relu
        self.folded = Folded(conv, norm)

    @property
    def norm(self):
        """The BatchNorm2d."""
        return self.after.norm if self.relu else self.after

    def named_layers(self, prefix=""):
        """Convolution and norm under the paths that they had beside each other."""
        beside = join_path(prefix.rpartition(".")[0], self.norm_name)
        inside = self.conv.named_layers(prefix) + self.after.named_layers(beside)
        return [(prefix, self), *inside]

    def _check(self, x):
        self.conv._check(x)

    def _forward(self, x, training):
        if not training:
            return self.folded.forward(x, relu=self.relu), x
        return self.after.forward(self.conv.forward(x, training=True), training=True), None

    def _backward(self, dy, cache):
        if cache is not None:  # the folded convolution kept nothing that a gradient needs
            self.after.forward(self.conv.forward(cache))
        return self.conv.backward(self.after.backward(dy))

    def __repr__(self):
        return f"ConvNorm({self.conv!r}, {self.norm!r}, relu={self.relu})"


class Folded:
    """A convolution and the batch norm behind it as one convolution, for inference.

        (x * w + b - mean) s + beta = x * (w s) + (b - mean) s + beta,  s = gamma / sqrt(var + eps)

    The new weights are made when the numbers behind them have changed, and kept till then. They
    are marked as read-only, so that `ops.fast` may keep what it makes of them, too.
    """

    def __init__(self, conv, norm):
        self.conv, self.norm = conv, norm
        self.weight = self.bias = self.made_of = None

    def forward(self, x, residual=None, *, relu):
        """relu(norm(conv(x)) + residual), or without the ReLU."""
        self.refresh()
        conv = self.conv
        return conv.ops.conv2d_add_relu_forward(
            x,
            self.weight,
            self.bias,
            residual,
            relu=relu,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
        )

    def refresh(self):
        """Make weight and bias anew if anything behind them has changed."""
        conv, norm = self.conv, self.norm
        weight, gamma, beta = conv.weight.value, norm.gamma.value, norm.beta.value
        mean, var = norm.running_mean, norm.running_var
        vectors = [v.tobytes() for v in (gamma, beta, mean, var)]
        if conv.bias:
            vectors.append(conv.bias.value.tobytes())
        if self.made_of is not None:
            old_weight, old_vectors = self.made_of
            if vectors == old_vectors and np.array_equal(weight, old_weight):
                return
        scale = gamma / np.sqrt(var + norm.eps)
        bias = conv.bias.value if conv.bias else 0
        self.weight, self.bias = weight * scale, (bias - mean) * scale + beta
        self.weight.flags.writeable = False
        self.made_of = weight.copy(), vectors


class FusedResidual(Fused):
    """y = relu(shortcut(x) + branch(x)), for a branch that ends in a batch norm.

    Parameters
    ----------
    branch : Sequential
        Fused; its last layer is a ConvNorm without ReLU, or a BatchNorm2d.
    shortcut : Layer
    ops : module
    """

    def __init__(self, branch, shortcut, ops):
        self.branch, self.shortcut, self.ops = branch, shortcut, ops

    def _forward(self, x, training):
        shortcut = self._through("shortcut", self.shortcut.forward, x, training=training)
        *before, (name, last) = self.branch.children()
        start = x
        for inner, layer in before:
            x = self._through(f"branch.{inner}", layer.forward, x, training=training)
        if isinstance(last, ConvNorm):
            if not training:
                self._through(f"branch.{name}", last._check, x)
                return last.folded.forward(x, shortcut, relu=True), (None, start)
            x = self._through(f"branch.{name}", last.conv.forward, x, training=True)
            name, last = last.norm_name, last.norm
        return self._through(f"branch.{name}", self._finish, last, x, training, shortcut)

    def _finish(self, norm, x, training, shortcut):
        ops = self.ops
        ways = ops.batchnorm_add_relu_forward, ops.batchnorm_inference_add_relu_forward
        return self._normalise(norm, *ways, x, training, shortcut)

    def _backward(self, dy, cache):
        training, cache = cache
        *before, (name, last) = self.branch.children()
        conv = None
        if isinstance(last, ConvNorm):
            conv, last = last.conv, last.norm
        if training is None:  # a folded convolution kept nothing that a gradient needs
            training, cache = self._forward_again(before, conv, last, cache)
        ops = self.ops
        ways = ops.batchnorm_inference_add_relu_backward, ops.batchnorm_add_relu_backward
        dx, dshortcut, dgamma, dbeta = ways[training](dy, cache)
        last.gamma.grad += dgamma
        last.beta.grad += dbeta
        if conv is not None:
            dx = self._through(f"branch.{name}", conv.backward, dx)
        for inner, layer in reversed(before):
            dx = self._through(f"branch.{inner}", layer.backward, dx)
        return ops.add_backward(self._through("shortcut", self.shortcut.backward, dshortcut), dx)

    def _forward_again(self, before, conv, norm, x):
        """The caches of an inference pass, step by step."""
        shortcut = self.shortcut.forward(x)
        for _, layer in before:
            x = layer.forward(x)
        _, cache = self._finish(norm, conv.forward(x), False, shortcut)
        return cache

    def _through(self, name, method, *args, **options):
        try:
            return method(*args, **options)
        except Exception as error:
            add_path(error, name)
            raise
