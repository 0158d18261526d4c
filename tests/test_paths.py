"""The gradient by path length."""

import itertools
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.core import Layer
from minires.flow.paths import gradient_by_path_length, path_counts, share_of_paths
from minires.fusion import fuse
from minires.layers import (
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Identity,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet

X = np.random.default_rng(1).standard_normal((3, 8, 8, 1))
Y = np.array([0, 3, 9])
ROWS = np.random.default_rng(2).standard_normal((4, 5))
CLASSES = np.array([0, 1, 4, 2])


def network(depth=20, **options):
    return cifar_resnet(depth, input_shape=(8, 8, 1), rng=0, dtype=np.float64, **options)


def dense(seed):
    return Dense(5, 5, rng=seed, dtype=np.float64)


def branch(seed):
    return Sequential(dense(seed), BatchNorm2d(5, dtype=np.float64), ReLU(), dense(seed + 50))


def chain(blocks):
    """Residual blocks with something between them, on rows."""
    inside = [(Residual(branch(2 * i)), ReLU(), dense(20 + i)) for i in range(blocks)]
    return Sequential(dense(30), *itertools.chain(*inside), dense(40))


def ordinary_gradient(model, x, labels):
    loss = SoftmaxCrossEntropy()
    loss.forward(model.forward(x, training=True), labels)
    return model.backward(loss.backward())


class Closed(Layer):
    """A layer that lets nothing back."""

    def __init__(self, inner):
        self.inner = inner

    def _forward(self, x, training):
        return self.inner.forward(x, training=training), ()

    def _backward(self, dy, cache):
        return np.zeros_like(self.inner.backward(dy))


class Black(Closed):
    """A layer with something inside that it does not show."""

    def _backward(self, dy, cache):
        return self.inner.backward(dy)


@pytest.mark.parametrize(
    "options",
    [{}, {"kind": "preactivation"}, {"shortcut": "B"}, {"norm": None}],
    ids=["residual", "preactivation", "projections", "no norm"],
)
def test_the_parts_add_up_to_the_ordinary_gradient(options):
    model = network(**options)
    found = gradient_by_path_length(model, X, Y)
    expected = ordinary_gradient(model, X, Y)
    assert_array_equal(found.total, expected)
    assert np.linalg.norm(found.parts.sum(axis=0) - expected) < 1e-10 * np.linalg.norm(expected)
    assert found.counts == path_counts(9)
    assert_array_equal(found.lengths, np.arange(10))
    assert_allclose(found.shares.sum(), 1, rtol=1e-10)


def test_every_part_is_the_sum_over_its_paths_taken_one_by_one():
    found = gradient_by_path_length(chain(3), ROWS, CLASSES)
    for k in range(4):
        total = 0
        for taken in itertools.combinations(range(3), k):
            model = chain(3)
            for number, name in enumerate(["1", "4", "7"]):
                block = model[name]
                closed = "shortcut" if number in taken else "branch"
                setattr(block, closed, Closed(getattr(block, closed)))
            total = total + ordinary_gradient(model, ROWS, CLASSES)
        assert_allclose(found.parts[k], total, rtol=1e-10, atol=1e-14)


def test_residuals_in_branches_and_shortcuts_count_every_branch_passed():
    inner = Residual(dense(1))
    model = Sequential(
        Residual(Sequential(inner, dense(2), Residual(dense(3))), Residual(dense(4)))
    )
    found = gradient_by_path_length(model, ROWS, CLASSES)
    assert found.counts == [1, 2, 2, 1]  # 1 + z from the shortcut, z (1 + z)^2 from the branch
    assert_allclose(found.parts.sum(axis=0), found.total, rtol=1e-12, atol=1e-15)
    a, b, c, d = (dense(seed).weight.value.T for seed in (1, 2, 3, 4))
    loss = SoftmaxCrossEntropy()
    loss.forward(model.forward(ROWS), CLASSES)
    dy = loss.backward()
    assert_allclose(found.parts[1], dy @ d + dy @ b, rtol=1e-12, atol=1e-15)
    assert_allclose(found.parts[3], dy @ c @ b @ a, rtol=1e-12, atol=1e-15)


def test_the_path_without_branches_of_a_chain_of_identities_is_the_gradient_behind_it():
    model = Sequential(*[Residual(branch(i)) for i in range(4)])
    loss = SoftmaxCrossEntropy()
    loss.forward(model.forward(ROWS, training=True), CLASSES)
    found = gradient_by_path_length(model, ROWS, CLASSES)
    assert_array_equal(found.parts[0], loss.backward())


def test_a_model_without_residuals_has_one_part_of_length_zero():
    found = gradient_by_path_length(Sequential(branch(0), dense(1)), ROWS, CLASSES)
    assert found.counts == [1]
    assert_array_equal(found.parts, found.total[None])
    assert_allclose(found.shares, [1])


def test_numbers_of_a_chain_on_paper():
    # y = x (1 + 2)(1 + 2): parts 1, 2 + 2 and 4 times dy
    twice = [Dense(5, 5, dtype=np.float64, bias=False) for _ in range(2)]
    for layer in twice:
        layer.weight.value = 2 * np.eye(5)
    found = gradient_by_path_length(Sequential(*map(Residual, twice)), ROWS, CLASSES)
    assert_allclose(found.shares, [1 / 9, 4 / 9, 4 / 9])
    assert_allclose(found.norms, found.total_norm * np.array([1, 4, 4]) / 9)
    assert_allclose(found.norm_per_path, found.total_norm * np.array([1, 2, 4]) / 9)
    assert_allclose(found.path_shares, [0.25, 0.5, 0.25])


def test_a_gradient_of_zero_has_no_shares():
    class Flat(SoftmaxCrossEntropy):
        def backward(self):
            return 0 * super().backward()

    found = gradient_by_path_length(chain(1), ROWS, CLASSES, loss=Flat())
    assert found.total_norm == 0
    assert np.isnan(found.shares).all()


def test_float32_stays_float32():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    found = gradient_by_path_length(model, X.astype(np.float32), Y)
    assert found.parts.dtype == found.total.dtype == np.float32
    assert_allclose(found.shares.sum(), 1, rtol=1e-4)


def with_dropout():
    model = Sequential(Dropout(0.5, rng=3), *chain(2))
    model[1].weight.grad[...] = 7
    return model


def test_measuring_leaves_the_model_as_it_was():
    model = with_dropout()
    before = pickle.dumps(model)
    gradient_by_path_length(model, ROWS, CLASSES)
    assert pickle.dumps(model) == before
    with pytest.raises(ValueError, match="expects labels"):
        gradient_by_path_length(model, ROWS, CLASSES[:2])
    assert pickle.dumps(model) == before


def test_a_forward_pass_that_waits_for_its_backward_is_not_disturbed():
    model = chain(2)
    model.forward(ROWS)
    expected = model.backward(ROWS)
    model.forward(ROWS)
    gradient_by_path_length(model, 2 * ROWS, CLASSES)
    assert_array_equal(model.backward(ROWS), expected)
    with pytest.raises(RuntimeError, match="expects a forward before it"):
        model.backward(ROWS)


def test_models_whose_paths_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match=r"no fused layer, got ConvNorm as conv: give it the mod"):
        gradient_by_path_length(fuse(network(8)), X, Y)
    with pytest.raises(ValueError, match=r"Sequentials and Residuals.*, got one in Black as 1"):
        gradient_by_path_length(Sequential(dense(0), Black(chain(1))), ROWS, CLASSES)
    with pytest.raises(TypeError, match="expects model to be a Layer, got str"):
        gradient_by_path_length("resnet20", X, Y)
    found = gradient_by_path_length(Sequential(Residual(Black(dense(0)))), ROWS, CLASSES)
    assert found.counts == [1, 1]  # a layer of any kind is fine where no Residual is in it


