"""NumPy's matrix products on one thread, where they stand between kernels.

BLAS has threads of its own. After a product they stay awake for 0.1 s, in case another one
follows, and so take the cores of the kernels that come next: one product of 0.2 ms on two threads
made a training step of a ResNet-20 on a single image six times as slow (36 against 6 ms; AMD EPYC,
Zen 4, 2 cores, 2026-11). So they sleep, unless there is so much to multiply that it is the kernels
who may wait. (`python -m benchmarks.train_step --batch 1` shows the second figure; nothing here
brings back the first.)
"""

import contextlib
import functools
import os
import threading

from minires.before_numpy import find_libraries

FEW = 2**18  # multiply-adds up to which BLAS wakes nobody
MANY = 2**23  # from which all its threads are welcome: 0.1 ms on one


libraries = functools.cache(find_libraries)


@functools.cache
def switches():
    """A function that tells the number of threads and one that sets it, of each library.

    OpenBLAS' own where they are found: in less than a microsecond, from any Python thread.
    """
    found = []
    for library in libraries():
        own = getattr(library, "threading_layer", None) == "pthreads" and own_switch(library.dynlib)
        found.append(own or (library.get_num_threads, library.set_num_threads))
    return found


def own_switch(loaded):
    """The pair of a loaded OpenBLAS, whose names differ from build to build, or None."""
    for name in ("openblas_{}_num_threads", "scipy_openblas_{}_num_threads"):
        for end in ("64_", "_64", ""):
            if hasattr(loaded, name.format("set") + end):
                return tuple(getattr(loaded, name.format(what) + end) for what in ("get", "set"))
    return None


class OneThread:
    """A context in which BLAS stays on the calling thread; Python threads may be in it at once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.inside, self.before = 0, ()

    def __enter__(self):
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = [(put, n) for tell, put in switches() if (n := tell()) != 1]
                for put, _ in self.before:
                    put(1)

    def __exit__(self, *_):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.give_back()

    def give_back(self):
        """As many threads as before, to the libraries that had several."""
        for put, n in self.before:
            put(n)

    def after_fork(self):
        """What other threads were doing ends with the fork: the lock, and products under way."""
        self.lock = threading.Lock()
        if self.inside:
            self.inside = 0
            self.give_back()


one_thread, as_it_is = OneThread(), contextlib.nullcontext()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.after_fork)


def calm(products):
    """A context for that many multiply-adds."""
    return one_thread if FEW < products < MANY else as_it_is
