"""Layers made of layers: Sequential puts them one after the other, Residual side by side."""

from minires.checks import format_shape
from minires.core import Layer, add_path
from minires.layers.shape import Identity
from minires.ops import default as default_ops


class Sequential(Layer):
    """y = f_n(... f_2(f_1(x))).

    Parameters
    ----------
    *layers, **named_layers : Layer
        In the order in which they act. Unnamed layers are called "0", "1", ...; names become part
        of the path, as in `stage2.block0.conv1.weight`.

    Examples
    --------
    >>> from minires import BatchNorm2d, ReLU
    >>> Sequential(norm=BatchNorm2d(3), relu=ReLU())
    Sequential(
        norm=BatchNorm2d(3, eps=1e-05, momentum=0.1),
        relu=ReLU(),
    )
    """

    def __init__(self, *layers, **named_layers):
        numbered = [(str(i), layer) for i, layer in enumerate(layers)]
        for name, layer in [*numbered, *named_layers.items()]:
            expect_layer("Sequential", name, layer)
            if hasattr(self, name) or "." in name or not name:
                raise ValueError(
                    f"Sequential expects names that are free and have no dot, got {name!r}"
                )
            setattr(self, name, layer)
        refuse_shared(self)

    def _forward(self, x, training):
        for name, layer in self.children():
            try:
                x = layer.forward(x, training=training)
            except Exception as error:
                add_path(error, name)
                raise
        return x, ()

    def _backward(self, dy, cache):
        for name, layer in reversed(self.children()):
            dy = self._through(name, layer, dy)
        return dy

    def _backward_parameters(self, dy, cache):
        layers = self.children()
        for name, layer in reversed(layers[1:]):
            dy = self._through(name, layer, dy)
        for name, layer in layers[:1]:
            self._through(name, layer, dy, input_gradient=False)

    def _through(self, name, layer, dy, **options):
        try:
            return layer.backward(dy, **options)
        except Exception as error:
            add_path(error, name)
            raise

    def __len__(self):
        return len(self.children())

    def __iter__(self):
        return iter([layer for _, layer in self.children()])

    def __getitem__(self, key):
        """The layer at a position or of a name; for a slice, a Sequential of the same layers."""
        if isinstance(key, str):
            return dict(self.children())[key]
        if isinstance(key, slice):
            return Sequential(**dict(self.children()[key]))
        return self.children()[key][1]

    def __repr__(self):
        lines = [f"{name}={layer!r}" for name, layer in self.children()]
        inside = ",\n".join(line.removeprefix(f"{i}=") for i, line in enumerate(lines))
        inside = inside.replace("\n", "\n    ")
        return f"Sequential(\n    {inside},\n)" if inside else "Sequential()"


class Residual(Layer):
    """y = shortcut(x) + branch(x), with nothing after the sum.

    The gradient splits at the sum: dx = shortcut.backward(dy) + branch.backward(dy). With the
    identity as shortcut the first term is dy itself, whatever the branch does.

    Parameters
    ----------
    branch : Layer
        F(x).
    shortcut : Layer
        The identity if left out. It must give the shape that the branch gives.
    ops : module
        The implementation, such as `minires.ops.reference`.

    References
    ----------
    He et al. (2016), arXiv:1603.05027, equation 5.
    """

    def __init__(self, branch, shortcut=None, *, ops=default_ops):
        self.ops = ops
        self.branch = expect_layer("Residual", "branch", branch)
        self.shortcut = expect_layer(
            "Residual", "shortcut", Identity() if shortcut is None else shortcut
        )
        refuse_shared(self)

    def _forward(self, x, training):
        shortcut = self._through("shortcut", "forward", x, training=training)
        branch = self._through("branch", "forward", x, training=training)
        expect_one_shape(shortcut, branch, x)
        return self.ops.add_forward(shortcut, branch), ()

    def _backward(self, dy, cache):
        shortcut = self._through("shortcut", "backward", dy)
        return self.ops.add_backward(shortcut, self._through("branch", "backward", dy))

    def _through(self, name, method, *args, **options):
        try:
            return getattr(getattr(self, name), method)(*args, **options)
        except Exception as error:
            add_path(error, name)
            raise


def expect_one_shape(shortcut, branch, x):
    """Refuse to add what has different shapes."""
    if shortcut.shape != branch.shape:
        raise ValueError(
            f"Residual expects shortcut and branch of one shape, got "
            f"{format_shape(shortcut.shape)} from the shortcut and "
            f"{format_shape(branch.shape)} from the branch, for x of {format_shape(x.shape)}"
        )


def expect_layer(owner, name, layer):
    """Return `layer`, or raise TypeError if it is none."""
    if not isinstance(layer, Layer):
        raise TypeError(f"{owner} expects {name} to be a Layer, got {described(layer)}")
    return layer


def described(stranger):
    """What came instead of a Layer, and what to do about it if that is plain."""
    kind = type(stranger).__name__
    if isinstance(stranger, type):
        return f"type {stranger!r}: write {stranger.__name__}(...)"
    if isinstance(getattr(stranger, "layer", None), Layer):  # a model of `minires.keras`
        return f"{kind}: pass its .layer"
    if isinstance(stranger, str | int | float):
        return f"{kind} {stranger!r}"
    return kind


def refuse_shared(container):
    """A layer keeps one cache, so it can stand in one place only."""
    seen = {}
    for path, layer in container.named_layers():
        if id(layer) in seen:
            raise ValueError(
                f"{type(container).__name__} expects each layer in one place, got the same "
                f"{type(layer).__name__} as {seen[id(layer)]} and {path}: make a second one"
            )
        seen[id(layer)] = path
