"""The whole contract on one page: Parameter, Layer and Observer.

A layer writes two functions, `_forward` and `_backward`, which hold its maths. The base class
around them checks, keeps the cache between the two, and tells the observers.
"""

import contextlib
import copy
import functools
import itertools
import threading

import numpy as np

from minires.checks import FLOATS, expect_array, expect_choice, expect_dtype, format_shape
from minires.copyable import Copyable

ROLES = ("weight", "bias", "norm")


class Parameter:
    """A trained array and the gradient of the loss with respect to it.

    Parameters
    ----------
    value : float32 or float64 array
        Copied.
    role : {"weight", "bias", "norm"}
        What it does in its layer; optimisers can leave biases and norms out of weight decay.

    Attributes
    ----------
    value, grad : arrays of the same shape and dtype
        Setting them copies. Backward passes add to `grad`; `optimizer.zero_grad()` sets it to 0.
    """

    def __init__(self, value, role="weight"):
        expect_array("Parameter", "value", value)
        self.role = expect_choice("Parameter", "role", role, ROLES)
        self._value = np.array(value, order="C")
        self._grad = np.zeros(value.shape, value.dtype)

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, new):
        if new is not self._value:
            self._value = self._same_kind("value", new)

    @property
    def grad(self):
        return self._grad

    @grad.setter
    def grad(self, new):
        if new is not self._grad:  # as it is after `grad += ...`
            self._grad = self._same_kind("grad", new)

    def _same_kind(self, name, new):
        old = self._value
        if not isinstance(new, np.ndarray) or (new.shape, new.dtype) != (old.shape, old.dtype):
            came = (
                f"{format_shape(new.shape)} {new.dtype}"
                if isinstance(new, np.ndarray)
                else type(new).__name__
            )
            raise ValueError(
                f"Parameter expects {name} of shape and dtype {format_shape(old.shape)} "
                f"{old.dtype}, got {came}"
            )
        return np.array(new, order="C")

    @property
    def shape(self):
        return self._value.shape

    @property
    def dtype(self):
        return self._value.dtype

    @property
    def size(self):
        return self._value.size

    def astype(self, dtype):
        """A copy in another dtype, with a gradient of zeros."""
        return Parameter(self._value.astype(expect_dtype("Parameter", dtype)), self.role)

    def __repr__(self):
        return f"Parameter({format_shape(self.shape)}, {self.dtype}, role={self.role!r})"


class Observer:
    """Sees every pass of the layers it is attached to by `observe`, and must not change anything.

    Override what you need. Arrays that are to outlive the call must be copied.

    Attributes
    ----------
    coarse : bool
        Whether it makes sense where `fuse` has joined layers, and the steps between are not seen.
    forward_only : bool
        Whether it has no use for `after_backward`, so that a training step may leave out the
        gradient of its images as it does where nobody looks.
    """

    coarse = False
    forward_only = False

    def before_forward(self, layer, x, training):
        """`layer` is about to see `x`, which nobody has checked yet."""

    def after_forward(self, layer, x, y, training):
        """`layer` has turned `x` into `y`."""

    def after_backward(self, layer, dy, dx):
        """`layer` has turned the upstream gradient `dy` into `dx`.

        In a fused model `dx` may hold the gradient of the other path already.
        """


class Changes:
    """Which attribute of a layer, of any, was set or deleted last: a number, another for each.

    What is planned from the attributes of layers is to be planned anew after that.
    """

    def __init__(self):
        self.numbers, self.last = itertools.count(1), 0

    def note(self):
        """One more."""
        self.last = next(self.numbers)


changes = Changes()


