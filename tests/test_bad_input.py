"""Bad input: one error that says what was expected and what came, and a model left as it was."""

import copy

import numpy as np
import pytest

from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    PadShortcut,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from minires.testing import contents


def model():
    """Images (N, 6, 6, 3) float32 to 4 logits, with state of every kind."""
    return Sequential(
        conv=Conv2d(3, 4, 3, padding=1, rng=0),
        norm=BatchNorm2d(4),
        block=Residual(Sequential(conv=Conv2d(4, 4, 3, padding=1, rng=1), norm=BatchNorm2d(4))),
        dropout=Dropout(0.5, rng=0),
        pool=MaxPool2d(3),
        flatten=Flatten(),
        fc=Dense(16, 4, rng=2),
    )


X = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)

FORWARD = {
    "a list": (X.tolist(), TypeError, "expects x to be a NumPy array, got list"),
    "None": (None, TypeError, "expects x to be a NumPy array, got NoneType"),
    "rank 3": (X[0], ValueError, "x of shape (N, H, W, 3), got (6, 6, 3)"),
    "rank 5": (X[None], ValueError, "x of shape (N, H, W, 3), got (1, 2, 6, 6, 3)"),
    "channels first": (X.transpose(0, 3, 1, 2), ValueError, "(N, H, W, 3), got (2, 3, 6, 6)"),
    "channels": (X[..., :2], ValueError, "x of shape (N, H, W, 3), got (2, 6, 6, 2)"),
    "uint8": (X.astype(np.uint8), ValueError, "dtype float32 or float64, got uint8"),
    "float16": (X.astype(np.float16), ValueError, "dtype float32 or float64, got float16"),
    "complex": (X.astype(complex), ValueError, "dtype float32 or float64, got complex128"),
    "object": (X.astype(object), ValueError, "dtype float32 or float64, got object"),
    "mixed dtype": (X.astype(float), ValueError, "dtype float32, like its parameters, got float64"),
    "empty batch": (X[:0], ValueError, "at least one number in x, got an empty array of shape (0"),
    "empty image": (X[:, :0], ValueError, "at least one number in x, got an empty array"),
    "too small": (
        X[:, :2, :2],
        ValueError,
        "at least 3x3 pixels, the reach of its kernel",
    ),
    "another size": (np.ones((2, 12, 12, 3), np.float32), ValueError, "(N, 16), got (2, 64)"),
}


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_forward_is_refused_and_the_model_is_as_it_was(name, training):
    x, error, words = FORWARD[name]
    net = model()
    before = contents(net)
    with pytest.raises(error) as caught:
        net.forward(x, training=training)
    assert words in str(caught.value)
    assert contents(net) == before
    np.testing.assert_array_equal(net.forward(X), model().forward(X))


