"""Make a fast model of a readable one: batch norm, sum and ReLU that stand together become one.

The fused model has the Parameters and the running statistics of the readable one, not copies of
them, so either can be trained, saved and evaluated; only recorders need the readable one.
"""

import copy
import itertools

from minires.layers import BatchNorm2d, Identity, ReLU, Residual, Sequential
from minires.layers.fused import NormReLU, ResidualReLU


def fuse(model):
    """A model that computes the same with fewer passes over memory.

    In every Sequential, (BatchNorm2d, ReLU) becomes one layer, and so does (Residual, ReLU) where
    the branch ends in a BatchNorm2d; the place of the ReLU is taken by an Identity, so that all
    paths stay. Anything else is kept as it is.

    Parameters
    ----------
    model : Layer
        Left as it was.

    Returns
    -------
    fused : Layer
        Shares every Parameter and running statistic with `model`. Outputs and gradients agree to
        rounding. Recorders are refused.
    """
    if type(model)._forward is Sequential._forward:
        return fuse_sequence(model)
    if type(model) is Residual:
        return fuse_parts(model)
    return model


def fuse_parts(model):
    """A copy of a container with its layers fused, each by itself."""
    twin = copy.copy(model)
    for name, layer in model.children():
        setattr(twin, name, fuse(layer))
    return twin


def fuse_sequence(model):
    """A copy of a Sequential with its layers fused, also with their neighbours."""
    twin = fuse_parts(model)
    layers = model.children()
    for (name, layer), (relu, after) in itertools.pairwise(layers):
        if type(after) is not ReLU:
            continue
        if type(layer) is BatchNorm2d:
            setattr(twin, name, NormReLU(layer))
            setattr(twin, relu, Identity())
        elif ends_in_norm(layer):
            branch, shortcut = fuse(layer.branch), fuse(layer.shortcut)
            setattr(twin, name, ResidualReLU(branch, shortcut, layer.ops))
            setattr(twin, relu, Identity())
    return twin


def ends_in_norm(layer):
    """Whether it is a Residual whose branch is a Sequential with a batch norm at its end."""
    return (
        type(layer) is Residual
        and type(layer.branch)._forward is Sequential._forward
        and len(layer.branch) > 0
        and type(layer.branch[len(layer.branch) - 1]) is BatchNorm2d
    )