class Layer(Copyable):
    """A differentiable step: forward takes x to y; backward takes dy to dx and adds to each grad.

    A subclass writes `_forward(x, training) -> y, cache` and `_backward(dy, cache) -> dx`, and may
    refuse bad input in `_check(x)`. Attributes that are Parameters or Layers are found by
    themselves, in the order in which they were set.
    """

    observers = ()  # empty unless `observe` attached one
    _cache = None  # what _forward returned, until the backward pass has used it
    _retained = False  # whether a backward pass leaves the cache in place
    passing = ("_cache", "_retained", "observers")

    # ---- the maths, written by each layer

    def _forward(self, x, training):
        raise NotImplementedError(f"{type(self).__name__} defines no _forward(x, training)")

    def _backward(self, dy, cache):
        raise NotImplementedError(f"{type(self).__name__} defines no _backward(dy, cache)")

    def _backward_parameters(self, dy, cache):
        """`_backward` without dx, written beside it where that saves time."""
        self._backward(dy, cache)

    def _check(self, x):
        expect_array(type(self).__name__, "x", x)

    # ---- the public face

    def forward(self, x, *, training=False):
        """Compute y = f(x) and keep what the backward pass will need.

        Parameters
        ----------
        x : float32 or float64 array
            Same dtype as the layer's Parameters. Not written to.
        training : bool
            Whether batch norm uses the batch's statistics, dropout drops, and both remember it.

        Returns
        -------
        y : array
            Leave it as it is until the backward pass has run: it may be what the layer keeps, and
            it may share memory with x.

        Raises
        ------
        TypeError, ValueError
            If x is no array, or of the wrong shape or dtype. Parameters and state are as they
            were then; what an earlier forward kept is gone.
        """
        vars(self)["_cache"] = None  # twice as fast as `self._cache`, and done for every layer
        for observer in self.observers:
            observer.before_forward(self, x, training)
        self._check(x)
        if not training:
            return self._forward_and_keep(x, False)
        with UndoneOnError(self):
            return self._forward_and_keep(x, True)

    def _forward_and_keep(self, x, training):
        """`_forward`, then show the observers its output, then keep its cache."""
        y, cache = output_and_cache(self, self._forward(x, training))
        for observer in self.observers:
            observer.after_forward(self, x, y, training)
        vars(self)["_cache"] = cache, y.shape, y.dtype
        return y

    def backward(self, dy, *, input_gradient=True):
        """Compute dx from dy and add to the gradient of every Parameter: one backward per forward.

        Parameters
        ----------
        dy : array
            Gradient of the loss with respect to y, of its shape and dtype. Not written to.
        input_gradient : bool
            Whether dx is wanted. A training step does not look at the gradient of the images.

        Returns
        -------
        dx : array or None
            Gradient of the loss with respect to x, if it is wanted.

        Raises
        ------
        RuntimeError
            Without a forward before it.
        ValueError
            If dy has another shape or dtype than y. The cache is kept then.
        """
        cache = self._take_cache(dy)
        if input_gradient or self._watched_backward() or not written_together(type(self)):
            dx = self._seen(dy, self._backward(dy, cache))
            return dx if input_gradient else None
        self._backward_parameters(dy, cache)
        return None

    def _take_cache(self, dy):
        """What the forward kept for the backward pass that `dy` begins."""
        name = type(self).__name__
        if self._cache is None:
            raise RuntimeError(
                f"{name}.backward expects a forward before it, one for each backward, got none "
                f"since the last (retain_caches(model) allows several)"
            )
        cache, shape, dtype = self._cache
        expect_array(f"{name}.backward", "dy", dy, shape, dtype=dtype, like="the output")
        if not self._retained:
            self._cache = None
        return cache

    def _watched_backward(self):
        """Whether an observer wants to see dx."""
        return any(not observer.forward_only for observer in self.observers)

    def _seen(self, dy, dx):
        """Tell the observers; returns `dx`."""
        for observer in self.observers:
            observer.after_backward(self, dy, dx)
        return dx

    def __call__(self, x, *, training=False):
        """`forward`, for hands that are used to calling layers."""
        return self.forward(x, training=training)

    # ---- what is inside

    def __setattr__(self, name, value):
        """Set an attribute; refuse layers in a list, where nobody would find them."""
        if name == "_cache":
            self.__dict__[name] = value
            return
        if isinstance(value, Layer) and any(value is v for k, v in self.children() if k != name):
            raise ValueError(
                f"{type(self).__name__} expects each layer in one place, got the same "
                f"{type(value).__name__} as {name} and under another name: make a second one"
            )
        if isinstance(value, list | tuple | dict):
            parts = value.values() if isinstance(value, dict) else value
            if any(isinstance(part, Layer | Parameter) for part in parts):
                raise TypeError(
                    f"{type(self).__name__} expects layers and Parameters as attributes of their "
                    f"own, or in a Sequential, got a {type(value).__name__} of them as {name}"
                )
        super().__setattr__(name, value)
        changes.note()

    def __delattr__(self, name):
        super().__delattr__(name)
        changes.note()

    def children(self):
        """[(name, layer)] of the layers directly inside."""
        return [(name, v) for name, v in vars(self).items() if isinstance(v, Layer)]

    def named_layers(self, prefix=""):
        """[(dotted path, layer)], this one first, under the path `prefix`."""
        found = [(prefix, self)]
        for name, child in self.children():
            found += child.named_layers(join_path(prefix, name))
        return found

    def named_parameters(self):
        """[(dotted path, Parameter)], each Parameter once."""
        found, seen = [], set()
        for path, layer in self.named_layers():
            for name, value in vars(layer).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    found.append((join_path(path, name), value))
        return found

    def parameters(self):
        """[Parameter], in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    # ---- what a forward pass in training mode changes

    def snapshot(self):
        """What a training forward changes (running statistics, random streams), for `restore`.

        A layer that changes something of its own overrides both.
        """
        return [child.snapshot() for _, child in self.children()]

    def restore(self, snapshot):
        """Put back what `snapshot` returned."""
        for (_, child), part in zip(self.children(), snapshot, strict=True):
            child.restore(part)

    def multiply_adds(self, y_shape):
        """Multiplications of one forward pass with an output of `y_shape`, 0 unless overridden."""
        return 0

    # ---- copies

    def astype(self, dtype):
        """A copy of the layer in another dtype: float32 to train, float64 to check gradients."""
        dtype = expect_dtype(type(self).__name__, dtype)
        twin, converted = copy.deepcopy(self), {}
        for _, layer in twin.named_layers():
            for name, value in vars(layer).items():
                floats = isinstance(value, np.ndarray) and value.dtype in FLOATS
                if isinstance(value, Parameter) or floats:
                    # a Parameter that two layers share stays shared
                    converted.setdefault(id(value), value.astype(dtype))
                    setattr(layer, name, converted[id(value)])
        return twin

    def __repr__(self):
        inside = ",\n".join(f"{name}={child!r}" for name, child in self.children())
        if not inside:
            return f"{type(self).__name__}()"
        inside = inside.replace("\n", "\n    ")
        return f"{type(self).__name__}(\n    {inside},\n)"


@functools.cache
def written_together(kind):
    """Whether `_backward_parameters` belongs to the `_backward` of a class, not to one above."""
    owners = [
        next(owner for owner in kind.__mro__ if name in vars(owner))
        for name in ("_backward_parameters", "_backward")
    ]
    return issubclass(*owners)


class UndoneOnError:
    """Puts back what a training forward changed if it fails, also in the layers inside.

    Only layers with a `snapshot` of their own keep one, each when its turn comes, so that deep
    models are not walked through again at every level.
    """

    under_way = threading.local()

    def __init__(self, layer):
        self.layer = layer

    def __enter__(self):
        try:
            changed = self.under_way.changed
        except AttributeError:
            changed = self.under_way.changed = []
        self.start, layer = len(changed), self.layer
        owns = type(layer).snapshot is not Layer.snapshot
        changed.append((layer, layer.snapshot()) if owns else None)

    def __exit__(self, error, *_):
        changed = self.under_way.changed
        if error is not None:
            for entry in reversed(changed[self.start :]):
                if entry is not None:
                    layer, before = entry
                    layer.restore(before)
        if error is not None or self.start == 0:
            del changed[self.start :]


def output_and_cache(layer, result):
    """(y, cache) as `_forward` returned them, or TypeError if it returned something else."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], np.ndarray):
        return result
    came = type(result).__name__
    if isinstance(result, tuple):
        came = f"({', '.join(type(part).__name__ for part in result)})"
    raise TypeError(
        f"{type(layer).__name__}._forward expects to return (y, cache), y a NumPy array, got {came}"
    )


