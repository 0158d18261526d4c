"""How many threads the fast ops use."""

from minires.checks import expect_int
from minires.ops import fast


def set_num_threads(n):
    """Run the fast ops on `n` threads; no bit of any result depends on `n`.

    Parameters
    ----------
    n : int
        From 1 to the number that Numba was started with: the number of cores, or the environment
        variable NUMBA_NUM_THREADS.

    Raises
    ------
    ValueError
        If `n` is no integer, below 1, or above that number.

    Notes
    -----
    It holds for the Python thread that calls it, as in Numba; others start with all threads.
    Products of BLAS run on these threads, too (dense layers, convolutions that suit no tile). What
    is left to the reference, grouped and dilated convolutions, stays on one thread below 2^23
    multiply-adds. From there on it runs on the threads of NumPy's BLAS, which follow
    `threadpoolctl.threadpool_limits`, and whose number may change the last bit; so do all products
    where NumPy's BLAS is not an OpenBLAS with 64-bit sizes.
    Without Numba, or with its compiler switched off, there are no threads and nothing to set.
    """
    n = expect_int("set_num_threads", "n", n)
    if not fast.compiles():
        return
    numba = started()
    most = numba.config.NUMBA_NUM_THREADS
    if n > most:
        raise ValueError(
            f"set_num_threads expects at most {most}, the number that Numba was started with (set "
            f"NUMBA_NUM_THREADS before the first fast op to have more), got {n}"
        )
    numba.set_num_threads(n)


def get_num_threads():
    """The number of threads on which the fast ops run, called from this Python thread.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    if not fast.compiles():
        return 1
    return started().get_num_threads()


def started():
    """Numba, its threads started as the kernels start them; half a second, so only when asked."""
    from minires.ops.fast import jit

    return jit.numba
