"""Make a fast model of a readable one: layers that stand together become one.

In training, batch norm, sum and ReLU share their passes over memory. In inference, a batch norm is
folded into the weights of the convolution before it, and sum and ReLU are done as it writes.

The fused model has the Parameters and the running statistics of the readable one, not copies of
them, so either can be trained, saved and evaluated; only recorders need the readable one.
"""

import copy

from minires import layers as ours
from minires.core import Layer
from minires.layers import BatchNorm2d, Conv2d, ReLU, Residual, Sequential
from minires.layers.containers import described
from minires.layers.fused import ConvNorm, FusedResidual, Norm, NormReLU
from minires.layers.fused_model import FusedModel
from minires.models.parts import ImageModel
from minires.ops import fast

OURS = {getattr(ours, name) for name in ours.__all__}
WHOLE = Sequential, ImageModel, FusedModel  # models without methods of their own


def fuse(model):
    """A model that computes the same with fewer passes over memory.

    In every Sequential these neighbours become one layer, under the name of the first:

        Conv2d, BatchNorm2d         Conv2d, BatchNorm2d, ReLU         BatchNorm2d, ReLU
        Residual, ReLU              where the branch ends in a BatchNorm2d

    Every Parameter keeps its path. The layers of minires that remain are copied, so each model has
    what lies between its own forward and backward, and either may run between those of the other.
    A layer of another class is in both models, with all that it holds, for only itself knows what
    of that is to be shared: let no forward of one model come between forward and backward of the
    other then.

    Parameters
    ----------
    model : Layer
        Left as it was.

    Returns
    -------
    fused : Layer
        Shares every Parameter, running statistic and random stream with `model`. What is set in one
        model later (another array, a rate of dropout) may be missing in the other. Outputs and
        gradients agree to rounding. Recorders are refused.

    Raises
    ------
    TypeError
        If `model` is no Layer.

    Notes
    -----
    A model that is a Sequential as a whole plans its inference when images of a shape come for the
    second time (`minires.layers.plan`). No layer's own `forward` runs then, and none can go
    backward by itself; the model can.

    A backward pass reads the weights and, after an inference pass, the running statistics and x as
    they are when it runs: what the forward needs not keep is computed again. So change nothing
    between the two, and run no training pass.
    """
    if not isinstance(model, Layer):
        raise TypeError(f"fuse expects a Layer, got {described(model)}")
    fast.expect("fused")
    return FusedModel(joined(model)) if type(model) in WHOLE else joined(model)


def joined(model):
    """`fuse`, of what may be a part of a model."""
    if type(model)._forward is Sequential._forward:
        return fuse_sequence(model)
    if type(model) is Residual:
        twin = copy.copy(model)
        twin.branch, twin.shortcut = joined(model.branch), joined(model.shortcut)
        return twin
    return apart(model)


def apart(layer):
    """What stands for a layer that stays: a copy, but the layer itself if it is none of ours."""
    if type(layer) is BatchNorm2d:
        return Norm(layer)  # training makes new arrays of its statistics, which a copy would miss
    return copy.copy(layer) if type(layer) in OURS else layer


def fuse_sequence(model):
    """A copy of a Sequential with its layers fused, each by itself and with its neighbours."""
    twin = copy.copy(model)
    todo = model.children()
    for name, _ in todo:
        delattr(twin, name)
    while todo:
        count, layer = first_group(todo)
        setattr(twin, todo[0][0], layer)
        del todo[:count]
    return twin


def first_group(layers):
    """How many of [(name, layer), ...] become one, and that one."""
    kinds = [type(layer) for _, layer in layers[:3]]
    first = layers[0][1]
    if kinds[:2] == [Conv2d, BatchNorm2d] and fit(first, layers[1][1]):
        name, norm = layers[1]
        relu = kinds[2:] == [ReLU]
        return 2 + relu, ConvNorm(first, norm, name, relu=relu)
    if kinds[:2] == [BatchNorm2d, ReLU]:
        return 2, NormReLU(first)
    if kinds[1:2] == [ReLU] and ends_in_norm(first):
        return 2, FusedResidual(joined(first.branch), joined(first.shortcut), first.ops)
    return 1, joined(first)


def fit(conv, norm):
    """Whether the norm takes what the convolution gives; if not, it is theirs to say so."""
    same = conv.out_channels == norm.num_features
    return same and conv.weight.dtype == norm.gamma.dtype


def ends_in_norm(layer):
    """Whether it is a Residual whose branch is a Sequential with a batch norm at its end."""
    return (
        type(layer) is Residual
        and type(layer.branch)._forward is Sequential._forward
        and len(layer.branch) > 0
        and type(layer.branch[len(layer.branch) - 1]) is BatchNorm2d
    )
