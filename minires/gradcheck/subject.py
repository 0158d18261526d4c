"""One face for everything the gradient checker can check: layers, losses, pairs of functions.

A subject holds named arrays that can be nudged in place, and answers two questions: what is y,
and which gradients does the backward pass claim? It works on a copy of the layer wherever one can
be made, so that the user's own is left as it was.
"""

import contextlib
import copy
import inspect
from dataclasses import dataclass

import numpy as np

from minires.core import Layer
from minires.gradcheck.discover import arrays_in, fetch, pair_up, show


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
        self.constant = as_positions(constant, len(inputs))
        self.parameters = []
        self.called_with = []

    @property
    def input_targets(self):
        """The float inputs that are to have a gradient."""
        pairs = enumerate(zip(self.names, self.inputs, strict=True))
        return [Target(name, a) for i, (name, a) in pairs if self._checked(i, a)]

    @property
    def targets(self):
        """Everything to check: inputs, then parameters."""
        return self.input_targets + self.parameters

    def _checked(self, i, a):
        return isinstance(a, np.ndarray) and a.dtype.kind in "fc" and i not in self.constant

    def fresh_arguments(self):
        """Copies of the inputs, remembered so that writing to them shows."""
        self.called_with = [a.copy() if isinstance(a, np.ndarray) else a for a in self.inputs]
        return self.called_with

    def wrote_to_input(self):
        """Whether the last call changed an array that it was given."""
        pairs = zip(self.called_with, self.inputs, strict=True)
        return any(isinstance(a, np.ndarray) and not same(a, b) for a, b in pairs)

    def match(self, gradients):
        """The gradients that came back, one for each input target."""
        gradients = list(gradients) if isinstance(gradients, tuple | list) else [gradients]
        if len(gradients) == len(self.inputs) != len(self.input_targets):
            pairs = zip(range(len(gradients)), gradients, self.inputs, strict=True)
            gradients = [g for i, g, a in pairs if self._checked(i, a)]
        return gradients


class LayerSubject(Subject):
    """Anything with forward and backward: our layers, our losses, and anybody's."""

    def __init__(self, layer, inputs, *, training, constant, parameters):
        self.given = layer
        self.layer = layer if parameters is not None else try_copy(layer)
        takes = positional(layer.backward)
        self.takes_dy = takes is None or len(takes) > 0
        if constant is None:
            constant = () if self.takes_dy else range(1, len(inputs))
        super().__init__(inputs, input_names(layer.forward, len(inputs)), constant)
        self.options = {"training": training} if accepts(layer.forward, "training") else {}
        self.start = self.layer.snapshot() if isinstance(layer, Layer) else None
        self.title = type(layer).__name__
        self.loose = []
        self._find_parameters(parameters)

    def _find_parameters(self, given):
        """The parameters: as given, as `named_parameters` names them, or by their gradients.

        Gradients may come into being with the first backward pass, so one is run before looking.
        """
        if given is not None:
            self.parameters = given_parameters(given)
        elif isinstance(self.layer, Layer):
            named = self.layer.named_parameters()
            self.parameters = [Target(n, p.value, lambda p=p: p.grad) for n, p in named]
            known = [a for _, p in named for a in (p.value, p.grad)] + arrays_of(self.start)
            self.loose = [
                Target(show(path), array)
                for path, array in arrays_in(self.layer).items()
                if not any(array is a for a in known)
            ]
        else:
            before = arrays_in(self.layer)
            try:
                y = self.forward()
                dy = np.ones(np.shape(y))
                self.layer.backward(dy) if self.takes_dy else self.layer.backward()
            except Exception:
                self.layer = try_copy(self.given)  # the check itself will report it
            found, loose = pair_up(before, arrays_in(self.layer))
            self.parameters = [
                Target(name, array, lambda path=path: fetch(self.layer, path))
                for name, array, path in found
            ]
            self.loose = [Target(name, array) for name, array in loose]

    def forward(self):
        """y for copies of the inputs."""
        if self.start is not None:
            self.layer.restore(self.start)  # so that dropout draws the same mask again
        return self.layer.forward(*self.fresh_arguments(), **self.options)

    def backward(self, dy, *, zero_first=True):
        """The gradients that the layer claims, inputs first."""
        if zero_first:
            for target in self.parameters:
                zero(target.gradient())
        gradients = self.layer.backward(dy) if self.takes_dy else self.layer.backward()
        return self.match(gradients) + [t.gradient() for t in self.parameters]

    @contextlib.contextmanager
    def bystander(self):
        """A fresh copy in the layer's place, for a while; gives whether one could be made."""
        held = self.layer, self.called_with
        self.layer = try_copy(self.given)
        try:
            yield self.layer is not self.given
        finally:
            self.layer, self.called_with = held

    def must_accumulate(self):
        """Whether a second backward pass has to add to the gradients: the contract of a Layer."""
        return isinstance(self.layer, Layer)


