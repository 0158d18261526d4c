"""A kernel runs each of its parts once, whoever runs them, and a failure in a part is an error."""

import numpy as np
import pytest

jit = pytest.importorskip("minires.ops.fast.jit")


@jit.kernel
def count(k, size, y):
    """y[k] += size[0]."""
    y[k] += size[0]


@jit.kernel
def allocate(k, y):
    """More memory than there is, in part 1 only."""
    a = np.empty(1 << 59 if k == 1 else 1)
    a[0] = k
    y[k] = a[0]


WAYS = pytest.mark.parametrize("way", ["threads", "alone"])


def run(kernel, way, *args):
    (kernel if way == "threads" else kernel.alone)(*args)


@WAYS
@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_each_part_runs_once(way, n):
    y = np.zeros(1001, np.int64)
    run(count, way, n, (3, 4), y)
    np.testing.assert_array_equal(y, np.where(np.arange(1001) < n, 3, 0))


@WAYS
def test_a_failing_part_is_an_error_and_the_next_call_works(way):
    y = np.full(3, -1.0)
    for _ in range(2):
        with pytest.raises(MemoryError, match="part of a kernel"):
            run(allocate, way, 3, y)
    run(allocate, way, 1, y)
    assert y[0] == 0
