"""Products with Jacobians, and their singular values."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires import ops
from minires.core import Layer, Parameter, retain_caches
from minires.flow import jacobian
from minires.flow.jacobian import (
    dense_jacobian,
    jacobian_singular_values,
    jvp,
    linearised,
    push,
)
from minires.fusion import fuse
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    GlobalAvgPool2d,
    Identity,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from minires.models import resnet8
from minires.samples import layer_samples

TRAINED = {"rng": 0, "dtype": np.float64}
OPS = {"reference": ops.reference, "fast": ops.fast}


class Tanh(Layer):
    """A user's layer, with a Parameter."""

    def __init__(self):
        self.scale = Parameter(np.full(1, 1.5))

    def _forward(self, x, training):
        y = np.tanh(self.scale.value * x)
        return y, (x, y)

    def _backward(self, dy, cache):
        x, y = cache
        self.scale.grad += (dy * (1 - y**2) * x).sum(keepdims=True).reshape(1)
        return dy * (1 - y**2) * self.scale.value


class Twice(Layer):
    """A user's container."""

    def __init__(self, inner):
        self.inner = inner

    def _forward(self, x, training):
        return 2 * self.inner.forward(x, training=training), ()

    def _backward(self, dy, cache):
        return self.inner.backward(2 * dy)


def block():
    return Sequential(
        Conv2d(2, 3, 3, padding=1, **TRAINED), BatchNorm2d(3, dtype=np.float64), ReLU()
    )


