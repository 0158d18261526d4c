"""`empty(shape, dtype)` like NumPy's, on memory that is used again.

A training step asks for the same few hundred arrays each time. Fresh from the system, every page
of them (4 kB) is cleared and mapped at its first touch, which for a ResNet-20 at batch 128 costs
as much as the batch norms. So memory is taken from the system in large segments, and what nobody
uses any more is kept for the next array:

    a list for each size      what came back, to be used again as it is
    the holes in segments     what belongs to no list; neighbours are one hole

An array takes the last of its list, or else the smallest hole that it fits into, or else the lists
are emptied into holes, which then are larger, or else there is a new segment. As long as there are
few segments, a new one comes before the lists are emptied.

It is as safe as NumPy's: the array's memory belongs to a Block, every view keeps its Block alive,
and only the end of the Block gives the memory back. Blocks start at multiples of 64 bytes, a cache
line and a 512-bit register.
"""

import contextlib
import ctypes
import functools
import math
import os
import threading

import numpy as np

ALIGNMENT = 64
SMALL = 2**12  # bytes; below, NumPy's own allocator is faster
LARGE = 2**18  # from which arrays are in other segments: images; below are weights
SEGMENTS = 2**22, 2**23  # bytes in those of small and large arrays, at least. In larger ones more
# room is left between arrays that stay (`python -m benchmarks.memory`: 423 MB in place of 430 with
# 2**25; 397 since a thread keeps only its own sum of a weight's gradient, 2026-11-30)

LITTLE = 2**26  # bytes in all segments of a pool up to which lists are left as they are: in a step
# of a ResNet-20 at batch 32 they were emptied twice, and 27 arrays cut anew


class Segment:
    """Memory of the system's."""

    __slots__ = "owner", "start", "stop"

    def __init__(self, nbytes):
        self.owner = np.empty(nbytes + ALIGNMENT, np.uint8)
        address = self.owner.ctypes.data
        self.start = address + -address % ALIGNMENT
        self.stop = self.start + nbytes


class Hole:
    """Addresses in a segment that nobody uses, and that are in no list."""

    __slots__ = "segment", "start", "stop"

    def __init__(self, segment, start, stop):
        self.segment, self.start, self.stop = segment, start, stop

    @property
    def nbytes(self):
        return self.stop - self.start


class Memory:
    """What an array uses, or used: addresses in a segment, and the list for their number."""

    __slots__ = "address", "nbytes", "segment", "waiting"

    def __init__(self, segment, address, nbytes, waiting):
        self.segment, self.address = segment, address
        self.nbytes, self.waiting = nbytes, waiting


class Pool:
    """Segments, and what of them is not in use.

    A garbage collection may end Blocks at any moment, also while this very class is at work. So
    what comes back is put at the end of its list, in one step, and nothing else.

    Parameters
    ----------
    least : int
        Bytes in a segment.
    little : int, optional
        Bytes in all segments up to which a new one is taken before lists are emptied.
    """

    def __init__(self, least, little=0):
        self.least, self.little = least, little
        self.lock = threading.Lock()
        self.waiting = {}  # {nbytes: [Memory]}
        self.holes = []  # in the order of their addresses
        self.segments = []

    def take(self, nbytes):
        """Memory of that size, a multiple of ALIGNMENT."""
        try:
            return self.waiting[nbytes].pop()
        except (KeyError, IndexError):
            with self.lock:
                return self.cut(nbytes)

    def cut(self, nbytes):
        """Memory from the smallest hole that is large enough."""
        hole = self.smallest(nbytes)
        if hole is None and self.nbytes() < self.little:
            with contextlib.suppress(MemoryError):
                hole = self.grow(nbytes)
        if hole is None:
            self.empty_lists()
            hole = self.smallest(nbytes) or self.grow(nbytes)
        address = hole.start
        hole.start += nbytes
        if hole.start == hole.stop:
            self.holes.remove(hole)
        return Memory(hole.segment, address, nbytes, self.waiting.setdefault(nbytes, []))

    def nbytes(self):
        """The size of all segments."""
        return sum(segment.stop - segment.start for segment in self.segments)

    def smallest(self, nbytes):
        """The smallest hole of at least `nbytes`, or None."""
        fitting = [hole for hole in self.holes if hole.stop - hole.start >= nbytes]
        return min(fitting, key=lambda hole: hole.nbytes, default=None)

    def empty_lists(self):
        """Make holes of what waits, and one of those that touch."""
        spans = self.holes
        for waiting in self.waiting.values():
            for memory in taken(waiting):
                spans.append(Hole(memory.segment, memory.address, memory.address + memory.nbytes))
        spans.sort(key=lambda hole: hole.start)
        self.holes = spans[:1]
        for hole in spans[1:]:
            last = self.holes[-1]
            if last.stop == hole.start and last.segment is hole.segment:
                last.stop = hole.stop
            else:
                self.holes.append(hole)

    def grow(self, nbytes):
        """A new segment, a hole as a whole; segments that are empty, and too small, go first."""
        self.drop_empty()
        try:
            segment = Segment(max(nbytes, self.least))
        except MemoryError:
            segment = Segment(nbytes)
        hole = Hole(segment, segment.start, segment.stop)
        self.segments.append(segment)
        self.holes.append(hole)
        self.holes.sort(key=lambda hole: hole.start)
        return hole

    def drop_empty(self):
        """Return the segments to the system that are one hole."""
        for hole in list(self.holes):
            segment = hole.segment
            if (hole.start, hole.stop) == (segment.start, segment.stop):
                self.holes.remove(hole)
                self.segments.remove(segment)


def taken(waiting):
    """Take all that is in a list, from which another thread may be taking, too."""
    while True:
        try:
            yield waiting.pop()
        except IndexError:
            return


pools = tuple(Pool(least, LITTLE) for least in SEGMENTS)


def after_fork():
    """A thread that held a lock does not exist in the child."""
    for pool in pools:
        pool.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


def give_back(block):
    """What ends a Block."""
    try:
        memory = block.memory
    except AttributeError:  # there was none
        return
    memory.waiting.append(memory)


@functools.lru_cache(maxsize=4096)
def block_class(nbytes):
    """The class of owners of an array's memory; NumPy takes a ctypes array twice as fast as others.

    Its objects have an attribute `memory`.
    """
    return type("Block", (ctypes.c_char * nbytes,), {"__del__": give_back})


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
    nbytes += -nbytes % ALIGNMENT
    memory = pools[nbytes >= LARGE].take(nbytes)
    block = block_class(nbytes).from_address(memory.address)
    block.memory = memory
    return np.ndarray(shape, dtype, block)


def release():
    """Return memory to the system: the segments in which nothing is used."""
    for pool in pools:
        with pool.lock:
            pool.empty_lists()
            pool.drop_empty()


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
