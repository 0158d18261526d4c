"""Convolution: on paper, by definition, its adjoint, its errors."""

import definitions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops.reference import conv2d_backward, conv2d_forward
from minires.ops.reference.conv import col2im, im2col
from minires.ops.window import resolve_window
from minires.testing import assert_adjoint, assert_within_rounding, convolutions, normal_arrays


def setting(case):
    return {k: case[k] for k in ("stride", "padding", "dilation", "groups")}


@st.composite
def problems(draw, dtype=np.float64):
    """A convolution with all arrays it needs, in any memory layout."""
    case = draw(convolutions())
    x = draw(normal_arrays(case["x_shape"], dtype))
    w = draw(normal_arrays(case["w_shape"], dtype))
    b = draw(normal_arrays(case["w_shape"][3:], dtype))
    y, _ = conv2d_forward(x, w, b, **setting(case))
    return case, x, w, b, draw(normal_arrays(y.shape, dtype))


def test_a_case_on_paper():
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    y, cache = conv2d_forward(x, w, np.array([10.0]))
    assert_array_equal(y[0, :, :, 0], [[37, 47], [67, 77]])  # 0*1 + 1*2 + 3*3 + 4*4 + 10, ...
    dx, dw, db = conv2d_backward(np.ones((1, 2, 2, 1)), cache)
    assert_array_equal(dx[0, :, :, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]])
    assert_array_equal(dw[:, :, 0, 0], [[8, 12], [20, 24]])
    assert_array_equal(db, [4])


@given(problems())
def test_forward_equals_the_definition(problem):
    case, x, w, b, _ = problem
    y, _ = conv2d_forward(x, w, b, **setting(case))
    expected = definitions.conv2d(x, w, b, **setting(case))
    assert_allclose(y, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@given(problems())
def test_backward_equals_the_definition(problem):
    case, x, w, b, dy = problem
    _, cache = conv2d_forward(x, w, b, **setting(case))
    found = conv2d_backward(dy, cache)
    expected = definitions.conv2d_gradients(x, w, dy, **setting(case))
    for a, e in zip(found, expected, strict=True):
        assert_allclose(a, e, rtol=1e-10, atol=1e-10 * np.abs(e).max())


@given(problems(np.float32))
def test_float32_is_within_8_roundings_of_the_sum_of_absolute_terms(problem):
    case, x, w, b, dy = problem
    y, cache = conv2d_forward(x, w, b, **setting(case))
    found = [y, *conv2d_backward(dy, cache)]
    x, w, b, dy = (a.astype(np.float64) for a in (x, w, b, dy))
    exact = [definitions.conv2d(x, w, b, **setting(case))]
    exact += definitions.conv2d_gradients(x, w, dy, **setting(case))
    x, w, b, dy = (np.abs(a) for a in (x, w, b, dy))
    terms = [definitions.conv2d(x, w, b, **setting(case))]
    terms += definitions.conv2d_gradients(x, w, dy, **setting(case))
    for a, e, t in zip(found, exact, terms, strict=True):
        assert a.dtype == np.float32
        assert_within_rounding(a, e, t)


@given(problems())
def test_both_gradients_are_adjoints(problem):
    case, x, w, _, dy = problem

    def forward_in_x(x):
        return conv2d_forward(x, w, **setting(case))[0]

    def forward_in_w(w):
        return conv2d_forward(x, w, **setting(case))[0]

    dx, dw, _ = conv2d_backward(dy, conv2d_forward(x, w, **setting(case))[1])
    assert_adjoint(forward_in_x, lambda _: dx, x, dy)
    assert_adjoint(forward_in_w, lambda _: dw, w, dy)


@given(convolutions(), st.data())
def test_col2im_is_the_transpose_of_im2col(case, data):
    x = data.draw(normal_arrays(case["x_shape"]))
    size, kernel = case["x_shape"][1:3], case["w_shape"][:2]
    window = resolve_window("test", size, kernel, case["stride"], case["padding"], case["dilation"])
    cols = data.draw(normal_arrays(im2col(x, window).shape))
    assert_adjoint(lambda x: im2col(x, window), lambda cols: col2im(cols, x.shape, window), x, cols)


def test_im2col_without_padding_is_a_view():
    x = np.zeros((2, 5, 6, 3))
    window = resolve_window("test", (5, 6), (3, 3), 1, 0)
    assert np.shares_memory(im2col(x, window), x)


def test_a_kernel_as_large_as_the_image_is_a_dense_layer(rng):
    x, w = rng.standard_normal((4, 5, 3, 2)), rng.standard_normal((5, 3, 2, 7))
    y, _ = conv2d_forward(x, w)
    assert_allclose(y.reshape(4, 7), x.reshape(4, 30) @ w.reshape(30, 7), rtol=1e-12)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "message"),
    [
        ((1, 4, 4, 3), (3, 3, 2, 4), {}, r"weight of shape .* for x with 3 channels, got \(3, 3"),
        ((1, 4, 4, 3), (5, 5, 3, 4), {}, r"at least 5x5 pixels.* got 4x4"),
        ((1, 4, 4, 4), (3, 3, 2, 5), {"groups": 2}, r"F divisible by 2.* got \(3, 3, 2, 5\)"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"stride": 0}, r"stride to be an integer >= 1.* got 0"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"stride": -1}, r"stride to be an integer >= 1.* got -1"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"padding": "full"}, r"padding to be .* got 'full'"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"padding": -1}, r"padding to be .* got -1"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"dilation": 1.5}, r"dilation to be .* got 1.5"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(x_shape, w_shape, options, message):
    with pytest.raises(ValueError, match=message):
        conv2d_forward(np.zeros(x_shape), np.zeros(w_shape), **options)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        ((32, 32), (7, 7), 2, ((2, 3), (2, 3))),
        ((16, 16), (3, 3), 2, ((0, 1), (0, 1))),
        ((5, 6), (3, 3), 1, ((1, 1), (1, 1))),
        ((5, 5), (1, 1), 2, ((0, 0), (0, 0))),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    window = resolve_window("test", size, kernel, stride, "same")
    assert window.padding == expected
    assert window.out == tuple(-(-s // stride) for s in size)
