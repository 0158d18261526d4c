"""Layers that stand for two to four neighbours; `fuse` puts them in. They cannot be recorded."""

import numpy as np

from minires.core import Layer, add_path, join_path
from minires.layers.containers import expect_one_shape
from minires.layers.shape import PadShortcut
from minires.ops.constant import constant


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
        if not all(observer.coarse for observer in observers):
            raise RuntimeError(
                f"{type(self).__name__} expects no recorder: the outputs between its steps are "
                f"never computed; record the model that `fuse` was given"
            )
        self._observers = observers

    def _norm_forward(self, norm, kind, x, training, *residual, moments=None):
        """One of the fused batch norms; its running statistics move in training."""
        norm._check(x)
        forward, _ = norm_ops(norm.ops, kind, training)
        gamma, beta = norm.gamma.value, norm.beta.value
        if not training:
            given = norm.running_mean, norm.running_var
            y, cache = forward(x, *residual, gamma, beta, *given, eps=norm.eps)
            return y, (False, cache)
        norm.values_per_channel(x)
        y, cache = forward(x, *residual, gamma, beta, eps=norm.eps, moments=moments)
        move_statistics(norm, cache.norm if kind else cache)
        return y, (True, cache)

    def _norm_backward(self, norm, kind, dy, cache):
        """[dx], or [dx, dresidual] behind a sum."""
        training, cache = cache
        _, backward = norm_ops(norm.ops, kind, training)
        *dx, dgamma, dbeta = backward(dy, cache)
        norm.gamma.grad += dgamma
        norm.beta.grad += dbeta
        return dx


def norm_ops(ops, kind, training):
    """The forward and the backward of a batch norm and of what follows it: "", relu or add_relu."""
    name = "_".join(filter(None, ("batchnorm", "" if training else "inference", kind)))
    return getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")


def move_statistics(norm, cache):
    """What a batch norm's own forward in training does with its cache."""
    norm.follow(cache.mean, cache.var, norm.values_per_channel(cache.x))


class OfNorm(Fused):
    """A layer that moves the statistics of its `norm` without that norm's `forward`."""

    def snapshot(self):
        return self.norm.snapshot()

    def restore(self, snapshot):
        self.norm.restore(snapshot)


class Norm(OfNorm):
    """y = norm(x), with a cache of its own: the norm itself may be between forward and backward.

    Parameters
    ----------
    norm : BatchNorm2d
        Its Parameters and running statistics are used and moved.
    """

    kind = ""

    def __init__(self, norm):
        self.norm = norm

    def named_layers(self, prefix=""):
        """The norm under this layer's own path, so that its Parameters keep theirs."""
        return [(prefix, self), *self.norm.named_layers(prefix)]

    def _check(self, x):
        self.norm._check(x)

    def _forward(self, x, training):
        return self._norm_forward(self.norm, self.kind, x, training)

    def _backward(self, dy, cache):
        return self._norm_backward(self.norm, self.kind, dy, cache)[0]

    def __repr__(self):
        return f"{type(self).__name__}({self.norm!r})"


class NormReLU(Norm):
    """y = relu(norm(x)) in one pass; else a Norm."""

    kind = "relu"


