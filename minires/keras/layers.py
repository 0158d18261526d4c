"""Keras' layers: each notes its arguments, and makes a minires layer once it sees a shape."""

import inspect

import numpy as np

from minires import initializers
from minires.checks import expect_choice, expect_int, format_shape
from minires.keras.graph import Tensor, expect_tensor, output_shape
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
    Sequential,
)
from minires.layers import Dense as DenseLayer
from minires.layers import Dropout as DropoutLayer
from minires.layers import Flatten as FlattenLayer
from minires.layers import ReLU as ReLULayer
from minires.layers import Softmax as SoftmaxLayer
from minires.ops import reference

ACTIVATIONS = {"relu": ReLULayer, "softmax": SoftmaxLayer, "linear": None, None: None}
INITIALIZERS = {
    name: getattr(initializers, name)
    for name in ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal")
}
# to learn a shape; NumPy, because a sketch of a network must not wait for kernels
TRIAL = {"rng": 0, "dtype": np.dtype(np.float32), "ops": reference}


def Input(shape):  # noqa: N802, Keras' name
    """The tensor a model starts from; `shape` is (H, W, C) or (D,), without N."""
    if not isinstance(shape, tuple | list):
        raise TypeError(f"Input expects shape (H, W, C) or (D,), got {shape!r}")
    return Tensor(tuple(expect_int("Input", "shape", size) for size in shape))


class KerasLayer:
    """Called on a tensor, returns the tensor that the layer makes of it."""

    def __new__(cls, *args, **options):
        """Refuse options of Keras that have no counterpart here, by name."""
        try:
            inspect.signature(cls.__init__).bind(None, *args, **options)
        except TypeError as error:
            known = ", ".join(list(inspect.signature(cls.__init__).parameters)[1:])
            message = f"{cls.__name__} expects its arguments out of {known}: {error}"
            raise TypeError(message) from None
        return super().__new__(cls)

    name = None
    _used = False

    def __call__(self, tensor):
        expect_tensor(type(self).__name__, tensor)
        layer = self.make(tensor.shape[1:], TRIAL)
        if self._used and layer.parameters():
            raise ValueError(
                f"{type(self).__name__} expects to be called once, because weights are not shared "
                f"here, got a second call: make another layer"
            )
        self._used = True
        return Tensor(output_shape(layer, tensor.shape[1:], TRIAL["dtype"]), self, [tensor])

    def make(self, shape, options):
        """The minires layer for one example of `shape`."""
        raise NotImplementedError


class Conv2D(KerasLayer):
    """A convolution; becomes `minires.Conv2d`, which has to know its input channels."""

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        *,
        dilation_rate=1,
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        name=None,
    ):
        self.filters, self.kernel_size, self.name = filters, kernel_size, name
        self.window = {"stride": strides, "padding": padding, "dilation": dilation_rate}
        self.groups, self.use_bias = groups, use_bias
        self.activation = expect_choice("Conv2D", "activation", activation, list(ACTIVATIONS))
        self.kernel_initializer = expect_choice(
            "Conv2D", "kernel_initializer", kernel_initializer, list(INITIALIZERS)
        )

    def make(self, shape, options):
        """A Conv2d for images of `shape`, with its activation."""
        expect_image("Conv2D", shape)
        layer = Conv2d(
            shape[-1],
            self.filters,
            self.kernel_size,
            **self.window,
            groups=self.groups,
            bias=self.use_bias,
            initializer=INITIALIZERS[self.kernel_initializer],
            **options,
        )
        return with_activation(layer, self.activation, options)


class Dense(KerasLayer):
    """An affine layer; becomes `minires.Dense`, which has to know its input features."""

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        kernel_initializer="glorot_uniform",
        name=None,
    ):
        self.units, self.use_bias, self.name = units, use_bias, name
        self.activation = expect_choice("Dense", "activation", activation, list(ACTIVATIONS))
        self.kernel_initializer = expect_choice(
            "Dense", "kernel_initializer", kernel_initializer, list(INITIALIZERS)
        )

    def make(self, shape, options):
        """A Dense for rows of `shape`, with its activation."""
        if len(shape) != 1:
            raise ValueError(
                f"Dense expects (N, D), got {format_shape((None, *shape))}: put Flatten() before it"
            )
        layer = DenseLayer(
            shape[0],
            self.units,
            bias=self.use_bias,
            initializer=INITIALIZERS[self.kernel_initializer],
            **options,
        )
        return with_activation(layer, self.activation, options)