CASES = {
    "dense": (Dense(7, 5, **TRAINED), (3, 7), {}),
    "conv, norm and relu": (block(), (2, 5, 4, 2), {"training": True}),
    "projected residual": (
        Residual(block(), Conv2d(2, 3, 1, **TRAINED)),
        (2, 4, 4, 2),
        {"training": True},
    ),
    "global average": (GlobalAvgPool2d(), (3, 4, 4, 4), {}),
    "average": (AvgPool2d(3, stride=2, padding=1), (2, 6, 6, 3), {}),
    "max": (MaxPool2d(3, stride=2, padding=1), (2, 6, 5, 2), {}),
    "resnet8": (resnet8(4, input_shape=(8, 8, 1), **TRAINED), (2, 8, 8, 1), {}),
    "resnet8, training": (
        resnet8(4, input_shape=(8, 8, 1), **TRAINED),
        (2, 8, 8, 1),
        {"training": True},
    ),
    "user's": (
        Sequential(Dense(6, 6, **TRAINED), Tanh(), Twice(Dense(6, 4, **TRAINED))),
        (3, 6),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_singular_values_are_those_of_the_dense_jacobian(name, rng):
    layer, shape, options = CASES[name]
    x = rng.standard_normal(shape)
    exact = np.linalg.svd(dense_jacobian(layer, x, **options), compute_uv=False)
    for count in (1, 3, 6):
        found = jacobian_singular_values(layer, x, count, **options)
        assert_allclose(found, exact[:count], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", layer_samples())
@pytest.mark.parametrize("which", OPS)
def test_jvp_is_the_adjoint_of_backward(which, name, training, rng):
    layer, shape = layer_samples(ops=OPS[which])[name]
    x, v = rng.standard_normal(shape), rng.standard_normal(shape)
    before = layer.snapshot()
    moved = jvp(layer, x, v, training=training)
    u = rng.standard_normal(moved.shape)
    layer.restore(before)
    layer.forward(x, training=training)
    assert_allclose(np.vdot(moved, u), np.vdot(v, layer.backward(u)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", layer_samples())
def test_jvp_is_how_the_output_moves(name, rng):
    layer, shape = layer_samples()[name]
    x, v = rng.standard_normal(shape), rng.standard_normal(shape)
    h = 1e-6
    ahead, back = layer.forward(x + h * v), layer.forward(x - h * v)
    assert_allclose(jvp(layer, x, v), (ahead - back) / (2 * h), rtol=1e-6, atol=1e-8)


def test_the_jacobian_of_a_dense_layer_is_its_weight():
    layer = Dense(3, 2, **TRAINED)
    layer.bias.value = np.array([5.0, 7.0])
    assert_array_equal(dense_jacobian(layer, np.ones((1, 3))), layer.weight.value.T)
    v = np.array([[1e-200, 0, 0]])
    assert_allclose(jvp(layer, np.ones((1, 3)), v), v @ layer.weight.value)  # no bias to drown in


def test_a_value_that_is_there_often_is_found_as_often(rng):
    x = rng.standard_normal((2, 3, 3, 5))
    assert_allclose(jacobian_singular_values(GlobalAvgPool2d(), x, 10), np.full(10, 1 / 3))
    assert_allclose(jacobian_singular_values(Identity(), x, 4, block_size=4), np.ones(4))


def test_zeros_count_as_singular_values():
    layer = Dense(4, 4, bias=False, **TRAINED)
    layer.weight.value = np.diag([3.0, 2.0, 0.0, 0.0])
    found = jacobian_singular_values(layer, np.ones((1, 4)), 4)
    assert_allclose(found, [3, 2, 0, 0], atol=1e-14)
    layer.weight.value = np.zeros((4, 4))
    assert_array_equal(jacobian_singular_values(layer, np.ones((1, 4)), 2), [0, 0])


def test_values_of_very_different_size_are_found(rng):
    layer = Dense(200, 200, bias=False, **TRAINED)
    left, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    right, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    sizes = 2.0 ** -np.arange(200)
    layer.weight.value = left * sizes @ right
    found = jacobian_singular_values(layer, np.zeros((1, 200)), 12)
    assert_allclose(found, sizes[:12], rtol=1e-10)


def test_values_close_to_each_other_are_found(rng):
    layer = Dense(300, 300, bias=False, **TRAINED)
    exact = np.linalg.svd(layer.weight.value, compute_uv=False)
    found = jacobian_singular_values(layer, np.zeros((1, 300)), 8)
    assert_allclose(found, exact[:8], rtol=1e-8)


def test_a_vector_of_zeros_does_not_move_anything(rng):
    x = rng.standard_normal((2, 3))
    assert_array_equal(jvp(Tanh(), x, np.zeros((2, 3))), np.zeros((2, 3)))


def test_a_subclass_with_a_forward_of_its_own_does_not_get_the_rule_of_its_parent(rng):
    class Softplus(ReLU):
        def _forward(self, x, training):
            return np.log1p(np.exp(x)), x

        def _backward(self, dy, x):
            return dy / (1 + np.exp(-x))

    class Guided(ReLU):
        def _backward(self, dy, cache):
            return super()._backward(np.maximum(dy, 0), cache)

    x, v = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    assert_allclose(jvp(Softplus(), x, v), v / (1 + np.exp(-x)), rtol=1e-9)
    assert_allclose(jvp(Guided(), x, v), v * (x > 0), rtol=1e-9, atol=1e-12)


def test_dropout_in_a_users_layer_keeps_its_mask(rng):
    x, v = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    layer = Sequential(Dropout(0.5, rng=1), Twice(Twice(Dropout(0.5, rng=2))))
    moved = jvp(layer, x, v, training=True)
    y = layer.forward(x, training=True)  # jvp has put the random streams back
    assert_allclose(moved, y / x * v, rtol=1e-8, atol=1e-12)


class Diagonal(Layer):
    """y = f(x) number by number."""

    def __init__(self, f, derivative):
        self.f, self.derivative = f, derivative

    def _forward(self, x, training):
        return self.f(x), x

    def _backward(self, dy, x):
        return dy * self.derivative(x)


TANH = np.tanh, lambda x: 1 - np.tanh(x) ** 2
ROUGH = {
    "mixed scales": (*TANH, [1e4, 0.5, -1e-3]),
    "steep": (lambda x: x**3, lambda x: 3 * x**2, [1e6, 0.5, 2]),
    "kink": (abs, np.sign, [1e-7, -1e-9, 3]),
}


@pytest.mark.parametrize("name", ROUGH)
def test_users_layers_are_exact_where_differences_would_not_be(name, rng):
    f, derivative, numbers = ROUGH[name]
    layer, x = Diagonal(f, derivative), np.array([numbers])
    exact = derivative(x)
    assert_array_equal(jvp(layer, x, np.ones(x.shape)), exact)
    found = jacobian_singular_values(layer, x, 3)
    assert_allclose(found, np.sort(abs(exact[0]))[::-1], rtol=1e-12, atol=1e-15)


def test_the_jacobian_of_a_users_layer_is_found_once(rng):
    calls = []

    class Counted(Diagonal):
        def _backward(self, dy, x):
            calls.append(dy)
            return super()._backward(dy, x)

    layer, x = Counted(*TANH), rng.standard_normal((2, 3))
    with linearised("test", layer, x, False) as (_, seen):
        for _ in range(4):
            push(layer, x, seen)
    assert len(calls) == 6


@pytest.mark.parametrize("limit", ["MOST_ROWS", "MOST_NUMBERS"])
def test_a_large_layer_without_a_rule_goes_by_differences(limit, monkeypatch, rng):
    x, v = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    model = Sequential(Diagonal(*TANH), Diagonal(*TANH))
    exact = jvp(model, x, v)
    monkeypatch.setattr(jacobian, limit, {"MOST_ROWS": 5, "MOST_NUMBERS": 36}[limit])
    with linearised("test", model, x, False) as (_, seen):
        found = push(model, v, seen)
    last = [id(model[1])] if limit == "MOST_NUMBERS" else [id(layer) for layer in model]
    assert list(seen.functions) == last  # the numbers are those of all layers together
    assert (found != exact).any()
    assert_allclose(found, exact, rtol=1e-8)
    assert_array_equal(jvp(model, x, 0 * v), 0 * v)


class Noisy(Identity):
    def _forward(self, x, training):
        return x + np.random.default_rng().standard_normal(x.shape), ()


def test_a_users_layer_that_does_not_repeat_itself_has_the_jacobian_of_the_one_pass(rng):
    v = rng.standard_normal((2, 3))
    assert_array_equal(jvp(Noisy(), np.ones((2, 3)), v), v)


def test_a_large_layer_that_does_not_repeat_itself_is_refused():
    x = np.ones((1, 2049))
    with pytest.raises(ValueError, match="of a Noisy this large come from differences, which exp"):
        jvp(Noisy(), x, x)


def test_an_error_on_the_way_names_the_layer():
    class Once(Identity):
        def _forward(self, x, training):
            return x, [x]

        def _backward(self, dy, cache):
            cache.pop()
            return dy

    model, x = Sequential(ReLU(), deep=Residual(Sequential(Once()))), np.ones((2, 2))
    with pytest.raises(IndexError) as caught:
        jvp(model, x, x)
    assert caught.value.__notes__ == ["in layer deep.branch.0"]


def test_a_fused_block_has_the_singular_values_of_the_readable_one(rng):
    model = resnet8(4, input_shape=(8, 8, 1), **TRAINED)
    x = rng.standard_normal((1, 8, 8, 1))
    found = jacobian_singular_values(fuse(model), x, 3)
    assert_allclose(found, jacobian_singular_values(model, x, 3), rtol=1e-8)


def test_measuring_leaves_the_model_as_it_was(rng):
    model = Sequential(Dropout(0.5, rng=0), block(), Twice(block_of(3)))
    model[1][0].weight.grad[...] = 7
    x, v = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((2, 4, 4, 2))
    before = pickle.dumps(model)
    jacobian_singular_values(model, x, 2, training=True)
    dense_jacobian(model, x, training=True)
    jvp(model, x, v, training=True)
    with pytest.raises(ValueError, match="expects count <= 64"):
        jacobian_singular_values(model, x, 65, training=True)
    assert pickle.dumps(model) == before
    assert all(layer.observers == () for _, layer in model.named_layers())


def block_of(C):
    return Sequential(Conv2d(C, C, 3, padding=1, **TRAINED), BatchNorm2d(C, dtype=np.float64))


def test_a_cache_that_waits_for_its_backward_is_not_disturbed(rng):
    x, dy = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    layer = Tanh()
    with retain_caches(layer):
        layer.forward(x)
        expected = layer.backward(dy)
        jacobian_singular_values(layer, x + 1, 2)
        assert_array_equal(layer.backward(dy), expected)


def test_the_same_seed_gives_the_same_values(rng):
    layer, x = block(), rng.standard_normal((2, 5, 4, 2))
    first = jacobian_singular_values(layer, x, 3, rng=5)
    assert_array_equal(jacobian_singular_values(layer, x, 3, rng=5), first)


def test_bad_arguments_are_refused():
    layer, x = Dense(3, 2, **TRAINED), np.ones((1, 3))
    with pytest.raises(
        ValueError, match="count <= 2, the smaller size of the Jacobian 2 x 3, got 3"
    ):
        jacobian_singular_values(layer, x, 3)
    with pytest.raises(ValueError, match="expects block_size to be an integer >= 2, got 1"):
        jacobian_singular_values(layer, x, 2, block_size=1)
    with pytest.raises(ValueError, match="expects tolerance to be a number > 0, got 0"):
        jacobian_singular_values(layer, x, 2, tolerance=0)
    with pytest.raises(ValueError, match=r"in float64, got x of float32 .* layer.astype\(np.float"):
        dense_jacobian(layer, x.astype(np.float32))
    with pytest.raises(ValueError, match=r"x of float64 and Parameters of float32"):
        dense_jacobian(layer.astype(np.float32), x)
    with pytest.raises(TypeError, match="dense_jacobian expects layer to be a Layer, got type"):
        dense_jacobian(Dense, x)
    with pytest.raises(ValueError, match=r"jvp expects v of shape \(1, 3\), got \(3,\)"):
        jvp(layer, x, np.ones(3))
    with pytest.raises(ValueError, match="expects finite numbers, got NaN or infinity in y"):
        jvp(layer, x * np.nan, x)
