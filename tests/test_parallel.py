"""A kernel runs each of its parts once, whoever runs them, and a failure in a part is an error."""

import ast
from pathlib import Path

import numpy as np
import pytest

jit = pytest.importorskip("minires.ops.fast.jit")
numba = pytest.importorskip("numba")
get_thread_id, inlined = numba.get_thread_id, jit.inlined


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


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_threads_that_want_the_same_part_at_once_do_not_both_get_it(n):
    y = np.zeros(n + 8, np.int64)
    for _ in range(5000):
        count(n, (1, 1), y)
    np.testing.assert_array_equal(y, [5000] * n + [0] * 8)


@inlined
def wait_until(flags, first, last):
    """Until flags[first] and flags[last], or for some seconds."""
    for _ in range(1 << 28):
        if flags[first] and flags[last]:
            break
        get_thread_id()  # a call, after which the flags are read again


@jit.kernel
def wait_for_help(k, begun, done, who):
    """Part 0 ends when somebody has begun part 4, and that one when somebody has done 5 and 6."""
    who[k], begun[k] = get_thread_id(), True
    if k == 0:
        wait_until(begun, 4, 4)
    if k == 4:
        wait_until(done, 5, 6)
    done[k] = True


@pytest.fixture
def two_threads():
    before = numba.get_num_threads()
    numba.set_num_threads(2)
    yield
    numba.set_num_threads(before)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="it takes two to help one another")
def test_a_thread_that_is_through_helps_the_other_but_leaves_it_the_last_quarter(two_threads):
    begun, done, who = np.zeros(8, bool), np.zeros(8, bool), np.full(8, -1)
    wait_for_help.aside(8, begun, done, who)
    assert done.all()
    assert who[4] == who[7]
    assert who[5] == who[6] == who[0]
    assert who[0] != who[4]


@WAYS
def test_a_failing_part_is_an_error_and_the_next_call_works(way):
    y = np.full(3, -1.0)
    for _ in range(2):
        with pytest.raises(MemoryError, match="part of a kernel"):
            run(allocate, way, 3, y)
    run(allocate, way, 1, y)
    assert y[0] == 0


NUMBERS = {"np.float64", "np.int32", "np.sqrt"}  # what kernels may call of NumPy
METHODS = {"reshape", "type"}  # and of arrays and dtypes: a view, a number


def called_in_kernels():
    """[(function, what it calls)] of NumPy's functions and of methods, in what Numba compiles."""
    for path in sorted(Path(jit.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            made = getattr(node, "decorator_list", [])
            if {ast.unparse(each) for each in made} & {"kernel", "inlined", "in_any_order"}:
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                        yield f"{path.stem}.{node.name}", ast.unparse(call.func)


def test_no_kernel_allocates():
    """References are not counted in kernels, so nobody would free what they allocate."""
    found = list(called_in_kernels())
    assert len(found) > 3
    for function, name in found:
        inlined = name.startswith("winograd.")  # whose functions are here themselves
        allowed = inlined or name in NUMBERS or name.rpartition(".")[2] in METHODS
        assert allowed, f"{function} calls {name}"