class ConvNorm(OfNorm):
    """y = norm(conv(x)) or relu(norm(conv(x))).

    In training the convolution measures its output for the norm as it writes it; in inference the
    norm is a part of its weights.

    Parameters
    ----------
    conv : Conv2d
    norm : BatchNorm2d
    norm_name : str
        What the norm was called beside the convolution.
    relu : bool
    """

    def __init__(self, conv, norm, norm_name, *, relu):
        self.conv, self.norm = conv, norm
        self.norm_name, self.relu = norm_name, relu
        self.folded = Folded()

    def named_layers(self, prefix=""):
        """Convolution and norm under the paths that they had beside each other."""
        beside = join_path(prefix.rpartition(".")[0], self.norm_name)
        inside = self.conv.named_layers(prefix) + self.norm.named_layers(beside)
        return [(prefix, self), *inside]

    def _check(self, x):
        self.conv._check(x)

    def _forward(self, x, training):
        if not training:
            return self.infer(x, relu=self.relu), (x, None, None)
        y, conv_cache, moments = self.convolve(x)
        y, cache = self._norm_forward(self.norm, self._kind, y, True, moments=moments)
        return y, (None, conv_cache, cache)

    @property
    def _kind(self):
        return "relu" if self.relu else ""

    def infer(self, x, residual=None, *, relu):
        """relu(norm(conv(x)) + residual), or without the ReLU, by one convolution."""
        conv = self.conv
        folded = self.folded.weights(conv, self.norm)
        return conv.ops.conv2d_add_relu_forward(x, *folded, residual, relu=relu, **window(conv))

    def convolve(self, x):
        """The convolution in training: its output, its cache, and the moments of the output."""
        return self.conv.ops.conv2d_moments_forward(x, *weights(self.conv), **window(self.conv))

    def _backward(self, dy, cache):
        return self._gradients(dy, cache, None)

    def backward_onto(self, dy, other=None, sums=None):
        """backward(dy) + other, summed up as it is written; `sums` are from `backward_sum`."""
        cache = self._take_cache(dy)
        return self._seen(dy, self._gradients(dy, cache, other, sums))

    def backward_sum(self, dy, norm_cache, conv_cache):
        """dx, and the gradient of the sum that a FusedResidual does behind this layer's norm.

        Third, what the layer in front may be given beside dx.
        """
        run = self.conv.ops.conv2d_batchnorm_add_relu_backward
        dx, dsum, *gradients, sums = run(dy, norm_cache[1], conv_cache)
        add_gradients(self, *gradients)
        return dx, dsum, sums

    def _backward_parameters(self, dy, cache):
        self.conv._backward_parameters(*self._norm_gradients(dy, cache))

    def _gradients(self, dy, cache, other, sums=None):
        x, of_conv, of_norm = cache
        if x is not None or not self.relu or not self.joins:
            return conv_gradients(self.conv, *self._norm_gradients(dy, cache), other)
        run = self.conv.ops.conv2d_batchnorm_relu_backward
        dx, *gradients = run(dy, of_norm[1], of_conv, other, sums)
        add_gradients(self, *gradients)
        return dx

    @property
    def joins(self):
        """Whether one op may go back through both."""
        return self.conv.ops is self.norm.ops

    def _norm_gradients(self, dy, cache):
        """The gradient behind the convolution, and the convolution's cache."""
        x, conv_cache, norm_cache = cache
        if x is not None:  # the folded convolution kept nothing that a gradient needs
            y, conv_cache = self.conv._forward(x, False)
            _, norm_cache = self._norm_forward(self.norm, self._kind, y, False)
        (dy,) = self._norm_backward(self.norm, self._kind, dy, norm_cache)
        return dy, conv_cache

    def __repr__(self):
        return f"ConvNorm({self.conv!r}, {self.norm!r}, relu={self.relu})"


def weights(conv):
    """The arrays of a Conv2d: weight, bias or None."""
    return conv.weight.value, conv.bias.value if conv.bias else None


def window(conv):
    """The options of a Conv2d's ops."""
    return {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
    }


def conv_gradients(conv, dy, cache, other=None):
    """dx of a Conv2d, plus `other` if there is one; the gradients of its Parameters grow."""
    if other is None:
        dx, *gradients = conv.ops.conv2d_backward(dy, cache)
    else:
        dx, *gradients = conv.ops.conv2d_add_backward(dy, cache, other)
    add_conv_gradients(conv, *gradients)
    return dx


def add_conv_gradients(conv, dweight, dbias):
    """Let the gradients of a Conv2d's Parameters grow."""
    conv.weight.grad += dweight
    if conv.bias:
        conv.bias.grad += dbias


