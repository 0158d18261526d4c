"""One face for everything the gradient checker can check: layers, losses, pairs of functions.

A subject holds named arrays that can be nudged in place, and answers two questions: what is y,
and which gradients does the backward pass claim?
"""

import copy
import inspect
from dataclasses import dataclass

import numpy as np

from minires.core import Layer


@dataclass
class Target:
    """An array to check. For a parameter, `gradient()` reads what the backward pass left."""

    name: str
    array: np.ndarray
    gradient: object = None


class Subject:
    """What layers and pairs have in common: inputs, and copies of them for each call."""

    def __init__(self, inputs, names, constant):
        self.inputs = [np.array(a, order="C") if isinstance(a, np.ndarray) else a for a in inputs]
        self.names = names
        self.constant = constant
        self.parameters = []
        self.called_with = []

    @property
    def input_targets(self):
        return [
            Target(name, a)
            for i, (name, a) in enumerate(zip(self.names, self.inputs, strict=True))
            if is_float(a) and i not in self.constant
        ]

    @property
    def targets(self):
        return self.input_targets + self.parameters

    def fresh_arguments(self):
        self.called_with = [a.copy() if isinstance(a, np.ndarray) else a for a in self.inputs]
        return self.called_with

    def wrote_to_input(self):
        """Whether the last call changed an array that it was given."""
        pairs = zip(self.called_with, self.inputs, strict=True)
        return any(isinstance(a, np.ndarray) and not same(a, b) for a, b in pairs)

    def match(self, gradients):
        """The gradients that came back, one for each input target."""
        gradients = list(gradients) if isinstance(gradients, tuple | list) else [gradients]
        targets = self.input_targets
        if len(gradients) == len(self.inputs) != len(targets):
            kept = [i for i, a in enumerate(self.inputs) if is_float(a) and i not in self.constant]
            gradients = [gradients[i] for i in kept]
        return gradients


class LayerSubject(Subject):
    """Anything with forward and backward: our layers, our losses, and anybody's."""

    def __init__(self, layer, inputs, *, training, constant, parameters):
        if isinstance(layer, Layer):
            layer = copy.deepcopy(layer)  # so that the user's own is left as it was
        self.layer = layer
        self.takes_dy = required(layer.backward, default=1) > 0
        if constant is None:
            constant = () if self.takes_dy else range(1, len(inputs))
        super().__init__(inputs, input_names(layer.forward, len(inputs)), constant)
        self.parameters = find_parameters(layer, parameters)
        self.options = {"training": training} if accepts(layer.forward, "training") else {}
        self.start = layer.snapshot() if isinstance(layer, Layer) else None
        self.title = type(layer).__name__

    def forward(self):
        if self.start is not None:
            self.layer.restore(self.start)  # so that dropout draws the same mask again
        return self.layer.forward(*self.fresh_arguments(), **self.options)

    def backward(self, dy):
        for target in self.parameters:
            zero(target.gradient())
        gradients = self.layer.backward(dy) if self.takes_dy else self.layer.backward()
        return self.match(gradients) + [t.gradient() for t in self.parameters]

    def fresh_output(self):
        """y from a copy that has never seen another input, or None if it cannot be copied."""
        try:
            twin = copy.deepcopy(self.layer)
        except Exception:
            return None
        return twin.forward(*self.fresh_arguments(), **self.options)


class PairSubject(Subject):
    """forward(*inputs) -> y, cache and backward(dy, cache) -> gradients; or without a cache."""

    def __init__(self, pair, inputs, *, constant):
        self.functions = pair
        super().__init__(inputs, input_names(pair[0], len(inputs)), constant or ())
        self.cache = None
        self.title = getattr(pair[0], "__name__", type(pair[0]).__name__)

    def forward(self):
        result = self.functions[0](*self.fresh_arguments())
        self.has_cache = isinstance(result, tuple) and len(result) == 2
        y, self.cache = result if self.has_cache else (result, None)
        self.takes_dy = not self.has_cache or required(self.functions[1], default=2) > 1
        return y

    def backward(self, dy):
        backward = self.functions[1]
        if not self.has_cache:
            return self.match(backward(dy, *self.called_with))
        return self.match(backward(dy, self.cache) if self.takes_dy else backward(self.cache))

    def fresh_output(self):
        return None


