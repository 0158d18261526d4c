"""Gradients along a line of inputs."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minires import keras
from minires.flow.shattering import autocorrelation, input_gradients, line
from minires.layers import BatchNorm2d, Dense, Dropout, ReLU, Sequential
from minires.models import cifar_resnet


def test_the_gradient_of_a_linear_net_is_its_weights():
    dense = Dense(3, 2, rng=0, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((4, 3))
    assert_allclose(input_gradients(dense, x), np.tile(dense.weight.value.sum(axis=1), (4, 1)))
    second = np.tile([0.0, 1.0], (4, 1))
    column = np.tile(dense.weight.value[:, 1], (4, 1))
    assert_allclose(input_gradients(dense, x, dy=second), column)


def test_in_evaluation_mode_a_row_does_not_see_the_others():
    model = Sequential(Dense(1, 5, rng=0), BatchNorm2d(5), ReLU(), Dense(5, 1, rng=1))
    x = line(np.array([-1], np.float32), np.array([1], np.float32), 8)
    together = input_gradients(model, x, training=False)
    alone = [input_gradients(model, x[i : i + 1], training=False)[0] for i in range(8)]
    assert_allclose(together, alone, rtol=1e-6)
    assert not np.allclose(input_gradients(model, x, training=True), together)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(training):
    features = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    model = Sequential(features=features, dropout=Dropout(0.5, rng=3))
    features.conv.weight.grad[...] = 7
    before = pickle.dumps(model)
    x = np.random.default_rng(0).standard_normal((6, 8, 8, 1)).astype(np.float32)
    assert input_gradients(model, x, training=training).shape == x.shape
    assert pickle.dumps(model) == before


def test_the_model_is_as_it_was_after_an_error_too():
    model = Sequential(BatchNorm2d(2), Dense(2, 1, rng=0))
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match="dy of shape"):
        input_gradients(model, np.eye(2, dtype=np.float32), dy=np.ones((2, 2), np.float32))
    assert pickle.dumps(model) == before


def test_autocorrelation_on_paper():
    # 0, 1, 2, 3 minus 1.5: squares 9/4 + 1/4 + 1/4 + 9/4 = 5; neighbours 3/4 - 1/4 + 3/4 = 5/4
    slope = np.arange(4.0)[:, None]
    assert_allclose(autocorrelation(slope, max_lag=3), [1, 1.25 / 5, -1.5 / 5, -2.25 / 5])


def test_autocorrelation_sums_over_the_components_and_forgets_the_mean_and_the_scale():
    g = np.random.default_rng(0).standard_normal((20, 2, 3))
    found = autocorrelation(g, max_lag=4)
    assert_allclose(autocorrelation(5 - 3 * g, max_lag=4), found)
    assert_allclose(autocorrelation(g.transpose(0, 2, 1), max_lag=4), found)
    assert autocorrelation(g.astype(np.float32)).dtype == np.float64


def test_white_noise_forgets_and_brown_noise_remembers():
    white = np.random.default_rng(0).standard_normal((256, 50))
    assert_allclose(autocorrelation(white)[1:], 0, atol=0.03)
    brown = autocorrelation(white.cumsum(axis=0))
    assert 0.95 < brown[1] < 0.99
    assert (np.diff(brown) < 0).all()


def test_autocorrelation_refuses_what_has_none():
    with pytest.raises(ValueError, match="gradients that differ, got 4 times the same"):
        autocorrelation(np.ones((4, 1)), max_lag=1)
    with pytest.raises(ValueError, match="a max_lag below 4, the points, got 4"):
        autocorrelation(np.arange(4.0), max_lag=4)


def test_a_line_keeps_shape_and_dtype_and_both_ends():
    x0, x1 = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    x = line(x0, x1, 5)
    assert (x.shape, x.dtype) == ((5, 2, 3), np.float32)
    assert_allclose(x[:, 1, 2], [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="x1 of shape"):
        line(x0, x1[0], 5)
    with pytest.raises(ValueError, match="points to be an integer >= 2, got 1"):
        line(x0, x1, 1)


def test_what_is_no_layer_is_refused_with_what_to_do_and_without_the_drawing_of_a_model():
    model = keras.Model(Sequential(Dense(2, 1, rng=0)))
    cases = {
        "got Model: pass its .layer": model,
        f"got type {ReLU!r}: write ReLU(...)": ReLU,
        "got str 'resnet8'": "resnet8",
        "got list": [ReLU(), ReLU()],
        "got NoneType": None,
    }
    for words, stranger in cases.items():
        with pytest.raises(TypeError) as caught:
            input_gradients(stranger, np.ones((2, 2), np.float32))
        assert str(caught.value) == f"input_gradients expects model to be a Layer, {words}"
