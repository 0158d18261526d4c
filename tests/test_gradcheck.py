"""The gradient checker: its verdicts, what it can check, and that it cannot be fooled."""

import math

import numpy as np
import pytest
from broken import BROKEN
from numpy.testing import assert_array_equal

from minires.gradcheck import assert_gradients, check_gradients
from minires.layers import BatchNorm2d, Conv2d, Dense, Dropout, MaxPool2d, ReLU, Sequential
from minires.losses import SoftmaxCrossEntropy
from minires.models import resnet8
from minires.ops import reference
from minires.testing import assert_layer_contract

F64 = {"dtype": np.float64}


@pytest.mark.parametrize("name", BROKEN)
def test_a_layer_broken_on_purpose_is_refused(name):
    layer, x = BROKEN[name]
    with pytest.raises(AssertionError):
        assert_layer_contract(layer, x)


@pytest.mark.parametrize("name", sorted(set(BROKEN) - {"gradient assigned"}))
def test_the_checker_alone_refuses_all_but_what_one_pass_cannot_show(name):
    layer, x = BROKEN[name]
    assert not check_gradients(layer, x).ok


def test_one_checks_alone_would_pass_a_batch_norm_that_returns_zeros(rng):
    x = rng.standard_normal((4, 3))
    y, cache = reference.batchnorm_forward(x, np.ones(3), np.zeros(3), eps=1e-5)
    with_ones, _, _ = reference.batchnorm_backward(np.ones_like(y), cache)
    assert np.abs(with_ones).max() < 1e-14  # so a backward of zeros agrees with it
    pair = (
        lambda x: reference.batchnorm_forward(x, np.ones(3), np.zeros(3), eps=1e-5),
        lambda dy, cache: np.zeros_like(dy),
    )
    assert check_gradients(pair, x).verdicts == {"x": "fail"}


def test_a_pass_reports_small_errors_for_every_array(rng):
    report = check_gradients(Conv2d(2, 3, 3, rng=0, **F64), rng.standard_normal((2, 5, 4, 2)))
    assert report.ok
    assert list(report.verdicts) == ["x", "weight", "bias"]
    for row in report.rows:
        assert row.error < 1e-9
        assert row.analytic == pytest.approx(row.numeric, rel=1e-8)
        assert row.how == "every entry"


def test_a_failure_names_the_worst_entry_and_both_numbers(rng):
    def backward(dy, x):
        dx = 2 * x * dy
        dx[1, 2] *= 3
        return dx

    report = check_gradients((lambda x: x**2, backward), rng.standard_normal((3, 4)))
    row = report["x"]
    assert (row.verdict, row.index) == ("fail", (1, 2))
    assert row.analytic == pytest.approx(3 * row.numeric)
    assert "NOT SHOWN TO BE RIGHT" in str(report)
    assert "(1, 2)" in str(report)
    assert f"{row.numeric:+.6e}" in str(report)


def test_the_assertion_carries_the_table(rng):
    x = rng.standard_normal(3)
    with pytest.raises(AssertionError, match="fail"):
        assert_gradients((lambda x: x**2, lambda dy, x: x * dy), x)
    assert assert_gradients((lambda x: x**2, lambda dy, x: 2 * x * dy), x).ok


# ---- verdicts


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (ReLU(), np.zeros((3, 4))),
        (ReLU(), np.array([[1e-7, -3e-6], [1.0, 0.0]])),
        (MaxPool2d(2), np.ones((1, 4, 4, 2))),
        (MaxPool2d(3, stride=1), np.arange(16.0).reshape(1, 4, 4, 1) // 3),
        (Sequential(ReLU(), ReLU()), np.zeros((2, 2))),
    ],
)
def test_a_kink_is_moved_away_from_and_says_so(layer, x):
    row = check_gradients(layer, x)["x"]
    assert row.verdict == "kink"
    assert row.ok
    assert "moved the sample" in row.note


def test_relu_and_max_pool_never_fail_by_bad_luck():
    for seed in range(50):
        x = np.random.default_rng(seed).integers(-2, 3, (2, 6, 6, 3)).astype(np.float64)
        assert check_gradients(ReLU(), x, rng=seed).ok
        assert check_gradients(MaxPool2d(3, stride=2, padding=1), x, rng=seed).ok


def test_a_wrong_gradient_beside_a_kink_still_fails():
    pair = (lambda x: np.maximum(x, 0), lambda dy, x: 0.5 * dy * (x > 0))
    assert check_gradients(pair, np.array([0.0, 1.0, -1.0])).verdicts == {"x": "fail"}


def test_a_kink_everywhere_is_a_failure():
    def saw(x):
        return np.abs((x * 1e6) % 2 - 1)

    report = check_gradients((saw, lambda dy, x: dy), np.linspace(0, 1, 7))
    assert not report.ok