def make_subject(thing, inputs, *, training, constant, parameters):
    """The subject for a layer, a loss or a pair of functions.

    Raises
    ------
    TypeError
        If it is none of them.
    """
    if isinstance(thing, tuple | list) and len(thing) == 2 and all(map(callable, thing)):
        return PairSubject(thing, inputs, constant=constant)
    methods = (getattr(thing, name, None) for name in ("forward", "backward"))
    if all(map(callable, methods)) and not isinstance(thing, type):
        options = {"training": training, "constant": constant, "parameters": parameters}
        return LayerSubject(thing, inputs, **options)
    hint = ": check an instance, not the class" if isinstance(thing, type) else ""
    raise TypeError(
        f"check_gradients expects an object with forward and backward, or a pair "
        f"(forward, backward) of functions, got {thing!r}{hint}"
    )


def find_parameters(layer, given):
    """The parameters of a layer as targets: as given, or by the usual conventions.

    They are, in this order: `named_parameters()`; attributes with `.value` and `.grad`; the
    dictionaries `params` and `grads`; arrays `w` with a gradient `dw`, `w_grad` or `grad_w`.
    """
    if given is not None:
        return [Target(name, value, getter(grad)) for name, (value, grad) in given.items()]
    if callable(getattr(layer, "named_parameters", None)):
        named = list(layer.named_parameters())
    else:
        named = list(getattr(layer, "__dict__", {}).items())
    named = [(name, p) for name, p in named if has_value_and_grad(p)]
    if named:
        return [Target(name, p.value, lambda p=p: p.grad) for name, p in named]
    params, grads = getattr(layer, "params", None), getattr(layer, "grads", None)
    if isinstance(params, dict) and isinstance(grads, dict):
        return [
            Target(name, value, lambda name=name: layer.grads.get(name))
            for name, value in params.items()
            if is_float(value)
        ]
    return list(attribute_parameters(layer))


def attribute_parameters(layer):
    """Targets for arrays `w` beside an attribute `dw`, `w_grad` or `grad_w`."""
    attributes = getattr(layer, "__dict__", {})
    for name, value in attributes.items():
        for gradient in (f"d{name}", f"{name}_grad", f"grad_{name}"):
            if is_float(value) and gradient in attributes:
                yield Target(name, value, lambda gradient=gradient: getattr(layer, gradient))


def unchecked_arrays(subject):
    """Names of float arrays in somebody's layer that look like parameters without a gradient."""
    layer = getattr(subject, "layer", None)
    if isinstance(layer, Layer):
        return []
    known = [t.array for t in subject.parameters] + [t.gradient() for t in subject.parameters]
    known += subject.called_with
    return [
        name
        for name, value in getattr(layer, "__dict__", {}).items()
        if is_float(value) and not any(value is array for array in known)
    ]


def has_value_and_grad(p):
    return is_float(getattr(p, "value", None)) and hasattr(p, "grad")


def getter(grad):
    """A function that returns the gradient: `grad` itself, or one around the array."""
    return grad if callable(grad) else lambda: grad


def zero(grad):
    if isinstance(grad, np.ndarray) and grad.flags.writeable:
        grad[...] = 0


def is_float(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def same(a, b):
    """Equal in every bit that counts; NaN equals NaN."""
    return np.array_equal(a, b, equal_nan=is_float(a))


def input_names(function, count):
    """Names of the first `count` positional arguments, made up where they cannot be read."""
    names = [p.name for p in positional(function) or []][:count]
    return names + [f"input{i}" for i in range(len(names), count)]


def required(function, default):
    """How many positional arguments a function insists on."""
    parameters = positional(function)
    if parameters is None:
        return default
    return sum(p.default is inspect.Parameter.empty for p in parameters)


def positional(function):
    """Positional parameters of a function, or None if Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return [p for p in parameters if p.kind in kinds]


def accepts(function, name):
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
