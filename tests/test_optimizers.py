"""Optimisers: updates on paper, weight decay, clipping; `test_oracles.py` compares with PyTorch."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.core import Parameter
from minires.layers import BatchNorm2d, Dense, Sequential
from minires.optimizers import SGD, Adam, AdamW, clip_gradients, gradient_norm


def parameter(value, grad, role="weight"):
    p = Parameter(np.array(value, np.float64), role)
    p.grad[...] = grad
    return p


def test_sgd_on_paper():
    p = parameter([1.0], [2.0])
    optimizer = SGD([p], lr=0.1, momentum=0.5)
    optimizer.step()
    assert_allclose(p.value, [0.8])
    optimizer.step()  # v = 0.5 * 2 + 2 = 3
    assert_allclose(p.value, [0.5])


def test_nesterov_on_paper():
    p = parameter([1.0], [2.0])
    SGD([p], lr=0.1, momentum=0.5, nesterov=True).step()  # g + 0.5 v = 3
    assert_allclose(p.value, [0.7])


@pytest.mark.parametrize("grad", [1e-3, 1.0, -1e3])
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(grad):
    p = parameter([1.0], [grad])
    Adam([p], lr=0.1).step()
    assert_allclose(p.value, [1 - math.copysign(0.1, grad)], rtol=1e-4)


def test_adamw_shrinks_weights_apart_from_the_step():
    with_decay, without = parameter([2.0], [1.0]), parameter([2.0], [1.0])
    AdamW([with_decay], lr=0.1, weight_decay=0.5).step()
    Adam([without], lr=0.1).step()
    assert_allclose(without.value - with_decay.value, [2 * 0.1 * 0.5])


@pytest.mark.parametrize(
    "make",
    [
        lambda p, **k: SGD(p, 0.1, weight_decay=0.5, **k),
        lambda p, **k: Adam(p, 0.1, weight_decay=0.5, **k),
        lambda p, **k: AdamW(p, 0.1, weight_decay=0.5, **k),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_weight_decay_can_leave_out_biases_and_norms(make):
    model = Sequential(Dense(3, 4, rng=0), BatchNorm2d(4))
    for p in model.parameters():
        p.value[...] = 1
    make(model.parameters(), decay="weights").step()
    moved = {path: bool((p.value != 1).any()) for path, p in model.named_parameters()}
    assert moved == {"0.weight": True, "0.bias": False, "1.gamma": False, "1.beta": False}
    make(model.parameters()).step()
    assert all((p.value != 1).all() for p in model.parameters())


def test_state_and_values_stay_float32():
    model = Dense(3, 4, rng=0)
    for optimizer in (
        SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1),
        AdamW(model.parameters()),
    ):
        optimizer.step()
        state = [a for v in vars(optimizer).values() if isinstance(v, list) for a in v]
        arrays = [a for a in state if isinstance(a, np.ndarray)]
        assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
        assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}


def test_gradients_are_read_and_not_written(rng):
    p = parameter(np.ones(4), rng.standard_normal(4))
    before = p.grad.copy()
    for make in (SGD, Adam, AdamW):
        make([p], 0.1, weight_decay=0.1).step()
        assert_array_equal(p.grad, before)


def test_zero_grad_keeps_the_arrays():
    p = parameter([1.0], [2.0])
    grad = p.grad
    SGD([p], 0.1).zero_grad()
    assert p.grad is grad
    assert grad == 0


def test_the_learning_rate_can_be_set_between_steps():
    p = parameter([1.0], [1.0])
    optimizer = SGD([p], 0.1)
    optimizer.lr = 0.5
    optimizer.step()
    assert_allclose(p.value, [0.5])


def test_clipping_scales_all_gradients_by_one_factor():
    a, b = parameter([0.0], [3.0]), parameter([0.0], [4.0])
    assert clip_gradients([a, b], 1.0) == 5.0
    assert_allclose([a.grad[0], b.grad[0]], [0.6, 0.8], rtol=1e-6)
    assert clip_gradients([a, b], 10.0) == pytest.approx(1)
    assert_allclose([a.grad[0], b.grad[0]], [0.6, 0.8], rtol=1e-6)


def test_clipping_leaves_a_norm_that_is_not_finite():
    p = parameter([0.0, 0.0], [np.inf, 1.0])
    assert clip_gradients([p], 1.0) == math.inf
    assert_array_equal(p.grad, [np.inf, 1.0])


def test_the_norm_of_large_float32_gradients_does_not_overflow():
    p = Parameter(np.zeros(4, np.float32))
    p.grad[...] = 1e30
    assert gradient_norm([p]) == pytest.approx(2e30)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: SGD(p, -0.1), ValueError, "SGD expects lr to be a number >= 0, got -0.1"),
        (lambda p: SGD(p, np.nan), ValueError, "lr to be a number >= 0, got nan"),
        (lambda p: SGD(p, 0.1, momentum=1), ValueError, "momentum to be a number >= 0 and < 1"),
        (lambda p: SGD(p, 0.1, nesterov=True), ValueError, "momentum > 0 with nesterov"),
        (lambda p: Adam(p, betas=0.9), ValueError, "betas to be a pair of numbers, got 0.9"),
        (lambda p: Adam(p, betas=(0.9, 1)), ValueError, "betas to be a number >= 0 and < 1"),
        (lambda p: Adam(p, eps=0), ValueError, "eps to be a number > 0, got 0"),
        (lambda p: Adam(p, decay="bias"), ValueError, "one of 'all', 'weights', got 'bias'"),
        (lambda p: AdamW(p, weight_decay=-1), ValueError, "weight_decay to be a number >= 0"),
        (lambda p: SGD([], 0.1), ValueError, "at least one Parameter, got none"),
        (lambda p: SGD([*p, *p], 0.1), ValueError, "each Parameter once, got one twice"),
        (lambda p: SGD([np.ones(3)], 0.1), TypeError, "Parameters, got ndarray: pass model.par"),
        (lambda p: SGD(Dense(2, 2), 0.1), TypeError, "a list of Parameters, got Dense"),
        (lambda p: clip_gradients(p, 0), ValueError, "max_norm to be a number > 0, got 0"),
    ],
)
def test_wrong_arguments_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make([parameter([1.0], [1.0])])
