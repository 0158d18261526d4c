"""`empty(shape, dtype)` like NumPy's, on memory that is used again.

A training step asks for the same few hundred arrays each time. Fresh from the system, every page
of them (4 kB) is cleared and mapped at its first touch, which for a ResNet-20 at batch 128 costs
as much as the batch norms. So a block that nobody uses any more goes to a list of idle blocks and
comes back from there.

It is as safe as NumPy's: the array's memory belongs to a `Block`, every view keeps its Block alive,
and only the end of the Block (`__del__`) gives the memory back. Blocks start at multiples of 64
bytes, a cache line and a 512-bit register.
"""

import math
import os
import threading

import numpy as np

ALIGNMENT = 64
SMALL = 4096  # bytes; below, NumPy's own allocator is faster


class Idle:
    """Memory that waits for its next use; live and idle bytes never exceed the most ever live."""

    def __init__(self):
        self.lock = threading.RLock()  # re-entrant: a garbage collection may end a Block inside
        self.blocks = {}  # {nbytes: [(raw array, address)]}, the size that waited longest first
        self.live = self.idle = self.peak = 0

    def take(self, nbytes):
        with self.lock:
            waiting = self.blocks.get(nbytes)
            self.live += nbytes
            self.peak = max(self.peak, self.live)
            if waiting:
                self.idle -= nbytes
                return waiting.pop()
            self.shrink(self.peak - self.live)
        raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = raw.ctypes.data
        return raw, start + -start % ALIGNMENT

    def give(self, nbytes, memory):
        with self.lock:
            self.live -= nbytes
            self.idle += nbytes
            self.blocks.setdefault(nbytes, []).append(memory)

    def shrink(self, limit):
        """Return memory to the system until at most `limit` bytes wait."""
        with self.lock:
            for nbytes in list(self.blocks):
                waiting = self.blocks[nbytes]
                while waiting and self.idle > limit:
                    waiting.pop()
                    self.idle -= nbytes
                if not waiting:
                    del self.blocks[nbytes]


idle = Idle()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(idle, "lock", threading.RLock()))


class Block:
    """The owner of one array's memory."""

    __slots__ = "__array_interface__", "memory", "nbytes"

    def __init__(self, shape, dtype, nbytes):
        self.nbytes = nbytes
        self.memory = idle.take(nbytes)
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (self.memory[1], False),
        }

    def __del__(self, give=idle.give):
        give(self.nbytes, self.memory)


def empty(shape, dtype):
    """An array of unset numbers, C-contiguous, aligned to 64 bytes.

    Parameters
    ----------
    shape : tuple of int
    dtype : float32 or float64
    """
    dtype = dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALL:
        return np.empty(shape, dtype)
    return np.asarray(Block(tuple(shape), dtype, nbytes))


def release():
    """Return all idle memory to the system."""
    idle.shrink(0)
    idle.peak = idle.live


_scratch = {}


def scratch(dtype, size):
    """Working memory for kernels: one row of at least `size` numbers for each thread.

    One for all of them: a kernel must not expect to find what another left there.
    """
    rows = _scratch.get(dtype)
    if rows is None or rows.shape[1] < size:
        import numba

        rows = empty((numba.config.NUMBA_NUM_THREADS, -(-size // ALIGNMENT) * ALIGNMENT), dtype)
        rows[...] = 0
        _scratch[dtype] = rows
    return rows