def test_a_gradient_that_is_zero_on_both_sides_shows_nothing(rng):
    x = rng.standard_normal((4, 3))
    report = check_gradients((lambda x: np.ones(3) + 0 * x, lambda dy, x: 0 * dy), x)
    assert report.verdicts == {"x": "vacuous"}
    assert not report.ok
    assert "nothing was shown" in report["x"].note


def test_a_bias_in_front_of_a_batch_norm_is_vacuous_and_can_be_allowed(rng):
    layer = Sequential(Conv2d(2, 3, 3, rng=0, **F64), BatchNorm2d(3, **F64))
    x = rng.standard_normal((3, 5, 5, 2))
    assert check_gradients(layer, x).verdicts["0.bias"] == "vacuous"
    with pytest.raises(AssertionError, match="vacuous"):
        assert_gradients(layer, x)
    assert_gradients(layer, x, allow_vacuous=["0.bias"])


def test_a_zero_backward_of_a_gradient_that_is_not_zero_fails_and_is_not_vacuous(rng):
    pair = (lambda x: 1e-6 * x, lambda dy, x: 0 * dy)
    assert check_gradients(pair, rng.standard_normal((4, 3))).verdicts == {"x": "fail"}


@pytest.mark.parametrize(
    ("layer", "x", "name"),
    [
        (ReLU(), np.ones((2, 3), np.float32), "x"),
        (Dense(3, 2, rng=0), np.ones((2, 3)), "weight"),
        ((lambda x: x.astype(np.float32), lambda dy, x: dy), np.ones(3), "y"),
        ((lambda x: x.astype(np.float32) * 1.0, lambda dy, x: dy), np.ones(3), "y"),
        (
            (lambda x: (x**3).astype(np.float32).astype(np.float64), lambda dy, x: 3 * x**2 * dy),
            np.ones(3),
            "y",
        ),
        ((lambda x: 2 * x, lambda dy, x: (2 * dy).astype(np.float32)), np.ones(3), "x"),
    ],
)
def test_float32_is_refused_with_the_reason(layer, x, name):
    report = check_gradients(layer, x)
    assert report.verdicts[name] == "not float64"
    assert "float" in report[name].note
    assert not report.ok


def test_a_random_forward_is_named_as_such(rng):
    noise = np.random.default_rng(0)
    pair = (lambda x: x + noise.standard_normal(x.shape), lambda dy, x: dy)
    report = check_gradients(pair, rng.standard_normal(4))
    assert report.verdicts == {"y": "random"}
    assert "for the same input" in report["y"].note


def test_dropout_is_checked_with_the_mask_held(rng):
    layer = Dropout(0.5, rng=3)
    before = layer.snapshot()
    assert check_gradients(layer, rng.standard_normal((4, 5))).ok
    assert layer.snapshot() == before


def test_a_forward_that_keeps_something_from_its_first_call_is_named(rng):
    class FirstScale:
        scale = None

        def forward(self, x):
            if self.scale is None:
                self.scale = x.max()
            return x * self.scale

        def backward(self, dy):
            return dy * self.scale

    x = rng.standard_normal((3, 4))
    report = check_gradients(FirstScale(), x)
    assert report.verdicts == {"y": "random"}
    assert "earlier calls" in report["y"].note


# ---- backward passes that are not even well-formed


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (lambda dy, x: dy[:1], "expected a gradient of shape"),
        (lambda dy, x: dy * np.nan, "NaN or infinity"),
        (lambda dy, x: None, "got NoneType"),
        (lambda dy, x: (dy, dy), "expected 1 gradients"),
        (lambda dy, x: dy * np.abs(dy), "not linear in dy"),
        (lambda dy, x: np.clip(dy, -10, 10), "not linear in dy"),
        (lambda dy, x: dy * np.random.default_rng().random(), "different values for the same x"),
    ],
)
def test_a_backward_that_is_not_well_formed_fails_with_the_reason(backward, words, rng):
    report = check_gradients((lambda x: 1.0 * x, backward), rng.standard_normal((4, 3)))
    assert report.verdicts["x"] == "fail"
    assert words in report["x"].note


def test_an_output_of_nan_fails(rng):
    report = check_gradients((lambda x: x * np.nan, lambda dy, x: dy), rng.standard_normal(3))
    assert report.verdicts == {"y": "fail"}


# ---- what can be checked


def test_a_duck_typed_layer_with_parameters_in_dictionaries(rng):
    class Affine:
        def __init__(self):
            self.params = {"W": rng.standard_normal((3, 2)), "b": np.zeros(2)}
            self.grads = {}

        def forward(self, x):
            self.x = x
            return x @ self.params["W"] + self.params["b"]

        def backward(self, dy):
            self.grads["W"], self.grads["b"] = self.x.T @ dy, dy.sum(axis=0)
            return dy @ self.params["W"].T

    layer = Affine()
    before = layer.params["W"].copy()
    report = check_gradients(layer, rng.standard_normal((4, 3)))
    assert report.verdicts == {"x": "pass", "W": "pass", "b": "pass"}
    assert_array_equal(layer.params["W"], before)


