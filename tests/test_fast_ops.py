"""The fast ops say what the reference says: any shape, both dtypes, bit by bit on any threads."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops import fast, reference

winograd = pytest.importorskip("minires.ops.fast.winograd")

EPS = {np.float64: 1e-12, np.float32: 8 * np.finfo(np.float32).eps}
DTYPES = st.sampled_from([np.float32, np.float64])


def assert_close(found, expected, terms, dtype):
    """Within the rounding of a sum whose terms have the absolute sum `terms`."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= EPS[dtype] * (terms + np.finfo(dtype).tiny)).all()


def arrays(seed, *shapes, dtype):
    """Normal numbers, by a seed that Hypothesis draws: quicker than letting it draw each."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def layouts(a):
    """The same numbers: contiguous, Fortran-ordered, every second of a larger array, read-only."""
    wide = np.repeat(a, 2, axis=-1)
    locked = a.copy()
    locked.setflags(write=False)
    return [a, np.asfortranarray(a), wide[..., ::2], locked]


@pytest.mark.parametrize("name", reference.__all__)
def test_signatures_are_equal(name):
    ours, theirs = getattr(fast, name), getattr(reference, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.signature(fast.implementation(name)) == inspect.signature(theirs)


# ---- convolution


@st.composite
def convolutions(draw):
    """Shapes of a convolution, odd ones included."""
    small = st.integers(1, 5)
    H, W = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    KH, KW = draw(small), draw(small)
    sides = st.integers(0, 6)
    padding = (draw(sides), draw(sides)), (draw(sides), draw(sides))
    padding = tuple(
        (a + max(0, k - size - a - b), b)
        for (a, b), k, size in zip(padding, (KH, KW), (H, W), strict=True)
    )
    x = draw(small), H, W, draw(st.integers(1, 40))
    w = KH, KW, x[3], draw(st.integers(1, 40))
    stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return x, w, {"stride": stride, "padding": padding}, draw(st.integers(0, 2**32 - 1))


def convolution_terms(x, w, b, dy, options):
    """The sums of absolute terms of y, dx, dweight, dbias."""
    x, w, b, dy = (np.abs(a.astype(np.float64)) for a in (x, w, b, dy))
    y, cache = reference.conv2d_forward(x, w, b, **options)
    return y, *reference.conv2d_backward(dy, cache)


def convolution(ops, x, w, b, dy, options):
    y, cache = ops.conv2d_forward(x, w, b, **options)
    return y, *ops.conv2d_backward(dy, cache)


def check_convolution(problem, dtype):
    x, w, options, seed = problem
    y, cache = reference.conv2d_forward(np.zeros(x, dtype), np.zeros(w, dtype), **options)
    x, w, b, dy = arrays(seed, x, w, w[3:], y.shape, dtype=dtype)
    found = convolution(fast, x, w, b, dy, options)
    exact = convolution(reference, *(a.astype(np.float64) for a in (x, w, b, dy)), options)
    terms = convolution_terms(x, w, b, dy, options)
    for a, e, t in zip(found, exact, terms, strict=True):
        if winograd.pays(cache):
            assert a.dtype == dtype
            assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())
        else:
            assert_close(a, e, t, dtype)


@given(convolutions(), DTYPES)
def test_convolution_equals_the_reference(problem, dtype):
    check_convolution(problem, dtype)


@st.composite
def winograd_convolutions(draw):
    """3x3 at stride 1, with enough channels."""
    side = st.integers(0, 4)
    x = draw(st.integers(1, 5)), draw(st.integers(3, 20)), draw(st.integers(3, 20))
    channels = st.integers(winograd.FEWEST, 70)
    C, F = draw(channels), draw(channels)
    padding = (draw(side), draw(side)), (draw(side), draw(side))
    return (*x, C), (3, 3, C, F), {"padding": padding}, draw(st.integers(0, 2**32 - 1))


@given(winograd_convolutions())
def test_winograd_equals_the_reference(problem):
    check_convolution(problem, np.float32)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}])
def test_convolution_leaves_what_it_does_not_cover_to_the_reference(options, rng):
    x, w = rng.standard_normal((2, 9, 9, 4)), rng.standard_normal((3, 3, 4, 6))
    w = w[:, :, : 4 // options.get("groups", 1)]
    y, cache = reference.conv2d_forward(x, w, **options)
    dy = rng.standard_normal(y.shape)
    expected = y, *reference.conv2d_backward(dy, cache)
    for a, e in zip(convolution(fast, x, w, None, dy, options), expected, strict=True):
        assert_array_equal(a, e)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution_takes_any_layout_and_leaves_it_alone(dtype):
    x, w, b, dy = arrays(0, (2, 6, 5, 16), (3, 3, 16, 16), (16,), (2, 6, 5, 16), dtype=dtype)
    expected = convolution(fast, x, w, b, dy, {"padding": 1})
    before = [a.copy() for a in (x, w, b, dy)]
    for kind in range(4):
        given_arrays = [layouts(a)[kind] for a in (x, w, b, dy)]
        found = convolution(fast, *given_arrays, {"padding": 1})
        for a, e in zip(found, expected, strict=True):
            assert_array_equal(a, e)
        for a, e in zip(given_arrays, before, strict=True):
            assert_array_equal(a, e)


# ---- threads


def everything():
    """One number sequence through the ops whose sums are cut into parts."""
    shapes = (9, 13, 11, 32), (3, 3, 32, 48), (48,), (9, 13, 11, 48)
    for dtype in (np.float32, np.float64):
        x, w, b, dy = arrays(1, *shapes, dtype=dtype)
        yield from convolution(fast, x, w, b, dy, {"padding": 1})
        yield from convolution(fast, x, w, b, dy[:, :7, :6], {"padding": 1, "stride": 2})


def test_bits_do_not_depend_on_the_number_of_threads():
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    results = []
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        results.append([a.tobytes() for a in everything()])
    numba.set_num_threads(before)
    assert all(result == results[0] for result in results)