def join_path(prefix, name):
    """`prefix.name`, or the one of them that is not empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def add_path(error, name):
    """Put `name` in front of the layer path that `error` carries as its note."""
    mark = "in layer "
    notes = getattr(error, "__notes__", [])
    inner = notes.pop()[len(mark) :] if notes and notes[-1].startswith(mark) else ""
    error.add_note(mark + join_path(name, inner))


@contextlib.contextmanager
def observe(model, observer):
    """Attach `observer` to `model` and all layers inside it, for the length of a `with` block.

    Other observers may come and go meanwhile; when the block ends, this one alone is taken off.
    """
    layers = [layer for _, layer in model.named_layers()]
    try:
        for layer in layers:
            layer.observers = (*layer.observers, observer)
        yield observer
    finally:
        for layer in layers:
            take_off(layer, observer)


@contextlib.contextmanager
def unobserved(model):
    """Nobody who is attached to `model` or the layers inside it sees what happens in the block."""
    layers = [layer for _, layer in model.named_layers()]
    before = [layer.observers for layer in layers]
    try:
        for layer in layers:
            layer.observers = ()
        yield model
    finally:
        for layer, observers in zip(layers, before, strict=True):
            layer.observers = observers


def take_off(layer, observer):
    """Take one observer off a layer, and leave the others."""
    layer.observers = tuple(other for other in layer.observers if other is not observer)


@contextlib.contextmanager
def retain_caches(model):
    """Allow several backward passes through one forward pass, inside a `with` block.

    The caches are freed when the block ends.
    """
    layers = [layer for _, layer in model.named_layers()]
    before = [layer._retained for layer in layers]
    for layer in layers:
        layer._retained = True
    try:
        yield model
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._retained = old
            if not old:
                layer._cache = None
