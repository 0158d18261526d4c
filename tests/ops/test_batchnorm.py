"""Batch norm: on paper, by definition, its two subtracted paths, its precision."""

import definitions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minires.ops.reference import (
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference_backward,
    batchnorm_inference_forward,
)
from minires.testing import assert_within_rounding, image_shapes, normal_arrays

EPS = 1e-5


@st.composite
def problems(draw, dtype=np.float64):
    """x of rank 2 or 4 with at least two values a channel, gamma, beta, dy."""
    shape = draw(image_shapes().filter(lambda s: s[0] * s[1] * s[2] > 1))
    if draw(st.booleans()):
        shape = (shape[0] * shape[1] * shape[2], shape[3])
    x, dy = draw(normal_arrays(shape, dtype)), draw(normal_arrays(shape, dtype))
    gamma, beta = (draw(normal_arrays(shape[-1:], dtype)) for _ in range(2))
    return x, gamma, beta, dy


def axes(x):
    return tuple(range(x.ndim - 1))


def test_a_case_on_paper():
    x = np.array([[1.0], [3.0]])  # mean 2, variance 1
    y, cache = batchnorm_forward(x, np.array([2.0]), np.array([5.0]), eps=0.0)
    assert_allclose(y, [[3], [7]])
    dx, dgamma, dbeta = batchnorm_backward(np.array([[1.0], [2.0]]), cache)
    assert_allclose(dx, [[0], [0]], atol=1e-15)  # two values are +-1 whatever they are
    assert_allclose((dgamma, dbeta), [[1], [3]])


@given(problems())
def test_forward_and_backward_equal_the_definition(problem):
    x, gamma, beta, dy = problem
    y, cache = batchnorm_forward(x, gamma, beta, eps=EPS)
    expected = definitions.batchnorm(x, gamma, beta, EPS)
    assert_allclose(y, expected, rtol=1e-12, atol=1e-12 * max(np.abs(expected).max(), 1))
    found = batchnorm_backward(dy, cache)
    for a, e in zip(found, definitions.batchnorm_gradients(x, gamma, dy, EPS), strict=True):
        # the terms that cancel in dx have the size of rstd * dy
        scale = max(np.abs(e).max(), cache.rstd.max())
        assert_allclose(a, e, rtol=1e-10, atol=1e-12 * scale)


@given(problems())
def test_dx_sums_to_zero_and_is_orthogonal_to_xhat(problem):
    x, gamma, beta, dy = problem
    _, cache = batchnorm_forward(x, gamma, beta, eps=0.0)
    dx, _, _ = batchnorm_backward(dy, cache)
    xhat = (x - cache.mean) * cache.rstd
    terms = np.abs(gamma) * cache.rstd * np.abs(dy).sum(axes(x))
    size = 1 + np.abs(xhat).max()
    assert (np.abs(dx.sum(axes(x))) <= 1e-12 * terms * size).all()
    assert (np.abs((dx * xhat).sum(axes(x))) <= 1e-12 * terms * size**2).all()


@given(problems())
def test_output_has_mean_beta_and_variance_gamma_squared(problem):
    x, gamma, beta, _ = problem
    y, _ = batchnorm_forward(x, gamma, beta, eps=0.0)
    assert_allclose(y.mean(axes(x)), beta, rtol=1e-9, atol=1e-9)
    assert_allclose(y.var(axes(x)), gamma**2, rtol=1e-9, atol=1e-9)


@given(problems())
def test_inference_is_an_affine_map_of_given_statistics(problem):
    x, gamma, beta, dy = problem
    mean, var = np.full_like(gamma, 0.3), np.full_like(gamma, 2.0)
    y, cache = batchnorm_inference_forward(x, gamma, beta, mean, var, eps=EPS)
    xhat = (x - mean) / np.sqrt(var + EPS)
    assert_allclose(y, gamma * xhat + beta, rtol=1e-12, atol=1e-12)
    dx, dgamma, dbeta = batchnorm_inference_backward(dy, cache)
    assert_allclose(dx, dy * gamma / np.sqrt(var + EPS), rtol=1e-12)
    assert_allclose(dgamma, (dy * xhat).sum(axes(x)), rtol=1e-10, atol=1e-11)
    assert_allclose(dbeta, dy.sum(axes(x)), rtol=1e-10, atol=1e-11)


@given(problems(np.float32))
def test_float32_is_within_8_roundings_of_the_sum_of_absolute_terms(problem):
    x, gamma, beta, dy = problem
    y, cache = batchnorm_forward(x, gamma, beta, eps=EPS)
    found = batchnorm_backward(dy, cache)
    x, gamma, beta, dy = (a.astype(np.float64) for a in problem)
    rstd = 1 / np.sqrt(x.var(axes(x)) + EPS)
    # xhat = (x - mean) rstd: the rounding of the variance grows with rstd^2 times itself
    xhat = (np.abs(x) + np.abs(x).mean(axes(x))) * rstd
    assert_within_rounding(
        y, definitions.batchnorm(x, gamma, beta, EPS), np.abs(gamma) * xhat * 2 + np.abs(beta)
    )
    exact = definitions.batchnorm_gradients(x, gamma, dy, EPS)
    parts = np.abs(dy) + np.abs(dy).mean(axes(x)) + xhat * (np.abs(dy) * xhat).mean(axes(x))
    assert_within_rounding(found[0], exact[0], np.abs(gamma) * rstd * parts * 2)
    assert_within_rounding(found[1], exact[1], (np.abs(dy) * xhat).sum(axes(x)) * 2)
    assert_within_rounding(found[2], exact[2], np.abs(dy).sum(axes(x)))


def test_the_variance_survives_a_mean_of_1e4_in_float32(rng):
    x = (1e4 + rng.standard_normal((64, 8, 8, 3))).astype(np.float32)
    _, cache = batchnorm_forward(x, np.ones(3, np.float32), np.zeros(3, np.float32), eps=EPS)
    assert_allclose(cache.var, x.astype(np.float64).var(axis=(0, 1, 2)), rtol=1e-4)
    assert_allclose(cache.mean, x.astype(np.float64).mean(axis=(0, 1, 2)), rtol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_a_sum_of_a_million_equal_float32_keeps_all_digits(value):
    x = np.full((1000, 10, 10, 1), value, np.float32)
    _, cache = batchnorm_forward(x, np.ones(1, np.float32), np.zeros(1, np.float32), eps=EPS)
    assert_allclose(cache.mean, np.float32(value), rtol=1e-7)
    assert cache.var[0] < 1e-14