class BatchNormalization(KerasLayer):
    """Batch norm; `momentum` is the weight of the OLD value, so minires' is 1 - momentum."""

    def __init__(self, *, momentum=0.99, epsilon=1e-3, name=None):
        self.momentum, self.epsilon, self.name = momentum, epsilon, name

    def make(self, shape, options):
        """A BatchNorm2d that behaves as Keras' does."""
        return BatchNorm2d(
            shape[-1],
            eps=self.epsilon,
            momentum=1 - self.momentum,
            running_variance="biased",
            dtype=options["dtype"],
            ops=options["ops"],
        )


class Activation(KerasLayer):
    """An activation by name."""

    def __init__(self, activation, *, name=None):
        self.activation = expect_choice("Activation", "activation", activation, list(ACTIVATIONS))
        self.name = name

    def make(self, shape, options):
        kind = ACTIVATIONS[self.activation]
        return kind(ops=options["ops"]) if kind else Sequential()


class ReLU(Activation):
    """max(x, 0)."""

    def __init__(self, *, name=None):
        super().__init__("relu", name=name)


class Softmax(Activation):
    """exp(x) / sum exp(x)."""

    def __init__(self, *, name=None):
        super().__init__("softmax", name=name)


class _Pooling2D(KerasLayer):
    kind, more = None, {}

    def __init__(self, pool_size=2, strides=None, padding="valid", *, name=None):
        self.pool_size, self.name = pool_size, name
        self.window = {"stride": strides, "padding": padding}

    def make(self, shape, options):
        expect_image(type(self).__name__, shape)
        return self.kind(self.pool_size, **self.window, **self.more, ops=options["ops"])


class MaxPooling2D(_Pooling2D):
    """The largest number of each window."""

    kind = MaxPool2d


class AveragePooling2D(_Pooling2D):
    """The mean of each window; padding does not count."""

    kind, more = AvgPool2d, {"count_include_pad": False}


class GlobalAveragePooling2D(KerasLayer):
    """The mean of each image and channel."""

    def __init__(self, *, name=None):
        self.name = name

    def make(self, shape, options):
        expect_image("GlobalAveragePooling2D", shape)
        return GlobalAvgPool2d(ops=options["ops"])


class Flatten(KerasLayer):
    """(N, H, W, C) -> (N, H*W*C)."""

    def __init__(self, *, name=None):
        self.name = name

    def make(self, shape, options):
        return FlattenLayer()


class Dropout(KerasLayer):
    """Zeroes a share of the numbers in training."""

    def __init__(self, rate, *, name=None):
        self.rate, self.name = rate, name

    def make(self, shape, options):
        return DropoutLayer(self.rate, rng=options["rng"], ops=options["ops"])


class Add(KerasLayer):
    """The sum of two tensors; becomes a `Residual`."""

    def __init__(self, *, name=None):
        self.name = name

    def __call__(self, tensors):
        if not isinstance(tensors, tuple | list) or len(tensors) != 2:
            raise ValueError(f"Add expects a list of two tensors, got {tensors!r}")
        a, b = (expect_tensor("Add", tensor) for tensor in tensors)
        if a.shape != b.shape:
            raise ValueError(
                f"Add expects two tensors of one shape, "
                f"got {format_shape(a.shape)} and {format_shape(b.shape)}"
            )
        return Tensor(a.shape[1:], self, [a, b])


def add(tensors):
    """The sum of two tensors."""
    return Add()(tensors)


def with_activation(layer, activation, options):
    """The layer, followed by its activation if it has one."""
    kind = ACTIVATIONS[activation]
    return Sequential(linear=layer, activation=kind(ops=options["ops"])) if kind else layer


def expect_image(owner, shape):
    """Refuse what is no (H, W, C)."""
    if len(shape) != 3:
        raise ValueError(f"{owner} expects (N, H, W, C), got {format_shape((None, *shape))}")
