"""Ways in which gradient checks have been fooled, and ways in which they cry wolf."""

import copy
from typing import ClassVar

import numpy as np
import pytest

from minires.core import Layer, Parameter
from minires.gradcheck import check_gradients
from minires.layers import BatchNorm2d, Dense, ReLU, Sequential, Softmax
from minires.losses import CategoricalCrossEntropy

X = np.random.default_rng(7).standard_normal((4, 3))


class Square:
    """y = x^2 with a right backward, to be broken."""

    def forward(self, x):
        self.x = x
        return x**2

    def backward(self, dy):
        return 2 * self.x * dy


class SharedCache(Square):
    """All instances keep one cache."""

    store: ClassVar[dict] = {}

    def forward(self, x):
        SharedCache.store["x"] = x
        return x**2

    def backward(self, dy):
        return 2 * SharedCache.store["x"] * dy


class PreviousInput(Square):
    """The backward pass uses the input of the forward before the last one."""

    last = before = None

    def forward(self, x):
        self.before, self.last = self.last if self.last is not None else x, x
        return x**2

    def backward(self, dy):
        return 2 * self.before * dy


class IgnoresDy(Square):
    def backward(self, dy=1.0):
        return 2 * self.x


class FlipsDy(Square):
    def backward(self, dy):
        return 2 * self.x * np.abs(dy)


class ThresholdsDy(Square):
    """Right for a dy of order 1, but a real dy carries 1/N."""

    def backward(self, dy):
        return 2 * self.x * dy * (np.abs(dy) > 1e-4)


class SumOfDy(Square):
    """Homogeneous in dy, and still not linear."""

    def backward(self, dy):
        return 2 * self.x * dy * (1 + 1e-3 * (np.sign(dy[0, 0]) == np.sign(dy[0, 1])))


class WritesToItsCache(Square):
    def backward(self, dy):
        self.x *= 2
        self.x *= dy
        return self.x


class BackwardInFloat32(Square):
    def backward(self, dy):
        return (2 * self.x * dy).astype(np.float32).astype(np.float64)


class HalfADigit(Square):
    def backward(self, dy):
        return 2 * self.x * dy * (1 + 1e-6)


class WrongNearZero(Square):
    def backward(self, dy):
        return 2 * self.x * dy * (np.abs(self.x) > 0.1)


class TwoOutputs(Square):
    def forward(self, x):
        return super().forward(x), x


FOOLS = [
    PreviousInput,
    SharedCache,
    IgnoresDy,
    FlipsDy,
    ThresholdsDy,
    SumOfDy,
    WritesToItsCache,
    BackwardInFloat32,
    HalfADigit,
    WrongNearZero,
    TwoOutputs,
]


@pytest.mark.parametrize("fool", FOOLS)
@pytest.mark.parametrize("seed", range(3))
def test_a_fool_is_found_out(fool, seed):
    assert not check_gradients(fool(), X, rng=seed).ok


def test_the_model_for_the_fools_passes():
    assert check_gradients(Square(), X).ok


# ---- parameters that hide


class Affine:
    """y = x W, with the gradient of W wrong by a factor of 2 where a subclass puts it."""

    def __init__(self):
        self.W = np.random.default_rng(0).standard_normal((3, 2))

    def forward(self, x):
        self.x = x
        return x @ self.W

    def gradient(self, dy):
        return 2 * self.x.T @ dy

    def backward(self, dy):
        self.dW = self.gradient(dy)
        return dy @ self.W.T


class InLists(Affine):
    def __init__(self):
        super().__init__()
        self.params = [self.W]
        self.grads = [np.zeros_like(self.W)]

    def backward(self, dy):
        self.grads[0] = self.gradient(dy)
        return dy @ self.W.T


class InDictionaries(Affine):
    def __init__(self):
        super().__init__()
        self.params, self.grads = {"W": self.W}, None
        del self.W

    def forward(self, x):
        self.x = x
        return x @ self.params["W"]

    def backward(self, dy):
        self.grads = {"dW": self.gradient(dy)}
        return dy @ self.params["W"].T


class Box:
    def __init__(self, data):
        self.data, self.grad = data, None


class InBoxes(Affine):
    def __init__(self):
        super().__init__()
        self.W = Box(self.W)

    def forward(self, x):
        self.x = x
        return x @ self.W.data

    def backward(self, dy):
        self.W.grad = self.gradient(dy)
        return dy @ self.W.data.T


class InALayerInside:
    def __init__(self):
        self.layers = [Square(), Affine()]

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy


class Forgotten(Affine):
    def backward(self, dy):
        return dy @ self.W.T


class Steps(Affine):
    """Updates its parameter in the backward pass."""

    def backward(self, dy):
        self.dW = self.x.T @ dy
        self.W -= 0.1 * self.dW
        return dy @ self.W.T


