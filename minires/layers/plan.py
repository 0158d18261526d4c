"""Inference as a list of steps: what a fused model does with images of a shape that it knows.

Layer by layer, a forward pass checks every input, looks up how its shape is computed, and keeps
what a backward pass would need. For a single image that takes longer than the convolutions. If
images of the same shape come again, and no attribute of any layer was set meanwhile
(`core.changes`), the answers would be the same. So they are kept, as functions that take x to y.
Weights and statistics may change between two passes; each pass looks at them.
"""

import functools
from typing import NamedTuple

import numpy as np

from minires import layers as ours
from minires.core import changes
from minires.layers.containers import Residual, Sequential
from minires.layers.dropout import Dropout
from minires.layers.fused import ConvNorm, FusedResidual, Norm, NormReLU, window
from minires.layers.shape import Identity
from minires.ops import fast, reference

MOST = 16  # shapes that a model remembers
ONE_BY_ONE = {getattr(ours, name) for name in ours.__all__} | {ConvNorm, Norm, NormReLU}


class Planned(NamedTuple):
    """What a plan leaves for a backward pass: all else is computed again from it."""

    x: np.ndarray


class FusedModel(Sequential):
    """A fused Sequential as a whole, which plans its inference; `fuse` makes it.

    Outputs are those of the layers' own `forward`, bit by bit. A backward pass after a planned
    forward begins with the forward of each layer.

    Parameters
    ----------
    model : Sequential
        Of fused layers; its attributes become those of this one.
    """

    passing = (*Sequential.passing, "_plans")

    def __init__(self, model):
        vars(self).update(vars(model))

    def _forward(self, x, training):
        if training:
            return super()._forward(x, True)
        plans, kind, number = vars(self).setdefault("_plans", {}), (x.shape, x.dtype), changes.last
        plan = plans.get(kind)
        if plan is not None and plan.number == number and plan.steps is not None:
            return plan.run(x), Planned(x)
        y, cache = super()._forward(x, False)
        if plan is None or plan.number != number:
            if len(plans) == MOST:
                plans.clear()
            plans[kind] = Plan(self, number)
        return y, cache

    def _backward(self, dy, cache):
        self._compute_again(cache)
        return super()._backward(dy, ())

    def _backward_parameters(self, dy, cache):
        self._compute_again(cache)
        super()._backward_parameters(dy, ())

    def _compute_again(self, cache):
        """What the layers keep in a forward pass, if there was a plan instead of one."""
        if isinstance(cache, Planned):
            super()._forward(cache.x, False)


class Plan:
    """The steps of a model for images of one shape, which have gone through it before.

    Parameters
    ----------
    model : FusedModel
    number : int
        Of the last change to a layer when the images began to go through.

    Attributes
    ----------
    steps : list of functions, or None
        None if there is a layer of which only its own `forward` knows what it does.
    """

    def __init__(self, model, number):
        self.model, self.number = model, number

    @functools.cached_property
    def steps(self):
        if any(map(is_special, self.layers)):
            return None
        return steps_of(self.model)

    @functools.cached_property
    def layers(self):
        return [layer for _, layer in self.model.named_layers()]

    def run(self, x):
        for layer in self.layers:
            vars(layer)["_cache"] = None  # what an earlier forward kept is gone
        return through(self.steps, x)


def is_special(layer):
    """Whether a layer is observed, of another's making, or has another's method."""
    kind = type(layer)
    known = kind in ONE_BY_ONE or kind in (FusedModel, FusedResidual)
    own = {"forward", "_forward", "_check"} & set(vars(layer))
    return bool(layer.observers or own or not known)


def steps_of(layer):
    """Functions that take x to y, one after the other."""
    if isinstance(layer, Sequential):
        return [step for child in layer for step in steps_of(child)]
    if isinstance(layer, Identity | Dropout):
        return []
    if isinstance(layer, Residual | FusedResidual):
        return [block(layer)]
    if isinstance(layer, ConvNorm) and layer.conv.ops in (fast, reference):
        return [Convolution(layer, relu=layer.relu)]
    return [lambda x: layer._forward(x, False)[0]]


def through(steps, x):
    for step in steps:
        x = step(x)
    return x


class Convolution:
    """relu(norm(conv(x)) + residual), as `ConvNorm.infer`.

    Prepared for the shape that comes first, which is every other's, and again for new weights.
    """

    def __init__(self, layer, *, relu):
        self.layer, self.relu = layer, relu
        self.prepared = None, None

    def __call__(self, x, residual=None):
        weight, bias = self.layer.folded.weights(self.layer.conv, self.layer.norm)
        made_of, convolve = self.prepared
        if made_of is not weight:
            conv = self.layer.conv
            options = {"adds": residual is not None, "relu": self.relu, **window(conv)}
            convolve = conv.ops.prepare_conv2d_add_relu(x.shape, weight, bias, **options)
            self.prepared = weight, convolve
        return convolve(x, residual)


def block(layer):
    """A Residual or a FusedResidual; the convolution at the end of its branch adds the shortcut."""
    inner, shortcut = steps_of(layer.branch), steps_of(layer.shortcut)
    rectifies, last = isinstance(layer, FusedResidual), inner[-1] if inner else None
    if isinstance(last, Convolution) and not last.relu:
        before, end = inner[:-1], Convolution(last.layer, relu=rectifies)
        return lambda x: end(through(before, x), through(shortcut, x))
    if rectifies:
        return lambda x: layer._forward(x, False)[0]
    return lambda x: layer.ops.add_forward(through(shortcut, x), through(inner, x))
