"""The loss on a plane through the weights."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.flow.surface import filter_normalised_direction, loss_surface
from minires.layers import BatchNorm2d, Dense, ReLU, Sequential, Softmax
from minires.losses import SoftmaxCrossEntropy
from minires.models import resnet8
from minires.training import evaluate

X = np.random.default_rng(1).standard_normal((7, 8, 8, 1))
Y = np.array([0, 3, 2, 1, 1, 0, 2])


def network(**options):
    options = {"input_shape": (8, 8, 1), "rng": 0, "dtype": np.float64} | options
    return resnet8(4, **options)


class HalfSquare:
    """||y||^2 / 2, whatever the labels are."""

    def forward(self, y, labels):
        return float((y.astype(np.float64) ** 2).sum()) / 2


def test_the_centre_is_the_loss_of_the_model_itself():
    model = network()
    for extent, points in [(0.3, 3), (0.7, 5)]:
        found = loss_surface(model, X, Y, extent=extent, points=points, rng=0, batch_size=4)
        assert found.loss.shape == (points, points)
        assert found.centre == evaluate(model, X, Y, batch_size=4).loss
        assert found.alphas[points // 2] == found.betas[points // 2] == 0
        assert_allclose(found.alphas, np.linspace(-extent, extent, points), atol=1e-15)
        assert len(np.unique(found.loss)) == points**2


def test_every_point_is_the_loss_at_the_weights_moved_there():
    model = network()
    found = loss_surface(model, X, Y, extent=0.5, points=3, rng=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    first, second = (filter_normalised_direction(model, rng) for _ in range(2))
    for parameter, a, b in zip(model.parameters(), first, second, strict=True):
        parameter.value = parameter.value + (0.5 * a - 0.5 * b)
    assert found.loss[2, 0] == pytest.approx(evaluate(model, X, Y).loss, rel=1e-12)


def test_the_surface_of_a_quadratic_loss_is_the_quadratic_on_paper():
    model = Dense(3, 2, bias=False, rng=0, dtype=np.float64)
    x, rng = np.eye(3), np.random.default_rng(1)  # y is the weight itself
    found = loss_surface(model, x, np.zeros(3, int), points=5, extent=2, rng=rng, loss=HalfSquare())
    rng, w = np.random.default_rng(1), model.weight.value
    (d,), (e,) = (filter_normalised_direction(model, rng) for _ in range(2))
    a, b = found.alphas[:, None], found.betas[None]
    # every direction has the norm of w
    expected = (1 + a**2 + b**2) * (w * w).sum() / 2
    expected = expected + a * (w * d).sum() + b * (w * e).sum() + a * b * (d * e).sum()
    assert_allclose(found.loss, expected, rtol=1e-12)


def test_a_model_that_ends_in_a_softmax_is_measured_on_its_probabilities():
    logits = network()
    probs = Sequential(logits, Softmax())
    options = {"points": 3, "extent": 0.02, "rng": 0}
    found = loss_surface(probs, X, Y, **options).loss
    assert_allclose(found, loss_surface(logits, X, Y, **options).loss, rtol=1e-10)
    given = loss_surface(probs, X, Y, loss=SoftmaxCrossEntropy(), **options).loss
    assert not np.allclose(given, found)


def test_every_filter_of_a_direction_has_the_norm_of_the_weights_filter():
    model = network(shortcut="B")
    direction = filter_normalised_direction(model, 0)
    for parameter, d in zip(model.parameters(), direction, strict=True):
        assert (d.shape, d.dtype) == (parameter.shape, parameter.dtype)
        if d.ndim > 1:
            axes = tuple(range(d.ndim - 1))
            expected = np.sqrt((parameter.value**2).sum(axis=axes))
            assert_allclose(np.sqrt((d**2).sum(axis=axes)), expected, rtol=1e-12)
        else:
            assert_array_equal(d, 0)


@pytest.mark.parametrize("seed", [0, np.int64(3)])
def test_the_seed_of_the_model_does_not_give_its_weights_as_direction(seed):
    weight = network(rng=seed).conv.weight.value
    direction = filter_normalised_direction(network(rng=seed), seed)[0]
    assert abs(np.corrcoef(weight.ravel(), direction.ravel())[0, 1]) < 0.5


def test_a_filter_of_zeros_stays_where_it_is():
    model = Dense(3, 2, rng=0, dtype=np.float64)
    model.weight.value[:, 1] = 0
    assert_array_equal(filter_normalised_direction(model, 0)[0][:, 1], 0)


def test_the_surface_says_which_parameters_moved():
    model = Sequential(first=Dense(4, 3, rng=0), norm=BatchNorm2d(3), last=Dense(3, 2, rng=0))
    found = loss_surface(model, np.ones((2, 4), np.float32), Y[4:6], points=3, rng=0)
    assert found.moved == ("first.weight", "last.weight")


def test_float32_stays_float32():
    model = network(dtype=np.float32)
    assert {d.dtype for d in filter_normalised_direction(model, 0)} == {np.dtype(np.float32)}
    found = loss_surface(model, X.astype(np.float32), Y, points=3, rng=0)
    assert found.centre == evaluate(model, X.astype(np.float32), Y).loss


def test_the_same_seed_gives_the_same_surface():
    first = loss_surface(network(), X, Y, points=3, rng=4).loss
    assert_array_equal(loss_surface(network(), X, Y, points=3, rng=4).loss, first)
    assert (loss_surface(network(), X, Y, points=3, rng=5).loss != first).sum() == 8


def test_a_loss_that_is_not_finite_stays_in_the_array():
    model = Dense(3, 2, bias=False, rng=0, dtype=np.float32)
    x = np.full((2, 3), 1e19, np.float32)
    found = loss_surface(model, x, Y[4:6], points=3, extent=1e30, rng=0)
    assert np.isfinite(found.centre)
    assert not np.isfinite(found.loss).all()


def test_looking_leaves_the_model_as_it_was():
    model = network()
    model.conv.weight.grad[...] = 7
    model.forward(X)
    expected = model.backward(np.ones((7, 4)))
    model.conv.weight.grad[...] = 7
    before = pickle.dumps(model)
    model.forward(X)
    loss_surface(model, X + 1, Y, points=3, rng=0)
    assert pickle.dumps(model) == before
    assert_array_equal(model.backward(np.ones((7, 4))), expected)  # its cache is there, too


def test_bad_arguments_are_refused():
    model = network()
    with pytest.raises(ValueError, match=r"odd number of points, .* model itself, got 4"):
        loss_surface(model, X, Y, points=4)
    with pytest.raises(ValueError, match="expects points to be an integer >= 3, got 1"):
        loss_surface(model, X, Y, points=1)
    with pytest.raises(ValueError, match="expects extent to be a number > 0, got 0"):
        loss_surface(model, X, Y, extent=0)
    with pytest.raises(ValueError, match=r"expects rng to be None, an integer .*got 'seed'"):
        loss_surface(model, X, Y, rng="seed")
    with pytest.raises(TypeError, match="loss_surface expects model to be a Layer, got str"):
        loss_surface("resnet8", X, Y)
    with pytest.raises(ValueError, match=r"weights of two or more axes.*got none"):
        filter_normalised_direction(Sequential(BatchNorm2d(3), ReLU()))
    with pytest.raises(ValueError, match="as many labels as examples"):
        loss_surface(model, X, Y[:3], points=3, loss=SoftmaxCrossEntropy())