@pytest.mark.parametrize(
    "layer", [Affine, InLists, InDictionaries, InBoxes, InALayerInside, Forgotten, Steps]
)
def test_a_wrong_parameter_gradient_is_found_wherever_it_is_kept(layer):
    for mine in (layer(), layer()):
        assert not check_gradients(mine, X).ok
    used = layer()  # one that has run before
    used.forward(X)
    used.backward(np.ones((4, 2)))
    assert not check_gradients(used, X).ok


@pytest.mark.parametrize("layer", [Affine, InLists, InDictionaries, InBoxes, InALayerInside])
def test_a_right_parameter_gradient_passes_wherever_it_is_kept(layer, monkeypatch):
    monkeypatch.setattr(Affine, "gradient", lambda self, dy: self.x.T @ dy)
    report = check_gradients(layer(), X)
    assert report.ok, report
    assert len(report.rows) == 2


def test_a_layer_that_overwrites_gradients_is_refused():
    class Assigns(Layer):
        def __init__(self):
            self.w = Parameter(np.ones(3))

        def _forward(self, x, training):
            return x * self.w.value, x

        def _backward(self, dy, x):
            self.w.grad[...] = (dy * x).sum(axis=0)
            return dy * self.w.value

    report = check_gradients(Assigns(), X)
    assert report.verdicts == {"w": "fail"}
    assert "did not add to the gradient" in report["w"].note


def test_layers_in_a_list_are_refused_where_nobody_would_find_them():
    layer = Layer()
    with pytest.raises(TypeError, match="in a Sequential, got a list of them as blocks"):
        layer.blocks = [ReLU()]


def test_the_users_object_is_left_as_it_was():
    class Norm(Square):
        def __init__(self):
            self.mean, self.rng = np.zeros(3), np.random.default_rng(0)

        def forward(self, x):
            self.mean *= 0.9
            self.rng.random()
            return super().forward(x)

    layer = Norm()
    before = copy.deepcopy(layer)
    assert check_gradients(layer, X).ok
    assert list(vars(layer)) == ["mean", "rng"]
    assert (layer.mean == before.mean).all()
    assert layer.rng.random() == before.rng.random()


# ---- ties, kinks, curvature


def max_of_four(x):
    return x.reshape(-1, 4).max(axis=1), x


def to_all_ties(dy, x):
    w = x.reshape(-1, 4)
    return ((w == w.max(axis=1, keepdims=True)) * dy[:, None]).reshape(x.shape)


def to_the_first(dy, x):
    w = x.reshape(-1, 4)
    return (np.eye(4)[w.argmax(axis=1)] * dy[:, None]).reshape(x.shape)


@pytest.mark.parametrize("x", [np.zeros(8), np.zeros((3, 8)), np.repeat([1.0, 2.0], 4)])
def test_max_pooling_that_sends_dy_to_every_tie_is_found_though_ties_are_kinks(x):
    assert not check_gradients((max_of_four, to_all_ties), x).ok
    assert check_gradients((max_of_four, to_the_first), x).verdicts == {"x": "kink"}


