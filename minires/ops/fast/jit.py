"""How a kernel is compiled and called: on first use, from the disk cache, one call at a time.

`@kernel` makes the functions that Python calls: Numba compiles them in parallel at their first
call, or takes them from the disk (`cache.py`). `@inlined` makes their parts.

Threads. Numba's parallel regions do not survive two Python threads entering at once (the
workqueue layer aborts) nor a fork (GNU OpenMP ends the child), so kernels take turns at a lock,
and a forked child runs them on one thread.
"""

import functools
import os
import threading

import numba
from numba.core.dispatcher import Dispatcher

from minires.ops.fast.cache import DiskCache

CHUNKS = 8  # parts of a sum over images: fixed, so that bits do not depend on the threads
OPTIONS = {"nogil": True, "error_model": "numpy"}

inlined = numba.njit(forceinline=True, error_model="numpy")


class Turn:
    """The lock that kernels take, and whether this process is a forked child."""

    def __init__(self):
        self.lock = threading.RLock()
        self.forked = False

    def after_fork(self):
        """A thread that held the lock does not exist in the child, nor do Numba's."""
        self.lock = threading.RLock()
        self.forked = True


turn = Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=turn.after_fork)


def kernel(function):
    """Compile `function` when it is first called; calls take turns.

    `kernel.alone(...)` is the same on the calling thread only: waking the others takes longer than
    a few thousand numbers do. Which of the two ran shows in no bit.
    """
    parallel, serial = compiled(function, parallel=True), compiled(function, parallel=False)

    @functools.wraps(function)
    def call(*args):
        with turn.lock:
            return serial(*args) if turn.forked else parallel(*args)

    @functools.wraps(function)
    def alone(*args):
        with turn.lock:
            return serial(*args)

    call.alone = alone
    return call


def compiled(function, parallel):
    """The Numba dispatcher of `function`, with our cache."""
    dispatcher = numba.njit(parallel=parallel, **OPTIONS)(function)
    assert isinstance(dispatcher, Dispatcher)
    dispatcher._cache = DiskCache(function, parallel)
    return dispatcher


def set_num_threads(n):
    """Run kernels on `n` threads, at most as many as Numba was started with."""
    numba.set_num_threads(n)
