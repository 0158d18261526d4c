"""Inference as a list of steps, functions that take x to y.

Layer by layer, a forward pass checks every input, looks up how its shape is computed, and keeps
what a backward pass would need. For a single image that takes a large part of the time. If
images of the same shape come again, and no attribute of any layer was set meanwhile
(`core.changes`), the answers would be the same, and the steps here go without them. Weights and
statistics may change between two passes; each step looks at them.

Steps are only made of minires' own layers. Read next: `fused_model.py`, which keeps them.
"""

from minires import layers as ours
from minires.core import Layer
from minires.layers.containers import Residual, Sequential
from minires.layers.fused import ConvNorm, FusedResidual, Norm, NormReLU, window
from minires.layers.shape import Identity
from minires.ops import fast, reference

KNOWN = {getattr(ours, name) for name in ours.__all__} | {ConvNorm, FusedResidual, Norm, NormReLU}
OPS = fast, reference


def plan(model):
    """The steps of a Sequential whose layers have had images of this shape, or None.

    None if one of them is observed, of another's making, or has an attribute that may change
    without being set.
    """
    if any(is_special(layer) for child in model for _, layer in child.named_layers()):
        return None
    layers = [layer for child in model for layer in visited(child)]
    return [forgetting(layers), *(step for child in model for step in steps_of(child))]


def is_special(layer):
    """Whether only the layer's own `forward` knows what it does."""
    if layer.observers or type(layer) not in KNOWN:
        return True
    values = [value for value in vars(layer).values() if not isinstance(value, Layer)]
    return any(callable(value) or isinstance(value, list | dict | set) for value in values)


def visited(layer):
    """The layers whose `forward` a pass through `layer` calls, `layer` first."""
    inside = [] if isinstance(layer, ConvNorm | Norm) else layer.children()
    return [layer, *(found for _, child in inside for found in visited(child))]


def forgetting(layers):
    """A step that lets go of what the layers kept of an earlier pass."""
    states = [vars(layer) for layer in layers]

    def forget(x):
        for state in states:
            state["_cache"] = None
        return x

    return forget


def steps_of(layer):
    """Functions that take x to y, one after the other."""
    if isinstance(layer, Sequential):
        return [step for child in layer for step in steps_of(child)]
    if isinstance(layer, Identity):
        return []
    if isinstance(layer, Residual | FusedResidual):
        return [block(layer)]
    if isinstance(layer, ConvNorm) and layer.conv.ops in OPS:
        return [Convolution(layer, relu=layer.relu)]
    return [lambda x: layer._forward(x, False)[0]]


def through(steps, x):
    """y of all steps."""
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
        conv = self.layer.conv
        weight, bias = self.layer.folded.weights(conv, self.layer.norm)
        made_of, convolve = self.prepared
        if made_of is not weight:
            options = {"adds": residual is not None, "relu": self.relu, **window(conv)}
            convolve = conv.ops.prepare_conv2d_add_relu(x.shape, weight, bias, **options)
            self.prepared = weight, convolve
        return convolve(x, residual)


def block(layer):
    """A Residual or a FusedResidual; the convolution at the end of its branch adds the shortcut."""
    inner, shortcut = steps_of(layer.branch), steps_of(layer.shortcut)
    rectifies, last = isinstance(layer, FusedResidual), inner[-1] if inner else None
    joins = isinstance(last, Convolution) and not last.relu
    if joins and (rectifies or layer.ops in OPS):
        before, end = inner[:-1], Convolution(last.layer, relu=rectifies)
        return lambda x: end(through(before, x), through(shortcut, x))
    if rectifies:
        return lambda x: layer._forward(x, False)[0]
    return lambda x: layer.ops.add_forward(through(shortcut, x), through(inner, x))