def add_gradients(layer, dweight, dbias, dgamma, dbeta):
    """Let the gradients of a ConvNorm's Parameters grow."""
    add_conv_gradients(layer.conv, dweight, dbias)
    layer.norm.gamma.grad += dgamma
    layer.norm.beta.grad += dbeta


class Folded:
    """The weights of a convolution and the batch norm behind it as one, for inference.

        (x * w + b - mean) s + beta = x * (w s) + (b - mean) s + beta,  s = gamma / sqrt(var + eps)

    The new weights are made when the numbers behind them have changed, and kept till then. No
    number in them changes, so ops may keep what they make of them, too.
    """

    def __init__(self):
        self.weight = self.bias = self.made_of = None

    def weights(self, conv, norm):
        """Weight and bias, made anew if anything behind them has changed."""
        weight, gamma, beta = conv.weight.value, norm.gamma.value, norm.beta.value
        mean, var = norm.running_mean, norm.running_var
        sources = [weight, gamma, beta, mean, var]
        if conv.bias:
            sources.append(conv.bias.value)
        eps, kept = self.made_of or (None, ())
        if eps == norm.eps and len(kept) == len(sources) and all(map(same_bytes, kept, sources)):
            return constant(self.weight), self.bias  # a copy of this layer has forgotten it
        scale = gamma / np.sqrt(var + norm.eps)
        bias = conv.bias.value if conv.bias else 0
        folded = weight * scale, (bias - mean) * scale + beta
        self.weight, self.bias = (a.astype(weight.dtype, copy=False) for a in folded)
        self.made_of = norm.eps, [bytearray(source.tobytes()) for source in sources]
        return constant(self.weight), self.bias


def same_bytes(kept, source):
    """Whether an array still holds the bytes kept of it; Python compares them as fast as C."""
    return kept == (source if source.flags.c_contiguous else source.tobytes())


def normalises(last, before):
    """Whether a ConvNorm can do the norm and ReLU of the one before it, which nobody observes."""
    kinds = [type(layer) for _, layer in before[-1:]] + [type(last)]
    if kinds != [ConvNorm, ConvNorm]:
        return False
    first = before[-1][1]
    return first.relu and not first.observers and first.norm.ops is last.conv.ops


