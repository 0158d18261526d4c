"""What a recorder writes down of an array: both op sets."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.ops import fast, reference
from minires.testing import normal_arrays

BOTH = pytest.mark.parametrize("ops", [fast, reference], ids=["fast", "reference"])
SIZES = [1, 2, 31, 32, 33, 4095, 4096, 4097, 32769, 300_000]


def numbers(size, dtype=np.float32, mean=0.0):
    x = np.random.default_rng(size).standard_normal(size) + mean
    x[::3] = 0
    return x.astype(dtype)


@BOTH
def test_on_paper(ops):
    assert ops.statistics(np.array([[3.0, 0.0], [0.0, -1.0]])) == (
        math.sqrt(10),
        0.5,
        1.5,
        0.5,
    )
    assert ops.inner_product(np.array([1.0, 2.0]), np.array([3.0, -4.0])) == -5


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_numbers_gives_what_numpy_gives(ops, dtype, size):
    x, y = numbers(size, dtype), numbers(size + 1, dtype)[1:]
    wide = x.astype(np.float64)
    wanted = np.linalg.norm(wide), wide.mean(), wide.std(), (x == 0).mean()
    assert ops.statistics(x) == pytest.approx(wanted, rel=1e-12, abs=1e-14)
    product = math.fsum((wide * y.astype(np.float64)).tolist())
    assert ops.inner_product(x, y) == pytest.approx(product, rel=1e-9, abs=1e-12)


@BOTH
@given(st.data())
def test_any_shape_and_memory_order_gives_what_numpy_gives(ops, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    x = data.draw(normal_arrays(shape))
    x = data.draw(st.sampled_from([x, np.asfortranarray(x), x[::-1], x.T]))
    found = ops.statistics(x)
    assert found.norm == pytest.approx(np.linalg.norm(x.ravel()))
    assert found.std == pytest.approx(x.std(), rel=1e-12, abs=1e-14)


@BOTH
def test_a_std_that_is_small_beside_the_mean_keeps_its_digits(ops):
    x = 1e8 + np.random.default_rng(0).standard_normal(100_000)
    assert ops.statistics(x).std == pytest.approx(x.std(), rel=1e-9)


@BOTH
def test_nan_and_infinity_are_told_in_silence(ops):
    x = numbers(10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x[7] = np.nan
        assert all(map(math.isnan, ops.statistics(x)[:3]))
        assert math.isnan(ops.inner_product(x, x))
        x[7] = np.inf
        assert ops.statistics(x).norm == math.inf
        assert ops.statistics(x).zeros == (x == 0).mean()


@BOTH
@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e160, 1e300])
def test_squares_that_leave_the_range_of_floats_do_no_harm(ops, size):
    x = size * np.array([3.0, -4.0, 0.0, 0.0])
    assert ops.statistics(x) == pytest.approx(
        (5 * size, -0.25 * size, math.sqrt(99 / 16) * size, 0.5), rel=1e-12, abs=0
    )
    assert ops.statistics(np.full(3, 1e38, np.float32)).norm == pytest.approx(1e38 * 3**0.5)


@BOTH
def test_an_array_without_numbers_has_none(ops):
    assert all(map(math.isnan, ops.statistics(np.zeros((0, 3)))))
    assert ops.inner_product(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_bits_do_not_depend_on_the_number_of_threads(size):
    import minires

    x, y, threads, found = numbers(size), numbers(size, mean=1.0), minires.get_num_threads(), []
    try:
        for n in (1, threads):
            minires.set_num_threads(n)
            found.append((fast.statistics(x), fast.inner_product(x, y)))
    finally:
        minires.set_num_threads(threads)
    assert found[0] == found[1]
