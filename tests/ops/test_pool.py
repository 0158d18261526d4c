"""Pooling: on paper, by definition, its adjoint, its errors."""

import definitions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops.reference import (
    avgpool2d_backward,
    avgpool2d_forward,
    global_avgpool2d_backward,
    global_avgpool2d_forward,
    maxpool2d_backward,
    maxpool2d_forward,
)
from minires.testing import (
    assert_adjoint,
    assert_within_rounding,
    image_shapes,
    normal_arrays,
    pools,
)


def setting(case):
    return {k: case[k] for k in ("kernel_size", "stride", "padding")}


def test_max_pooling_on_paper():
    x = np.array([[1.0, 5, 2], [4, 3, 0]]).reshape(1, 2, 3, 1)
    y, cache = maxpool2d_forward(x, kernel_size=2, stride=1)
    assert_array_equal(y.ravel(), [5, 5])
    dx = maxpool2d_backward(np.array([10.0, 1.0]).reshape(1, 1, 2, 1), cache)
    assert_array_equal(dx[0, :, :, 0], [[0, 11, 0], [0, 0, 0]])  # the 5 won twice


def test_average_pooling_on_paper():
    x = np.array([[1.0, 5, 2], [4, 2, 0]]).reshape(1, 2, 3, 1)
    y, cache = avgpool2d_forward(x, kernel_size=2, stride=1)
    assert_array_equal(y.ravel(), [3, 2.25])
    dx = avgpool2d_backward(np.array([4.0, 8.0]).reshape(1, 1, 2, 1), cache)
    assert_array_equal(dx[0, :, :, 0], [[1, 3, 2], [1, 3, 2]])


@pytest.mark.parametrize(("count_include_pad", "expected"), [(True, 1.0), (False, 4.0)])
def test_the_padding_counts_or_not(count_include_pad, expected):
    x = np.full((1, 1, 1, 1), 4.0)
    y, _ = avgpool2d_forward(
        x,
        kernel_size=2,
        stride=2,
        padding=((1, 0), (1, 0)),
        count_include_pad=count_include_pad,
    )
    assert y.item() == expected


def test_padding_never_wins():
    y, _ = maxpool2d_forward(np.full((1, 2, 2, 1), -7.0), kernel_size=2, stride=1, padding=1)
    assert_array_equal(y, np.full((1, 3, 3, 1), -7.0))


def test_ties_go_to_the_first_cell():
    _, cache = maxpool2d_forward(np.zeros((1, 2, 2, 1)), kernel_size=2, stride=2)
    dx = maxpool2d_backward(np.ones((1, 1, 1, 1)), cache)
    assert_array_equal(dx[0, :, :, 0], [[1, 0], [0, 0]])


def test_a_nan_wins_so_that_it_is_not_hidden():
    y, _ = maxpool2d_forward(
        np.array([1.0, np.nan]).reshape(1, 1, 2, 1), kernel_size=(1, 2), stride=1
    )
    assert np.isnan(y).all()


@given(pools(), st.data())
def test_max_pooling_equals_the_definition(case, data):
    x = data.draw(normal_arrays(case["x_shape"]))
    y, cache = maxpool2d_forward(x, **setting(case))
    expected, source = definitions.maxpool2d(x, **setting(case))
    assert_array_equal(y, expected)
    dy = data.draw(normal_arrays(y.shape))
    assert_allclose(
        maxpool2d_backward(dy, cache),
        definitions.maxpool2d_gradient(x.shape, dy, source),
        rtol=1e-12,
        atol=1e-13,
    )


@given(pools(), st.booleans(), st.data())
def test_average_pooling_equals_the_definition(case, counted, data):
    x = data.draw(normal_arrays(case["x_shape"]))
    y, cache = avgpool2d_forward(x, **setting(case), count_include_pad=counted)
    expected = definitions.avgpool2d(x, **setting(case), count_include_pad=counted)
    assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    dy = data.draw(normal_arrays(y.shape))
    dx = definitions.avgpool2d_gradient(x.shape, dy, **setting(case), count_include_pad=counted)
    assert_allclose(avgpool2d_backward(dy, cache), dx, rtol=1e-10, atol=1e-12)


@given(pools(), st.booleans(), st.data())
def test_average_pooling_backward_is_the_adjoint(case, counted, data):
    x = data.draw(normal_arrays(case["x_shape"]))
    y, cache = avgpool2d_forward(x, **setting(case), count_include_pad=counted)
    dy = data.draw(normal_arrays(y.shape))
    assert_adjoint(lambda _: y, lambda dy: avgpool2d_backward(dy, cache), x, dy)


@given(image_shapes(), st.data())
def test_global_average_pooling_is_the_mean_and_its_adjoint(shape, data):
    x = data.draw(normal_arrays(shape))
    y, cache = global_avgpool2d_forward(x)
    assert_allclose(y, x.reshape(shape[0], -1, shape[3]).mean(axis=1), rtol=1e-12, atol=1e-14)
    dy = data.draw(normal_arrays(y.shape))
    assert_adjoint(lambda _: y, lambda dy: global_avgpool2d_backward(dy, cache), x, dy)


@given(pools(), st.booleans(), st.data())
def test_float32_average_is_within_8_roundings(case, counted, data):
    x = data.draw(normal_arrays(case["x_shape"], np.float32))
    y, _ = avgpool2d_forward(x, **setting(case), count_include_pad=counted)
    exact, terms = (
        definitions.avgpool2d(a, **setting(case), count_include_pad=counted)
        for a in (x.astype(np.float64), np.abs(x.astype(np.float64)))
    )
    assert y.dtype == np.float32
    assert_within_rounding(y, exact, terms)


@given(pools(), st.booleans(), st.data())
def test_float32_gradients_are_within_8_roundings(case, counted, data):
    x = data.draw(normal_arrays(case["x_shape"], np.float32))
    y, cache = avgpool2d_forward(x, **setting(case), count_include_pad=counted)
    dy = data.draw(normal_arrays(y.shape, np.float32))
    exact, terms = (
        definitions.avgpool2d_gradient(x.shape, a, **setting(case), count_include_pad=counted)
        for a in (dy.astype(np.float64), np.abs(dy.astype(np.float64)))
    )
    assert_within_rounding(avgpool2d_backward(dy, cache), exact, terms)


def test_the_mean_of_a_large_window_keeps_its_digits():
    x = np.full((1, 300, 300, 1), 0.1, np.float32)
    y, _ = avgpool2d_forward(x, kernel_size=300, stride=1)
    assert_allclose(y, np.float32(0.1), rtol=1e-7)
    assert_allclose(global_avgpool2d_forward(x)[0], np.float32(0.1), rtol=1e-7)


@pytest.mark.parametrize("forward", [maxpool2d_forward, avgpool2d_forward])
def test_a_window_that_sees_no_pixel_is_refused(forward):
    with pytest.raises(ValueError, match=r"smaller than its kernel \(2, 2\).* got \(\(2, 2"):
        forward(np.zeros((1, 4, 4, 1)), kernel_size=2, stride=1, padding=2)