SMOOTH = {
    "log near 0": (np.log, lambda x: 1 / x, np.random.default_rng(0).random(300) + 1e-3),
    "1/x near 0": (
        lambda x: 1 / x,
        lambda x: -1 / x**2,
        np.random.default_rng(1).random(300) + 0.01,
    ),
    "x^3 near 0": (lambda x: x**3, lambda x: 3 * x**2, np.linspace(-2e-3, 2e-3, 9)),
    "sqrt near 0": (np.sqrt, lambda x: 0.5 / np.sqrt(x), np.linspace(1e-3, 2e-3, 9)),
    "exp(5x)": (lambda x: np.exp(5 * x), lambda x: 5 * np.exp(5 * x), X.ravel()),
    "x^2 at 1e6": (lambda x: x**2, lambda x: 2 * x, 1e6 * X.ravel()),
    "x^2 at 1e-6": (lambda x: x**2, lambda x: 2 * x, 1e-6 * X.ravel()),
    "x + 1e9": (lambda x: x + 1e9, np.ones_like, X.ravel()),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_a_right_smooth_function_passes_however_curved(name):
    f, slope, x = SMOOTH[name]
    report = check_gradients((f, lambda dy, x: slope(x) * dy), x)
    assert report.verdicts == {"x": "pass"}, report


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("factor", [1.5, 0.0, 1 + 1e-5])
def test_a_wrong_smooth_function_fails_however_curved(name, factor):
    f, slope, x = SMOOTH[name]
    if name == "x + 1e9" and factor == 1 + 1e-5:
        factor = 1 + 1e-3  # what rounding hides there, and the report says so
    assert not check_gradients((f, lambda dy, x: factor * slope(x) * dy), x).ok


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_batch_norm_passes_at_any_scale_of_its_input(scale):
    x = scale * np.random.default_rng(0).standard_normal((4, 3, 3, 2))
    assert check_gradients(BatchNorm2d(2, dtype=np.float64), x).ok


@pytest.mark.parametrize("f", [np.sqrt, lambda x: np.where(x == 0, 0, x * np.log(np.abs(x)))])
def test_a_function_that_is_not_finite_beside_the_sample_does_not_pass(f):
    def quiet(x):
        with np.errstate(all="ignore"):
            return f(x)

    for n in (5, 2000):
        assert not check_gradients((quiet, lambda dy, x: 0 * dy), np.zeros(n)).ok


def test_outputs_that_happen_to_be_float32_numbers_are_no_reason_to_refuse():
    assert check_gradients(Softmax(), np.zeros((2, 4))).ok
    half = (lambda x: np.clip(x, -0.5, 0.5), lambda dy, x: dy * (np.abs(x) < 0.5))
    assert check_gradients(half, np.array([3.0, -3.0, 0.25])).ok


def test_a_function_of_distributions_is_only_asked_about_distributions():
    for seed in range(6):
        probs = np.random.default_rng(seed).dirichlet(np.ones(10), 8)
        assert check_gradients(CategoricalCrossEntropy(1e-12), probs, np.arange(8)).ok


def test_a_pair_with_a_cache_of_its_own_outside_is_found():
    store: ClassVar[dict] = {}

    def forward(x):
        store["x"] = x
        return x**2, None

    def backward(dy, cache):
        return 2 * store["x"] * dy

    assert not check_gradients((forward, backward), X).ok


def test_deep_plain_stacks_of_relu_pass():
    layers = []
    for i in range(12):
        layers += [Dense(16, 16, rng=i, dtype=np.float64), ReLU()]
    report = check_gradients(Sequential(*layers), np.random.default_rng(0).standard_normal((4, 16)))
    assert report.ok, report


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_gradients(Square(), np.ones((0, 3))), ValueError, "got an empty one"),
        (lambda: check_gradients(Square(), X, constant="x"), TypeError, "positions from 0 to 0"),
        (lambda: check_gradients(Square(), X, constant=[7]), TypeError, "positions from 0 to 0"),
        (lambda: check_gradients(Square(), X, parameters=[X]), TypeError, "got list"),
        (lambda: check_gradients(Square(), X, parameters={"W": X}), TypeError, "for 'W'"),
        (
            lambda: check_gradients((np.sin, lambda dy, x: dy), X, parameters={}),
            TypeError,
            "parameters of a pair among its inputs",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


class RawWeights(Layer):
    """Keeps its weights where nobody looks for them."""

    def __init__(self):
        self.w = np.full(3, 2.0)

    def _forward(self, x, training):
        return x * self.w, None

    def _backward(self, dy, cache):
        return dy * self.w


class HiddenLayers(Layer):
    def __init__(self):
        self.parts = []
        self.parts.append(Dense(3, 3, rng=0, dtype=np.float64))

    def _forward(self, x, training):
        return self.parts[0].forward(x), None

    def _backward(self, dy, cache):
        return self.parts[0].backward(dy)


@pytest.mark.parametrize("layer", [RawWeights, HiddenLayers])
def test_weights_of_a_layer_that_are_no_parameters_are_named(layer):
    report = check_gradients(layer(), X)
    assert "unchecked" in report.verdicts.values()
    assert not report.ok


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_are_no_parameters(training):
    norm = BatchNorm2d(3, dtype=np.float64)
    assert list(check_gradients(norm, X, training=training).verdicts) == ["x", "gamma", "beta"]


# ---- what the sample hides


def test_half_of_dy_to_each_of_four_tied_maxima_fails_though_each_central_difference_is_a_half():
    def give_half(dy, x):
        return 0.5 * dy[:, None] * (x == x.max(axis=1, keepdims=True))

    def give_to_the_first(dy, x):
        return dy[:, None] * (np.arange(4) == x.argmax(axis=1)[:, None])

    report = check_gradients((lambda x: x.max(axis=1), give_half), np.zeros((3, 4)))
    assert report.verdicts == {"x": "fail"}
    assert "wrong on the kink itself" in report["x"].note
    assert check_gradients((lambda x: x.max(axis=1), give_to_the_first), np.zeros((3, 4))).ok


@pytest.mark.parametrize("margin", [5, 10, 15, 17])
def test_a_loss_that_has_nearly_vanished_is_judged_by_the_rounding_inside_it(margin):
    targets = np.eye(3)[[0, 1, 2, 1]]
    logits = np.random.default_rng(0).standard_normal((4, 3)) + margin * targets

    def forward(z):
        z = z - z.max(axis=1, keepdims=True)
        log_probs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return -(targets * log_probs).sum() / 4, np.exp(log_probs)

    def backward(dy, probs):
        return dy * (probs - targets) / 4

    assert check_gradients((forward, backward), logits).ok
    off = check_gradients((forward, lambda dy, probs: 1.001 * backward(dy, probs)), logits)
    assert off.verdicts == {"z": "fail"}


def test_a_sum_that_is_zero_but_for_rounding_is_vacuous_and_not_taken_for_float32(rng):
    x = rng.standard_normal((5, 3))
    report = check_gradients((lambda x: (x - x.mean(axis=0)).sum(axis=0), lambda dy, x: 0 * x), x)
    assert report.verdicts == {"x": "vacuous"}