class PairSubject(Subject):
    """forward(*inputs) -> y, cache and backward(dy, cache) -> gradients; or without a cache."""

    def __init__(self, pair, inputs, *, constant):
        self.functions = pair
        super().__init__(inputs, input_names(pair[0], len(inputs)), constant or ())
        self.cache = None
        self.title = getattr(pair[0], "__name__", type(pair[0]).__name__)
        self.loose = []

    def forward(self):
        """y for copies of the inputs; the cache is kept."""
        result = self.functions[0](*self.fresh_arguments())
        self.has_cache = isinstance(result, tuple) and len(result) == 2
        y, self.cache = result if self.has_cache else (result, None)
        takes = positional(self.functions[1])
        self.takes_dy = not self.has_cache or takes is None or len(takes) > 1
        return y

    def backward(self, dy, *, zero_first=True):
        """The gradients that the function claims."""
        backward = self.functions[1]
        if not self.has_cache:
            return self.match(backward(dy, *self.called_with))
        return self.match(backward(dy, self.cache) if self.takes_dy else backward(self.cache))

    @contextlib.contextmanager
    def bystander(self):
        """Another call: it has a cache of its own, so the first one has to stay valid."""
        held = self.cache, self.called_with
        try:
            yield True
        finally:
            self.cache, self.called_with = held

    def must_accumulate(self):
        return False


def make_subject(thing, inputs, *, training, constant, parameters):
    """The subject for a layer, a loss or a pair of functions.

    Raises
    ------
    TypeError
        If it is none of them.
    """
    if isinstance(thing, tuple | list) and len(thing) == 2 and all(map(callable, thing)):
        if parameters is not None:
            raise TypeError("check_gradients expects the parameters of a pair among its inputs")
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


def given_parameters(given):
    """Targets for {name: (value, gradient)}."""
    wanted = "check_gradients expects parameters as {name: (array, gradient or function)}"
    if not isinstance(given, dict):
        raise TypeError(f"{wanted}, got {type(given).__name__}")
    targets = []
    for name, pair in given.items():
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and is_float(pair[0])):
            raise TypeError(f"{wanted}, got {type(pair).__name__} for {name!r}")
        value, grad = pair
        targets.append(Target(name, value, grad if callable(grad) else lambda grad=grad: grad))
    return targets


def arrays_of(snapshot):
    """The arrays in what `Layer.snapshot` returns."""
    if isinstance(snapshot, tuple | list):
        return [a for part in snapshot for a in arrays_of(part)]
    return [snapshot] if isinstance(snapshot, np.ndarray) else []


def as_positions(constant, count):
    """Positions of constant inputs as a set, or TypeError."""
    positions = {constant} if isinstance(constant, int) else set(constant)
    if not positions <= set(range(count)):
        raise TypeError(
            f"check_gradients expects constant to hold positions from 0 to {count - 1}, "
            f"got {constant!r}"
        )
    return positions


def try_copy(thing):
    """A deep copy, or the thing itself where it cannot be copied."""
    try:
        return copy.deepcopy(thing)
    except Exception:
        return thing


def zero(grad):
    """Set a gradient to 0 in place, if it is an array already."""
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
    """Whether a function has an argument of that name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
