"""`empty(shape, dtype)` like NumPy's, on memory that is used again.

A training step asks for the same few hundred arrays each time. Fresh from the system, every page
of them (4 kB) is cleared and mapped at its first touch, which for a ResNet-20 at batch 128 costs
as much as the batch norms. So a block that nobody uses any more goes to a list of idle blocks and
comes back from there.

It is as safe as NumPy's: the array's memory belongs to a `Block`, every view keeps its Block alive,
and only the end of the Block (`__del__`) gives the memory back. Blocks start at multiples of 64
bytes, a cache line and a 512-bit register.
"""

import collections
import math
import os
import threading

import numpy as np

ALIGNMENT = 64
SMALL = 4096  # bytes; below, NumPy's own allocator is faster


class Memory:
    """Some bytes of the system's, or a piece of such a block."""

    __slots__ = "address", "nbytes", "out", "owner", "pieces", "whole"

    def __init__(self, nbytes, address, owner=None, whole=None):
        self.nbytes, self.address = nbytes, address
        self.owner, self.whole = owner, whole  # the array that has the bytes, or the block cut up
        self.pieces, self.out = (), 0  # and how many of its pieces are in use


class Idle:
    """Memory that waits for its next use.

    Live and idle bytes together exceed the most ever live by a sixteenth at most, but for pieces
    of blocks of which another piece is in use.

    A garbage collection may end Blocks at any moment, also while this very class is at work. So
    what comes back is only put down, in `returned`, and looked at when memory is next asked for.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.returned = collections.deque()
        self.blocks = {}  # {nbytes: [Memory]}
        self.live = self.idle = self.peak = 0

    def take(self, nbytes):
        """Memory of that size: one that waits, a piece of a larger one, or new."""
        with self.lock:
            self.settle()
            waiting = self.blocks.get(nbytes)
            self.live += nbytes
            self.peak = max(self.peak, self.live)
            full = self.live + self.idle > self.limit()
            if not waiting and full and self.cut(nbytes):
                waiting = self.blocks[nbytes]
            if waiting:
                self.idle -= nbytes
                return self.leave(waiting)
            if full:
                self.shrink(self.limit() - self.live)
        try:
            owner = np.empty(nbytes + ALIGNMENT, np.uint8)
        except MemoryError:
            with self.lock:
                self.live -= nbytes
            raise
        start = owner.ctypes.data
        return Memory(nbytes, start + -start % ALIGNMENT, owner)

    def settle(self):
        """Let wait what has come back."""
        while self.returned:
            memory = self.returned.popleft()
            self.live -= memory.nbytes
            self.idle += memory.nbytes
            self.wait(memory)

    def limit(self):
        """Bytes, live and idle, from which memory is cut up or returned instead of added."""
        return self.peak + self.peak // 16

    def wait(self, memory):
        """The last piece that comes back makes the whole again."""
        waiting, whole = self.blocks.setdefault(memory.nbytes, []), memory.whole
        waiting.append(memory)
        if whole is not None:
            whole.out -= 1
            if whole.out == 0:
                pieces = set(map(id, whole.pieces))
                waiting[:] = [other for other in waiting if id(other) not in pieces]
                whole.pieces = ()
                self.wait(whole)

    def leave(self, memories):
        """The last of a list of those that wait, which is used now."""
        memory = memories.pop()
        if memory.whole is not None:
            memory.whole.out += 1
        return memory

    def cut(self, nbytes):
        """Cut a block that waits into pieces of `nbytes`, if one is a small multiple of it.

        The stages of a ResNet need blocks of 8, 4 and 2 MB, one after the other.
        """
        multiples = range(2 * nbytes, 17 * nbytes, nbytes)
        sizes = [size for size, waiting in self.blocks.items() if waiting and size in multiples]
        if not sizes or nbytes % ALIGNMENT:
            return False
        whole = self.leave(self.blocks[min(sizes)])
        whole.pieces = tuple(
            Memory(nbytes, whole.address + start, whole=whole)
            for start in range(0, whole.nbytes, nbytes)
        )
        self.blocks.setdefault(nbytes, []).extend(whole.pieces)
        return True

    def shrink(self, limit):
        """Return memory, large blocks first, until at most `limit` bytes wait; pieces stay."""
        for nbytes in sorted(self.blocks, reverse=True):
            kept = []
            for memory in self.blocks.pop(nbytes):
                if memory.whole is None and self.idle > limit:
                    self.idle -= nbytes
                else:
                    kept.append(memory)
            if kept:
                self.blocks[nbytes] = kept


idle = Idle()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(idle, "lock", threading.Lock()))


class Block:
    """The owner of one array's memory."""

    __slots__ = "__array_interface__", "memory"

    def __init__(self, shape, dtype, nbytes):
        self.memory = idle.take(nbytes)
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (self.memory.address, False),
        }

    def __del__(self, put_down=idle.returned.append):
        memory = getattr(self, "memory", None)  # there is none if the system had no more
        if memory is not None:
            put_down(memory)


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
    """Return idle memory to the system, but for pieces of blocks of which others are in use."""
    with idle.lock:
        idle.settle()
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
