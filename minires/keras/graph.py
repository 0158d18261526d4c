"""From a program that calls layers on tensors to a `Sequential` of layers and `Residual`s."""

import itertools
import re

import numpy as np

from minires.checks import format_shape
from minires.layers import Residual, Sequential

numbers = itertools.count()  # orders tensors by when they were made


class Tensor:
    """A value that does not exist yet: which layer makes it, from which tensors, in which shape.

    Attributes
    ----------
    shape : tuple
        (None, H, W, C) or (None, D), as in Keras.
    maker : object or None
        Has `make(shape, options) -> Layer`; None for an input, `Add` for a sum.
    parents : tuple of Tensor
    """

    def __init__(self, shape, maker=None, parents=()):
        self.shape = (None, *shape)
        self.maker = maker
        self.parents = tuple(parents)
        self.number = next(numbers)

    def __repr__(self):
        return f"Tensor(shape={format_shape(self.shape)})"

    def dominators(self):
        """The tensors that every path from an input to this one passes, itself included."""
        found = {}
        for tensor in ancestors(self):
            above = [found[parent] for parent in tensor.parents]
            found[tensor] = {tensor} | (set.intersection(*above) if above else set())
        return found[self]


def ancestors(tensor):
    """The tensor and all that it was made from, in the order in which they were made."""
    found, waiting = set(), [tensor]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.parents)
    return sorted(found, key=lambda t: t.number)


def expect_tensor(owner, value):
    """Return `value`, or raise TypeError if it is no Tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner} expects a tensor that comes from Input(...), got {type(value).__name__}"
        )
    return value


def output_shape(layer, shape, dtype):
    """The shape that comes out of a layer for one example of `shape`, without N."""
    return layer.forward(np.zeros((1, *shape), dtype)).shape[1:]


def build(inputs, outputs, options):
    """The Sequential that leads from one tensor to the other, with fresh weights.

    Raises
    ------
    ValueError
        If there is no path, or the paths meet in a way that Sequential and Residual cannot say.
    """
    expect_tensor("Model", inputs)
    expect_tensor("Model", outputs)
    if inputs not in outputs.dominators():
        raise ValueError("Model expects outputs computed from its inputs alone, got others")
    counts, layers, taken = {}, {}, set()
    for tensor in ancestors(outputs):
        if tensor.number > inputs.number:
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(tensor.maker).__name__).lower()
            counts[kind] = counts.get(kind, -1) + 1
            name = f"{kind}_{counts[kind]}" if counts[kind] else kind
            single = len(tensor.parents) == 1
            layer = tensor.maker.make(tensor.parents[0].shape[1:], options) if single else None
            layers[tensor] = (free_name(tensor.maker.name or name, taken), layer)
    return chain(inputs, outputs, layers, options["ops"])


def free_name(name, taken):
    """`name`, with a number behind it if another layer has it already."""
    numbered = (f"{name}_{i}" for i in itertools.count(1))
    free = name if name not in taken else next(n for n in numbered if n not in taken)
    taken.add(free)
    return free


def chain(first, last, layers, ops):
    """The layers from one tensor to a later one that it dominates; each may be used once."""
    found = {}
    while last is not first:
        if last not in layers:
            raise ValueError(
                "Model expects paths that split and meet again in a sum, each layer on one of "
                "them, got a layer that two sums share"
            )
        name, layer = layers.pop(last)
        if layer is None:
            layer, last = residual(last, layers, ops)
        else:
            last = last.parents[0]
        found[name] = layer
    return Sequential(**dict(reversed(found.items())))


def residual(total, layers, ops):
    """The Residual whose output is the sum `total`, and the tensor where its two paths split."""
    a, b = total.parents
    split = max(a.dominators() & b.dominators(), key=lambda t: t.number)
    paths = [chain(split, end, layers, ops) for end in (a, b)]
    shortcut, branch = sorted(paths, key=len)
    return Residual(branch, shortcut if len(shortcut) else None, ops=ops), split
