"""What layers add to their ops: state, options, initial values."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires import initializers
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    MaxPool2d,
    PadShortcut,
    Residual,
    Sequential,
)


@pytest.mark.parametrize(("kind", "ddof"), [("unbiased", 1), ("biased", 0)])
def test_running_statistics_follow_the_batch(kind, ddof, rng):
    norm = BatchNorm2d(3, momentum=0.3, running_variance=kind, dtype=np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(4):
        x = 2 + 3 * rng.standard_normal((4, 5, 6, 3))
        norm.forward(x, training=True)
        mean = 0.7 * mean + 0.3 * np.mean(x, axis=(0, 1, 2))
        var = 0.7 * var + 0.3 * np.var(x, axis=(0, 1, 2), ddof=ddof)
    assert_allclose(norm.running_mean, mean, rtol=1e-13)
    assert_allclose(norm.running_var, var, rtol=1e-13)


def test_the_running_variance_is_not_the_biased_one_by_default(rng):
    x = rng.standard_normal((2, 1, 1, 3))
    norm = BatchNorm2d(3, momentum=1.0, dtype=np.float64)
    norm.forward(x, training=True)
    assert_allclose(norm.running_var, np.var(x, axis=(0, 1, 2), ddof=1))
    assert (norm.running_var > 1.5 * np.var(x, axis=(0, 1, 2))).all()


def test_inference_uses_the_running_statistics(rng):
    norm = BatchNorm2d(3, dtype=np.float64)
    norm.running_mean, norm.running_var = np.full(3, 2.0), np.full(3, 4.0)
    x = rng.standard_normal((2, 4, 4, 3))
    assert_allclose(norm.forward(x), (x - 2) / np.sqrt(4 + 1e-5), rtol=1e-12)


def test_one_value_a_channel_is_refused_in_training_only():
    norm = BatchNorm2d(3)
    x = np.ones((1, 1, 1, 3), np.float32)
    with pytest.raises(ValueError, match="more than one value per channel in training mode, got"):
        norm.forward(x, training=True)
    norm.forward(x)
    assert_array_equal(norm.running_mean, 0)


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        (initializers.he_normal, 2 / 90),
        (initializers.he_uniform, 2 / 90),
        (initializers.glorot_normal, 2 / (90 + 450)),
        (initializers.glorot_uniform, 2 / (90 + 450)),
    ],
)
def test_initializers_have_the_variance_of_the_paper(initializer, variance):
    layer = Conv2d(10, 50, 3, initializer=initializer, rng=0, dtype=np.float64)
    w = layer.weight.value
    assert w.shape == (3, 3, 10, 50)
    assert_allclose(w.var(), variance, rtol=0.1)  # 4,500 numbers: standard deviation 2 %
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    if "uniform" in initializer.__name__:
        assert np.abs(w).max() <= math.sqrt(3 * variance)


def test_both_dtypes_start_from_the_same_numbers():
    single, double = (Conv2d(3, 4, 3, rng=7, dtype=d).weight.value for d in ("f4", "f8"))
    assert_array_equal(single, double.astype(np.float32))


def test_biases_start_at_zero_and_can_be_left_out():
    assert not Dense(3, 4, rng=0).bias.value.any()
    assert Dense(3, 4, bias=False, rng=0).bias is None
    assert Conv2d(3, 4, 3, bias=False, rng=0).bias is None


def test_parameters_know_their_role():
    model = Sequential(Conv2d(3, 4, 3, rng=0), BatchNorm2d(4), Dense(4, 2, rng=0))
    roles = {path: parameter.role for path, parameter in model.named_parameters()}
    assert roles == {
        "0.weight": "weight",
        "0.bias": "bias",
        "1.gamma": "norm",
        "1.beta": "norm",
        "2.weight": "weight",
        "2.bias": "bias",
    }


def test_pooling_steps_by_its_kernel_unless_told(rng):
    x = rng.standard_normal((1, 6, 6, 2))
    assert MaxPool2d((3, 2)).forward(x).shape == (1, 2, 3, 2)
    assert AvgPool2d(3, stride=1).forward(x).shape == (1, 4, 4, 2)


def test_dropout_does_nothing_in_inference_and_repeats_with_its_seed(rng):
    x = rng.standard_normal((4, 50))
    assert Dropout(0.5).forward(x) is x
    a, b = (Dropout(0.5, rng=3).forward(x, training=True) for _ in range(2))
    assert_array_equal(a, b)


def test_the_article_pads_same_asymmetrically(rng):
    conv = Conv2d(3, 8, 7, stride=2, padding="same", rng=0)
    pool = MaxPool2d(3, stride=2, padding="same")
    y = conv.forward(rng.standard_normal((1, 32, 32, 3)).astype(np.float32))
    assert y.shape == (1, 16, 16, 8)
    assert pool.forward(y).shape == (1, 8, 8, 8)


def test_multiply_adds_count_every_product():
    assert Conv2d(4, 6, 3, groups=2, rng=0).multiply_adds((2, 5, 5, 6)) == 2 * 25 * 6 * 9 * 2
    assert Dense(3, 4, rng=0).multiply_adds((5, 4)) == 60


@pytest.mark.parametrize(
    ("layer", "drawing"),
    [
        (Conv2d(3, 16, 3, padding=1, rng=0), "Conv2d(3, 16, 3, stride=1, padding=1)"),
        (
            Conv2d(4, 4, (1, 3), stride=(2, 1), padding=((0, 1), (2, 2)), groups=2, bias=False),
            "Conv2d(4, 4, (1, 3), stride=(2, 1), padding=((0, 1), 2), groups=2, bias=False)",
        ),
        (MaxPool2d(3, stride=2, padding="same"), "MaxPool2d(3, stride=2, padding='same')"),
        (PadShortcut(4, 8, stride=2), "PadShortcut(4, 8, stride=2)"),
        (Dense(3, 4, bias=False), "Dense(3, 4, bias=False)"),
        (Dropout(0.25), "Dropout(0.25)"),
    ],
)
def test_repr_shows_what_would_make_the_layer(layer, drawing):
    assert repr(layer) == drawing
    assert repr(eval(drawing)) == drawing


def test_a_residual_refuses_paths_of_two_shapes(rng):
    block = Residual(Conv2d(3, 4, 3, padding=1, rng=0, dtype=np.float64))
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 5, 5, 3\) from the shortcut and"):
        block.forward(rng.standard_normal((2, 5, 5, 3)))