DY = np.ones((2, 4), np.float32)
BACKWARD = {
    "a list": (DY.tolist(), TypeError, "Sequential.backward expects dy to be a NumPy array"),
    "shape": (DY[:1], ValueError, "expects dy of shape (2, 4), got (1, 4)"),
    "rank": (DY[0], ValueError, "expects dy of shape (2, 4), got (4,)"),
    "scalar": (np.float32(1), TypeError, "dy to be a NumPy array, got float32"),
    "dtype": (DY.astype(float), ValueError, "dy of dtype float32, like the output, got float64"),
    "integers": (DY.astype(int), ValueError, "dtype float32 or float64, got int64"),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_a_bad_dy_is_refused_and_the_right_one_still_works(name):
    dy, error, words = BACKWARD[name]
    net = model()
    net.forward(X, training=True)
    before = contents(net)
    with pytest.raises(error) as caught:
        net.backward(dy)
    assert words in str(caught.value)
    assert contents(net) == before
    assert net.backward(DY).shape == X.shape


def test_backward_before_forward_is_refused():
    net = model()
    before = contents(net)
    with pytest.raises(RuntimeError, match=r"Sequential.backward expects a forward before it"):
        net.backward(DY)
    assert contents(net) == before


ARGUMENTS = {
    "no channels": (lambda: Conv2d(0, 4, 3), "in_channels to be an integer >= 1, got 0"),
    "half a channel": (lambda: Conv2d(3, 2.5, 3), "out_channels to be an integer >= 1, got 2.5"),
    "True channels": (lambda: Conv2d(True, 4, 3), "in_channels to be an integer >= 1, got True"),
    "kernel 0": (lambda: Conv2d(3, 4, 0), "kernel_size to be an integer >= 1 or a pair"),
    "kernel of 3": (lambda: Conv2d(3, 4, (3, 3, 3)), "a pair of them, got (3, 3, 3)"),
    "negative stride": (lambda: Conv2d(3, 4, 3, stride=-1), "stride to be an integer >= 1"),
    "stride 0": (lambda: MaxPool2d(2, stride=(2, 0)), "stride to be an integer >= 1"),
    "negative padding": (lambda: Conv2d(3, 4, 3, padding=-1), "padding to be an integer >= 0"),
    "padding in words": (lambda: Conv2d(3, 4, 3, padding="full"), "or \"valid\", got 'full'"),
    "padding of three": (lambda: Conv2d(3, 4, 3, padding=(1, 1, 1)), "got (1, 1, 1)"),
    "padding of floats": (lambda: AvgPool2d(2, padding=0.5), "padding to be an integer >= 0"),
    "dilation 0": (lambda: Conv2d(3, 4, 3, dilation=0), "dilation to be an integer >= 1"),
    "groups": (lambda: Conv2d(3, 4, 3, groups=2), "divisible by groups=2, got 3 and 4"),
    "groups 0": (lambda: Conv2d(3, 4, 3, groups=0), "groups to be an integer >= 1, got 0"),
    "float16": (lambda: Dense(3, 4, dtype=np.float16), "dtype float32 or float64, got"),
    "dtype in words": (
        lambda: Dense(3, 4, dtype="real"),
        "dtype float32 or float64, got 'real'",
    ),
    "features": (lambda: Dense(-3, 4), "in_features to be an integer >= 1, got -3"),
    "eps": (lambda: BatchNorm2d(3, eps=0), "eps to be a number > 0, got 0"),
    "momentum": (lambda: BatchNorm2d(3, momentum=1.5), "momentum to be a number >= 0 and <= 1"),
    "variance": (lambda: BatchNorm2d(3, running_variance="mle"), "'unbiased', 'biased', got 'mle'"),
    "rate 1": (lambda: Dropout(1.0), "rate to be a number >= 0 and < 1, got 1.0"),
    "rate in words": (lambda: Dropout("half"), "rate to be a number >= 0 and < 1, got 'half'"),
    "fewer channels": (lambda: PadShortcut(8, 4), "out_channels to be an integer >= 8, got 4"),
    "shared": (lambda: shared(), "each layer in one place, got the same ReLU as"),
    "taken name": (lambda: Sequential(forward=ReLU()), "names that are free and have no dot"),
    "dotted name": (lambda: Sequential(**{"a.b": ReLU()}), "no dot, got 'a.b'"),
    "no branch": (lambda: Residual(None), "branch to be a Layer, got NoneType"),
    "a class": (lambda: Sequential(ReLU), "to be a Layer, got type"),
    "a class, hint": (lambda: Sequential(ReLU), "write ReLU(...)"),
    "a function": (lambda: Sequential(np.tanh), "to be a Layer, got ufunc"),
}


def shared():
    relu = ReLU()
    return Sequential(relu, relu)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_bad_argument_is_refused(name):
    make, words = ARGUMENTS[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (Softmax(), (2, 3, 4), "Softmax expects x of shape (N, K), got (2, 3, 4)"),
        (MaxPool2d(2), (4, 4), "MaxPool2d expects x of shape (N, H, W, C), got (4, 4)"),
        (GlobalAvgPool2d(), (4, 4, 3), "x of shape (N, H, W, C), got (4, 4, 3)"),
        (BatchNorm2d(3), (2, 4, 3), "(N, H, W, 3) or (N, 3), got (2, 4, 3)"),
        (PadShortcut(3, 6), (2, 4, 4, 4), "x of shape (N, H, W, 3), got (2, 4, 4, 4)"),
        (Flatten(), (4,), "x of shape (N, ...), got (4,)"),
        (Dense(3, 4, rng=0), (2, 2, 3), "Dense expects x of shape (N, 3), got (2, 2, 3)"),
        (MaxPool2d(2, padding=2), (2, 4, 4, 3), "padding smaller than its kernel (2, 2)"),
    ],
)
def test_every_layer_says_which_shape_it_expects(layer, shape, words):
    before = contents(copy.deepcopy(layer))
    with pytest.raises(ValueError, match="expects") as caught:
        layer.forward(np.ones(shape, np.float32), training=True)
    assert words in str(caught.value)
    assert contents(layer) == before