@pytest.mark.parametrize("gradient_name", ["dw", "w_grad", "grad_w"])
def test_a_duck_typed_layer_with_parameters_in_attributes(gradient_name, rng):
    class Scale:
        def __init__(self):
            self.w = rng.standard_normal(3)
            setattr(self, gradient_name, np.zeros(3))

        def forward(self, x):
            self.x = x
            return x * self.w

        def backward(self, dy):
            setattr(self, gradient_name, (dy * self.x).sum(axis=0))
            return dy * self.w

    assert check_gradients(Scale(), rng.standard_normal((4, 3))).verdicts == {
        "x": "pass",
        "w": "pass",
    }


def test_parameters_can_be_given_and_forgotten_ones_are_named(rng):
    class Scale:
        def __init__(self):
            self.factor = rng.standard_normal(3)
            self.slope = None

        def forward(self, x):
            self.x = x
            return x * self.factor

        def backward(self, dy):
            self.slope = (dy * self.x).sum(axis=0)
            return dy * self.factor

    layer, x = Scale(), rng.standard_normal((4, 3))
    report = check_gradients(layer, x)
    assert report.verdicts == {"x": "pass", "factor": "unchecked"}
    assert not report.ok
    assert check_gradients(layer, x, ignore=["factor"]).ok
    given = {"factor": (layer.factor, lambda: layer.slope)}
    report = check_gradients(layer, x, parameters=given)
    assert report.verdicts == {"x": "pass", "factor": "pass"}


def test_a_layer_of_two_inputs(rng):
    class Product:
        def forward(self, a, b):
            self.a, self.b = a, b
            return a * b

        def backward(self, dy):
            return dy * self.b, dy * self.a

    report = check_gradients(Product(), rng.standard_normal(4), rng.standard_normal(4))
    assert report.verdicts == {"a": "pass", "b": "pass"}


def test_a_pair_of_ops_with_all_arguments(rng):
    x, w, b = rng.standard_normal((4, 3)), rng.standard_normal((3, 2)), rng.standard_normal(2)
    pair = (reference.dense_forward, reference.dense_backward)
    assert list(check_gradients(pair, x, w, b).verdicts.values()) == ["pass"] * 3
    assert list(check_gradients(pair, x, w, None).verdicts.values()) == ["pass"] * 2


def test_a_loss_with_labels(rng):
    report = check_gradients(
        SoftmaxCrossEntropy(label_smoothing=0.1),
        rng.standard_normal((4, 3)),
        np.array([0, 2, 1, 1]),
    )
    assert report.verdicts == {"logits": "pass"}


def test_large_arrays_are_checked_along_directions(rng):
    layer = Dense(60, 50, rng=0, **F64)
    report = check_gradients(layer, rng.standard_normal((30, 60)))
    assert report.ok
    assert report["weight"].how == "8 directions, 64 entries"
    assert report["bias"].how == "every entry"


def test_a_whole_residual_network_passes(rng):
    model = resnet8(input_shape=(8, 8, 3), rng=0, **F64)
    x = rng.standard_normal((2, 8, 8, 3))
    assert_gradients(model, x, tolerance=1e-6, max_entries=20)


def test_the_layer_is_left_as_it_was(rng):
    layer = Sequential(Conv2d(2, 3, 3, rng=0, **F64), BatchNorm2d(3, **F64), Dropout(0.5, rng=0))
    layer.parameters()[0].grad[...] = 7
    before = [p.value.copy() for p in layer.parameters()]
    state = layer[1].running_mean.copy()
    check_gradients(layer, rng.standard_normal((3, 5, 5, 2)))
    for parameter, old in zip(layer.parameters(), before, strict=True):
        assert_array_equal(parameter.value, old)
    assert (layer.parameters()[0].grad == 7).all()
    assert_array_equal(layer[1].running_mean, state)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((ReLU, np.ones(3)), TypeError, "an instance, not the class"),
        ((lambda x: x, np.ones(3)), TypeError, "a pair"),
        ((ReLU(),), TypeError, "at least one float64 array"),
        ((ReLU(), np.arange(3)), TypeError, "at least one float64 array"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        check_gradients(*arguments)


@pytest.mark.parametrize("option", ["h", "tolerance", "max_entries", "directions"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=rf"check_gradients expects {option} .* got -1"):
        check_gradients(ReLU(), np.ones(3), **{option: -1})


def test_two_checks_with_one_seed_report_the_same(rng):
    x = rng.standard_normal((4, 30))
    layer = Dense(30, 50, rng=0, **F64)
    first, second = (str(check_gradients(layer, x, rng=5)) for _ in range(2))
    assert first == second
    assert math.isfinite(check_gradients(layer, x)["x"].error)
