"""Optimisers: updates on paper, weight decay, clipping; `test_oracles.py` compares with PyTorch."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.core import Parameter
from minires.layers import BatchNorm2d, Dense, Sequential
from minires.models import resnet8
from minires.ops import fast, reference
from minires.optimizers import SGD, Adam, AdamW, Muon, clip_gradients, gradient_norm


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


# ---- Muon


def matrix(kernel):
    """(F, KH KW C) of a kernel (KH, KW, C, F)."""
    return kernel.reshape(-1, kernel.shape[-1]).T


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1)])
def test_orthogonalize_keeps_singular_vectors_and_makes_the_values_nearly_1(shape, rng):
    g = rng.standard_normal(shape)
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.linalg.norm(g)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert_allclose(reference.orthogonalize(g), u @ np.diag(s) @ vt, atol=1e-6)
    assert ((s > 0.68) & (s < 1.14)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-3), (np.float64, 1e-10)])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1), (64, 576)])
@pytest.mark.parametrize("smallest", [1, 1e-2, 1e-6])
def test_the_fast_orthogonalize_keeps_three_digits(shape, smallest, dtype, tolerance, rng):
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    g = (u * np.geomspace(1, smallest, min(shape))) @ vt
    exact = reference.orthogonalize(g)
    found = fast.orthogonalize(g.astype(dtype))
    assert found.dtype == dtype
    assert np.linalg.norm(found - exact, 2) <= tolerance * np.linalg.norm(exact, 2)


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("iterations", [0, 1, 8, 20])
def test_the_fast_orthogonalize_survives_many_rounds_on_few_directions(iterations, rank, rng):
    left, right = rng.standard_normal((64, rank)), rng.standard_normal((rank, 96))
    exact = reference.orthogonalize(left @ right, iterations)
    found = fast.orthogonalize((left @ right).astype(np.float32), iterations)
    if iterations <= 8:  # more of them make directions of what is rounding
        assert np.linalg.norm(found - exact, 2) <= 2e-2 * np.linalg.norm(exact, 2)
    assert np.linalg.norm(found, 2) < 1.21


def test_five_rounds_take_all_but_the_smallest_values_near_1():
    s = np.linspace(0.003, 1, 100_000)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert 0.68 < s.min() < 0.69
    assert 1.2 < s.max() < 1.21


def test_orthogonalize_leaves_zeros_and_its_argument_alone(rng):
    assert_array_equal(reference.orthogonalize(np.zeros((3, 4))), np.zeros((3, 4)))
    g = rng.standard_normal((3, 4))
    before = g.copy()
    g.setflags(write=False)
    reference.orthogonalize(g)
    assert_array_equal(g, before)


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_of_muon_on_a_kernel_are_its_formula(nesterov, rng):
    kernel = Parameter(rng.standard_normal((3, 3, 2, 4)))
    optimizer = Muon([kernel], 0.1, momentum=0.5, nesterov=nesterov, weight_decay=0.2)
    w, v = kernel.value.copy(), np.zeros((3, 3, 2, 4))
    for _ in range(2):
        g = kernel.grad = rng.standard_normal((3, 3, 2, 4))
        optimizer.step()
        v = 0.5 * v + g
        step = reference.orthogonalize(matrix(g + 0.5 * v if nesterov else v))
        w = w * (1 - 0.1 * 0.2)
        w = w - 0.1 * step.T.reshape(w.shape)
    assert_allclose(kernel.value, w, rtol=1e-12)


def test_a_kernel_with_more_outputs_than_inputs_takes_a_longer_step(rng):
    kernel = Parameter(np.zeros((1, 1, 2, 8)))
    kernel.grad = rng.standard_normal((1, 1, 2, 8))
    Muon([kernel], 0.1, momentum=0.0, nesterov=False).step()
    step = reference.orthogonalize(matrix(kernel.grad))
    assert_allclose(matrix(kernel.value), -0.1 * 2 * step, rtol=1e-12)  # sqrt(8 / 2)


@pytest.mark.parametrize("ops", [fast, reference])
@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (1, 1, 2, 8)])
def test_with_a_radius_every_step_starts_on_a_sphere(shape, ops, rng):
    kernel, dense = Parameter(rng.standard_normal(shape)), Parameter(rng.standard_normal((5, 3)))
    free = Parameter(kernel.value.copy())
    optimizer = Muon([kernel, dense], 0.1, radius=0.5, ops=ops)
    other = Muon([free], 0.1, ops=ops)
    before, rank = dense.value.copy(), min(shape[3], math.prod(shape[:3]))
    for _ in range(3):
        free.value *= 0.5 * math.sqrt(rank) / np.linalg.norm(free.value)
        kernel.grad = free.grad = rng.standard_normal(shape)
        optimizer.step()
        other.step()
        assert_allclose(kernel.value, free.value, rtol=1e-12)
    assert_array_equal(dense.value, before)  # its gradient is 0


def test_a_kernel_of_zeros_or_nan_stays_as_it_is_on_a_sphere():
    for number in (0.0, np.nan, np.inf):
        kernel = Parameter(np.full((1, 1, 2, 2), number))
        Muon([kernel], 0.1, radius=0.5).step()
        assert_array_equal(kernel.value, np.full((1, 1, 2, 2), number))


@pytest.mark.parametrize("radius", [0, -1, "0.5", np.inf, True])
def test_a_radius_that_is_no_positive_number_is_refused(radius):
    with pytest.raises(ValueError, match="Muon expects radius to be a number > 0, got"):
        Muon([Parameter(np.ones((1, 1, 2, 2)))], radius=radius)


def test_muon_gives_all_but_kernels_to_sgd(rng):
    values = [rng.standard_normal(shape) for shape in ((3, 4), (4,), (4,))]
    roles = "weight", "bias", "norm"
    ours = [Parameter(v, role) for v, role in zip(values, roles, strict=True)]
    theirs = [Parameter(v, role) for v, role in zip(values, roles, strict=True)]
    muon = Muon(ours, 0.01, momentum=0.9, rest=4.0)
    sgd = SGD(theirs, 0.04, momentum=0.9, nesterov=True)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = rng.standard_normal(one.shape)
        muon.step()
        sgd.step()
    for one, other in zip(ours, theirs, strict=True):
        assert_array_equal(one.value, other.value)


def test_muon_decays_all_but_kernels_by_their_own_rate(rng):
    p = Parameter(rng.standard_normal((3, 4)))
    before = p.value.copy()
    Muon([p], 0.01, rest=4.0, weight_decay=0.5).step()  # the gradient is 0
    assert_allclose(p.value, before * (1 - 0.04 * 0.5), rtol=1e-12)


def test_kernels_of_all_shapes_take_the_step_of_the_reference(rng):
    shapes = [(3, 3, 4, 8), (1, 1, 2, 8), (3, 3, 4, 8), (6, 6, 1, 8), (3, 3, 8, 4), (1, 1, 8, 8)]
    w, g, v = ([rng.standard_normal(shape) for shape in shapes] for _ in range(3))
    for i in (1, 4):  # of another dtype
        w[i], g[i], v[i] = (a[i].astype(np.float32) for a in (w, g, v))
    copies = [[a.copy() for a in group] for group in (w, g, v)]
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "iterations": 5}
    fast.muon_steps(w, g, v, **settings)
    reference.muon_steps(*copies, **settings)
    for found, expected in zip([*w, *g, *v], [a for group in copies for a in group], strict=True):
        assert found.dtype == expected.dtype
        assert_allclose(found, expected, atol=1e-3 if found.dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_muon_is_the_same_in_both_op_sets(dtype, rng):
    models = [resnet8(input_shape=(8, 8, 3), rng=0, dtype=dtype, ops=o) for o in (fast, reference)]
    optimizers = [
        Muon(m.parameters(), weight_decay=1e-2, decay="weights", ops=o)
        for m, o in zip(models, (fast, reference), strict=True)
    ]
    for _ in range(2):
        for one, other in zip(*(m.parameters() for m in models), strict=True):
            one.grad = other.grad = rng.standard_normal(one.shape).astype(dtype)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert one.value.dtype == dtype
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        assert_allclose(one.value, other.value, rtol=tolerance, atol=tolerance)


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
        (lambda p: Muon(p, momentum=0), ValueError, "momentum > 0 with nesterov=True, got 0"),
        (lambda p: Muon(p, rest=-1), ValueError, "rest to be a number >= 0, got -1"),
        (lambda p: Muon(p, iterations=0), ValueError, "iterations to be an integer >= 1, got 0"),
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