def test_a_residual_with_a_backward_of_its_own_is_refused():
    class Half(Residual):
        def _backward(self, dy, cache):
            return super()._backward(dy, cache) / 2

    with pytest.raises(ValueError, match="with their own backward, got one in Half as 0"):
        gradient_by_path_length(Sequential(Half(Identity())), ROWS, CLASSES)


def test_most_paths_have_about_half_the_length():
    assert path_counts(0) == [1]
    assert path_counts(54)[27] == math.comb(54, 27)
    assert sum(path_counts(54)) == 2**54
    assert share_of_paths(54, 19, 35) == pytest.approx(0.980, abs=5e-4)
    assert share_of_paths(5, 0, 5) == 1
    assert share_of_paths(2, 1, 1) == 0.5


def test_lengths_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expects blocks to be an integer >= 0, got -1"):
        path_counts(-1)
    with pytest.raises(ValueError, match="shortest <= longest <= blocks, got 3, 2 and 4"):
        share_of_paths(4, 3, 2)
    with pytest.raises(ValueError, match="got 0, 5 and 4"):
        share_of_paths(4, 0, 5)
    with pytest.raises(ValueError, match=r"shortest to be an integer >= 0, got 0\.5"):
        share_of_paths(4, 0.5, 2)


def test_images_of_the_wrong_shape_are_refused_with_the_layer_that_refuses_them():
    model = Sequential(Conv2d(1, 2, 3, rng=0, dtype=np.float64))
    with pytest.raises(ValueError, match=r"Conv2d expects x of shape \(N, H, W, 1\)"):
        gradient_by_path_length(model, X[..., 0], Y)


def test_a_model_that_ends_in_a_softmax_is_measured_on_its_probabilities():
    model = Sequential(*chain(2), Softmax())
    found = gradient_by_path_length(model, ROWS, CLASSES)
    expected = gradient_by_path_length(chain(2), ROWS, CLASSES)
    assert_allclose(found.parts, expected.parts, rtol=1e-10, atol=1e-15)
    on_logits = gradient_by_path_length(model, ROWS, CLASSES, loss=SoftmaxCrossEntropy())
    assert not np.allclose(on_logits.total, expected.total)


def test_a_layer_whose_backward_uses_its_cache_up_is_named():
    class Once(Layer):
        def _forward(self, x, training):
            return x, [x]

        def _backward(self, dy, cache):
            cache.pop()
            return dy

    model = Sequential(dense(0), Residual(Sequential(dense(1), once=Once())))
    with pytest.raises(RuntimeError, match=r"can be called several times .* second of Once") as e:
        gradient_by_path_length(model, ROWS, CLASSES)
    assert e.value.__notes__ == ["in layer 1.branch.once"]
    assert "got IndexError (pop from empty list)" in str(e.value)
