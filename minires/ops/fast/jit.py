"""How a kernel is compiled and called: on first use, from the disk cache, one call at a time.

`@kernel` makes the functions that Python calls, of a function that computes one part of the result:
Numba compiles them at their first call, or takes them from the disk (`cache.py`), and threads share
the parts out (`parallel.py`). `@inlined` makes what kernels are put together from.

Threads. Numba's parallel regions do not survive two Python threads entering at once (the
workqueue layer aborts) nor a fork (GNU OpenMP ends the child), so kernels take turns at a lock,
and a forked child runs them on one thread (`forks.py`).
"""

import contextlib
import ctypes
import functools
import os
import threading
import time

import numba
from numba import types
from numba.core.dispatcher import Dispatcher

from minires.ops.fast.cache import DiskCache
from minires.ops.fast.forks import forks
from minires.ops.fast.parallel import PART_OPTIONS, run_parts

# Into how many parts work is cut: fixed numbers, so that bits do not depend on the threads
CHUNKS = 8  # of a sum over images
PARTS = 32  # of everything else
OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def jitted(function, **options):
    """What Numba makes of a function."""
    made = numba.njit(function, **options)
    if not isinstance(made, Dispatcher):
        raise RuntimeError(
            "ops.fast expects numba.config.DISABLE_JIT to stay as it was at the first fast op, got "
            "it switched on since: set it before"
        )
    return made


def inlined(function, **options):
    """What kernels are put together from: part of their code wherever it is called.

    Numba compiles a function again for each constant that it is called with, `f(0)` and `f(i)`.
    Here one version serves all, since LLVM puts constants in when it inlines.
    """
    made = jitted(function, forceinline=True, **PART_OPTIONS, **options)
    template = made.get_call_template
    made.get_call_template = lambda args, kws: template(list(map(types.unliteral, args)), kws)
    return made


@inlined
def part_of(a, k):
    """The k-th of PARTS runs of a one-dimensional array."""
    return a[k * a.size // PARTS : (k + 1) * a.size // PARTS]


class Turn:
    """The lock that kernels take, and the direction of the last one.

    It also counts how many kernels in a row a thread was late for. That happens when the system
    wakes a thread on the core of the one that it is to help: they take turns there, 0.3 ms for a
    kernel of 0.04 as seen in `python -m benchmarks.shapes` before this, while the other core has
    nothing to do, and it may take seconds until the system notices. So after two of them the
    calling thread moves to another core.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.last_first = False
        self.late = 0

    def note(self, late, seconds):
        """Whether a thread was late for a kernel, which took so long.

        One of a few microseconds may be over before another core has heard of it, so a short kernel
        counts as one that nobody was late for.
        """
        self.late = self.late + 1 if late and seconds > LONG else 0
        if self.late == PATIENCE:
            self.late = 0
            leave_core()

    def after_fork(self):
        """A thread that held the lock does not exist in the child."""
        self.lock = threading.RLock()


PATIENCE = 2  # late kernels
LONG = 1e-4  # seconds, more than waking a thread takes


def leave_core():
    """Run this thread on another of the cores that it may run on, and let it run on all again."""
    if not hasattr(os, "sched_setaffinity"):  # not on Linux
        return
    cores = os.sched_getaffinity(0)
    others = cores - {current_core()}
    if others:
        with contextlib.suppress(OSError):  # where a sandbox forbids it, nothing is changed
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, cores)


@functools.cache
def c_library():
    return ctypes.CDLL(None)


def current_core():
    """The number of the core that runs this thread; -1 where the C library does not say."""
    try:
        return c_library().sched_getcpu()
    except AttributeError:
        return -1


turn = Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=turn.after_fork)


SPINS = "40000"  # of GNU OpenMP; about 1 ms, by the processor


def start_threads():
    """Numba's thread pool, whose threads wait about 1 ms for work or for each other, then sleep.

    By default they stay awake for some 5 ms. If a third process wants one of the two cores, the
    thread that is waited for cannot run meanwhile: a ResNet-20 step at batch 32 took 1,300 to
    2,000 ms beside a busy process, and with 5,000 rounds (0.1 ms) 105 to 190; alone 37 ms both ways
    (AMD EPYC, Zen 4). Where waking a thread takes longer, 5,000 are too few: on an Intel Xeon
    (AVX-512, AMX; 2026-11-30) a step took 44 and 46 ms with 5,000, 39 and 39 with 40,000 (two runs
    each of `GOMP_SPINCOUNT=40000 python -m benchmarks.train_step --batch 32 --rounds 4 --burst 8
    --contenders minires-fused`), at batch 128 125 and 121 (one each, `--burst 4`). On the AMD it
    makes no difference, 25.2 against 25.1 and 25.5 ms (2026-11-30).
    """
    ours = not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    numba.get_num_threads()  # loads the pool, to which compiled kernels refer
    if ours:
        del os.environ["GOMP_SPINCOUNT"]  # not for other programs that this one may start


start_threads()


def kernel(part):
    """Make a kernel of `part(k, ...)`: called as `kernel(n, ...)` it runs the parts k < n.

    Threads share the parts out among themselves, so no two may write to the same place. Compiled
    at the first call; calls take turns. Every other call goes through the parts from the last to
    the first, as what the op before wrote last is still in the cache. Two more ways to call it:

    `kernel.alone(n, ...)` stays on the calling thread: waking the others takes longer than a few
    thousand numbers do. `kernel.aside(n, ...)`, of weights between two passes over images, does not
    change the direction of the next. Which way was taken shows in no bit.
    """
    compiled_part = jitted(part, **PART_OPTIONS)

    def run(n, threads, last_first, *args):
        return run_parts(compiled_part, n, threads, last_first, args)

    run.__module__, run.__qualname__ = part.__module__, part.__qualname__  # for profilers
    run = jitted(run, **OPTIONS)
    run._cache = DiskCache(part, "parts")

    def on_threads(n, last_first, args):
        start = time.perf_counter()
        late = run(n, not forks.lost_threads, last_first, *args)
        turn.note(late, time.perf_counter() - start)

    @functools.wraps(part)
    def call(n, *args):
        with turn.lock:
            turn.last_first = not turn.last_first
            on_threads(n, turn.last_first, args)

    @functools.wraps(part)
    def alone(n, *args):
        with turn.lock:
            run(n, False, False, *args)

    @functools.wraps(part)
    def aside(n, *args):
        with turn.lock:
            on_threads(n, False, args)

    call.alone, call.aside = alone, aside
    return call