class FusedResidual(Fused):
    """y = relu(shortcut(x) + branch(x)), for a branch that ends in a batch norm.

    The sum and the ReLU are done as the norm writes, and on the way back the two gradients of x are
    added as the first convolution of the branch writes its own. In training the last convolution
    normalises what it reads, instead of the norm before it.

    Parameters
    ----------
    branch : Sequential
        Fused; its last layer is a ConvNorm without ReLU, or a Norm.
    shortcut : Layer
    ops : module
    """

    def __init__(self, branch, shortcut, ops):
        self.branch, self.shortcut, self.ops = branch, shortcut, ops

    def snapshot(self):
        """Its own: it moves the statistics of its norms without their `forward`."""
        return super().snapshot()

    def _forward(self, x, training):
        start = x
        shortcut = self._through("shortcut", self.shortcut.forward, x, training=training)
        *before, (name, last) = self.branch.children()
        pair = before.pop() if training and normalises(last, before) else None
        for inner, layer in before:
            x = self._through(f"branch.{inner}", layer.forward, x, training=training)
        conv_cache = moments = None
        if pair:
            x, conv_cache, moments = self._convolve_twice(x, *pair, name, last)
            name = last.norm_name
        elif isinstance(last, ConvNorm):
            self._through(f"branch.{name}", last._check, x)
            if not training:
                return self._infer(last, x, shortcut, start), (start, None, None)
            x, conv_cache, moments = self._through(f"branch.{name}", last.convolve, x)
            name = last.norm_name
        expect_one_shape(shortcut, x, start)
        more = {"moments": moments}
        finish = self._norm_forward, last.norm, "add_relu", x, training, shortcut
        y, cache = self._through(f"branch.{name}", *finish, **more)
        return y, (None, conv_cache, cache)

    def _infer(self, last, x, shortcut, start):
        """The folded end of the branch; of two shapes, a Residual's error is given."""
        try:
            return last.infer(x, shortcut, relu=True)
        except ValueError as error:
            refused = error
        expect_one_shape(shortcut, last.infer(x, relu=False), start)
        raise refused

    def _convolve_twice(self, x, inner, first, name, last):
        """The convolutions of two ConvNorms; what stands between them is not stored.

        Returns what `last.convolve` does. `first` can go backward as if it had gone forward.
        """
        first._cache = None
        self._through(f"branch.{inner}", first._check, x)
        x, cache, moments = self._through(f"branch.{inner}", first.convolve, x)
        norm = first.norm
        self._through(f"branch.{inner}", norm._check, x)
        self._through(f"branch.{inner}", norm.values_per_channel, x)
        self._through(f"branch.{name}", last._check, x)
        y, norm_cache, conv_cache, found = self._through(
            f"branch.{name}",
            last.conv.ops.batchnorm_relu_conv2d_forward,
            *(x, norm.gamma.value, norm.beta.value, *weights(last.conv)),
            **(window(last.conv) | {"eps": norm.eps, "moments": moments}),
        )
        move_statistics(norm, norm_cache.norm)
        first._cache = (None, cache, (True, norm_cache)), x.shape, x.dtype
        return y, conv_cache, found

    def _backward(self, dy, cache):
        x, conv_cache, norm_cache = cache
        *before, (name, last) = self.branch.children()
        if x is not None:  # a folded convolution kept nothing that a gradient needs
            conv_cache, norm_cache = self._forward_again(before, last, x)
        sums = None
        if x is None and before and isinstance(last, ConvNorm) and last.joins:
            given = dy, norm_cache, conv_cache
            dx, dsum, sums = self._through(f"branch.{name}", last.backward_sum, *given)
            dx = last._seen(dsum, dx)
        else:
            dx, dsum = self._norm_backward(last.norm, "add_relu", dy, norm_cache)
            if isinstance(last, ConvNorm):
                given = last.conv, dx, conv_cache
                if not before:
                    given += (self._through("shortcut", self.shortcut.backward, dsum),)
                dx = last._seen(dsum, self._through(f"branch.{name}", conv_gradients, *given))
                if not before:
                    return dx
        for inner, layer in reversed(before[1:]):
            if sums is None:
                dx = self._through(f"branch.{inner}", layer.backward, dx)
            else:  # `normalises` has joined the two, so this is a ConvNorm
                dx = self._through(f"branch.{inner}", layer.backward_onto, dx, None, sums)
                sums = None
        return self._join_paths(dx, dsum, sums, *before[:1])

    def _join_paths(self, dx, dsum, sums, first=None):
        """The gradient of x: through the first layer of the branch, and through the shortcut."""
        name, layer = first or ("", None)
        name = f"branch.{name}"
        if isinstance(layer, ConvNorm) and type(self.shortcut) is PadShortcut:
            # ours alone, so it may be added to
            dx = self._through(name, layer.backward_onto, dx, None, sums)
            return self._through("shortcut", self.shortcut.backward_onto, dx, dsum)
        dshortcut = self._through("shortcut", self.shortcut.backward, dsum)
        if isinstance(layer, ConvNorm):
            return self._through(name, layer.backward_onto, dx, dshortcut, sums)
        if layer is not None:
            dx = self._through(name, layer.backward, dx)
        return self.ops.add_backward(dshortcut, dx)

    def _forward_again(self, before, last, x):
        """The caches of an inference pass, step by step."""
        shortcut = self.shortcut.forward(x)
        for _, layer in before:
            x = layer.forward(x)
        y, conv_cache = last.conv._forward(x, False)
        _, cache = self._norm_forward(last.norm, "add_relu", y, False, shortcut)
        return conv_cache, cache

    def _through(self, name, method, *args, **options):
        try:
            return method(*args, **options)
        except Exception as error:
            add_path(error, name)
            raise
