"""Matrix products of NumPy's BLAS on the threads of the kernels.

BLAS has threads of its own, which are in the way of ours (`blas.py`). But a product can be cut into
blocks of rows or of columns, which know nothing of each other: each is one call of BLAS' `gemm` on
one thread, and our threads share the blocks out as they do the parts of any kernel. Where they are
cut depends on sizes alone, so that no bit depends on the threads.

    blocks of rows       a[r0:r1] @ b
    blocks of columns    a @ b[:, c0:c1]
    blocks of terms      a[:, k0:k1] @ b[k0:k1], which are added up: for long sums, as in the
                         gradient of weights; each thread then reads the pixels that it wrote

`gemm` is called at its address, which NumPy does not tell; it stands in the library that
threadpoolctl finds. Where there is none (NumPy with another BLAS), NumPy multiplies. A matrix by a
vector is a call of `gemv`, for which `gemm` takes two to three times as long.
"""

import ctypes
import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minires.ops.fast.blas import FEW, as_it_is, calm, libraries, one_thread
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.simd import address

UNPACKED = 10**6  # multiply-adds up to which OpenBLAS multiplies without packing
LEAST = UNPACKED + 1  # from which a product is cut
LEAST_OF_A_VECTOR = 3 * 2**17  # the same for a matrix by a vector
LARGE = 2**17  # numbers in a matrix from which it is cut all the same: threads have them near
BLOCK = 512  # rows or columns in a block, so that packing the other matrix takes little of the time
SIDE = 16  # rows, columns or terms in a block: a multiple of that
CHAIN = 256  # terms of a long sum that one call adds up: less rounding
LONG = 8  # how many times longer than rows and columns sums are, if they are cut
MANY_TIMES = 32  # as many numbers in a and b as in c, if the pixels are cut
NAMES = "scipy_cblas_{}64_", "cblas_{}64_"  # with 64-bit sizes; in wheels of NumPy
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # of the C interface to BLAS
SINGLE = np.dtype(np.float32)
I1, I32 = ir.IntType(1), ir.IntType(32)


class Blocks(NamedTuple):
    """A product c = a @ b, or c += a @ b, in blocks."""

    gemm: int  # addresses of BLAS' functions
    gemv: int
    a: int  # and of the matrices
    b: int
    a_step: int  # numbers from row to row
    b_step: int
    a_turned: int  # whether it is the transpose that lies in memory
    b_turned: int
    rows: int  # of c
    inner: int
    cols: int
    adds: int
    cut: int  # into blocks of ROWS, COLS or TERMS
    count: int


ROWS, COLS, TERMS = range(3)


def alone(products):
    """A context for products of so many multiply-adds: BLAS stays on the thread that calls it."""
    if products <= FEW:
        return as_it_is
    return one_thread if address_of("gemm", SINGLE) else calm(products)


def matmul(a, b, out, adds=False):
    """out = a @ b, or out += a @ b, in the context `alone`.

    Parameters
    ----------
    a, b : (M, K), (K, N)
        Copied, if neither their rows nor their columns are contiguous numbers.
    out : (M, N), C-contiguous
        All of one dtype, float32 or float64.
    """
    (rows, inner), cols = a.shape, b.shape[1]
    gemm = much(rows, inner, cols) and address_of("gemm", a.dtype)
    if not gemm:
        return plain(a, b, out, adds)
    if rows == 1:
        matmul(b.T, a.T, out.T, adds)
        return out
    found = layout(a.shape, a.strides, b.shape, b.strides, a.itemsize)
    if found is None:
        return matmul(in_lines(a), in_lines(b), out, adds)
    lie, cut, count = found
    addresses = gemm, address_of("gemv", a.dtype), a.ctypes.data, b.ctypes.data
    g = Blocks(*addresses, *lie, rows, inner, cols, int(adds and cut != TERMS), cut, count)
    if cut != TERMS:
        multiply(count, out.reshape(-1), g)
        return out
    sums = empty((count, rows, cols), out.dtype)
    multiply(count, sums.reshape(-1), g)
    if adds:
        sums[0] += out
    return np.add.reduce(sums, axis=0, out=out)


def much(rows, inner, cols):
    """Whether a product is made on the kernels' threads."""
    products = rows * inner * cols
    if min(rows, cols) == 1:
        return max(rows, cols) > 1 and products >= LEAST_OF_A_VECTOR
    return products >= LEAST or max(rows * inner, inner * cols, rows * cols) >= LARGE


@functools.lru_cache(maxsize=4096)
def layout(a_shape, a_strides, b_shape, b_strides, itemsize):
    """(a_step, b_step, a_turned, b_turned), and how to cut; None if a matrix has no lines."""
    ours, theirs = lines(a_shape, a_strides, itemsize), lines(b_shape, b_strides, itemsize)
    if ours is None or theirs is None:
        return None
    (a_turned, a_step), (b_turned, b_step) = ours, theirs
    lie = a_step, b_step, a_turned, b_turned
    return lie, *blocks(*a_shape, b_shape[1], a_turned)


def lines(shape, strides, itemsize):
    """Whether a matrix' columns are its lines of contiguous numbers, and the step between lines.

    None, if it has no such lines or if they overlap. What lies beside a line that is alone, or in a
    line of one number, does not matter; NumPy gives any stride for it.
    """
    for turned, way in enumerate((1, -1)):
        (count, length), (step, along) = shape[::way], strides[::way]
        if length == 1 or along == itemsize:
            if count == 1:
                return turned, length
            if step >= length * itemsize and step % itemsize == 0:
                return turned, step // itemsize
    return None


def in_lines(a):
    """`a`, or a copy if it has no lines."""
    return np.ascontiguousarray(a) if lines(a.shape, a.strides, a.itemsize) is None else a


def blocks(rows, inner, cols, turned=False):
    """How a product is cut, and into how many blocks: a power of two.

    `turned` says that `a` is a transpose, as in the gradient of weights, where terms are pixels.
    They are then cut where there is little to add up.
    """
    size, cut = max((rows, ROWS), (cols, COLS))
    products = rows * inner * cols
    if turned and inner * (rows + cols) > MANY_TIMES * rows * cols:
        return TERMS, power_of_two(inner // BLOCK, CHUNKS)
    few = -(-products // UNPACKED)  # blocks
    if few <= CHUNKS and size >= SIDE * few:
        return cut, power_of_two(2 * few - 1, CHUNKS)
    if inner > LONG * size:
        return TERMS, power_of_two(inner // BLOCK, CHUNKS)
    return cut, power_of_two(min(size // BLOCK, products // UNPACKED), PARTS)


def power_of_two(n, most):
    """The largest of 2, 4, 8, ..., `most` that is not above n, or 2."""
    return min(most, 2 ** max(1, n.bit_length() - 1))


def plain(a, b, out, adds=False):
    """By NumPy, whose BLAS is slow where there is one term to a sum: an outer product."""
    if a.shape[1] == 1 and b.shape[1] >= SIDE and not adds:
        return np.multiply(a, b, out=out)
    if adds:
        out += a @ b
        return out
    return np.matmul(a, b, out=out)


@functools.cache
def address_of(function, dtype):
    """Where "gemm" or "gemv" for numbers of that dtype is in BLAS, or None."""
    full = f"{'s' if dtype == np.float32 else 'd'}{function}"
    for library in libraries():
        for name in NAMES:
            found = getattr(library.dynlib, name.format(full), None)
            if found is not None:
                return ctypes.cast(found, ctypes.c_void_p).value
    return None


@kernel
def multiply(k, c, g):
    """One block."""
    size = (g.rows, g.cols, g.inner)[g.cut]
    units = -(-size // SIDE)
    first, last = k * units // g.count * SIDE, min(size, (k + 1) * units // g.count * SIDE)
    n = last - first
    row, term = (1, g.a_step) if g.a_turned else (g.a_step, 1)
    if g.cut == ROWS:
        product(c, first * g.cols, first * row, 0, n, g.inner, g.cols, g, g.adds > 0)
    elif g.cut == COLS:
        column = g.b_step if g.b_turned else 1
        product(c, first, 0, first * column, g.rows, g.inner, n, g, g.adds > 0)
    else:
        o, next_b = k * g.rows * g.cols, 1 if g.b_turned else g.b_step
        for t in range(first, last, CHAIN):
            n = min(CHAIN, last - t)
            product(c, o, t * term, t * next_b, g.rows, n, g.cols, g, t > first)


@inlined
def product(c, o, i, j, rows, inner, cols, g, adds):
    """c[o ...] = a[i ...] @ b[j ...], or += if it adds: one call of BLAS."""
    if g.cols == 1:
        gemv(c, o, i, j, rows, inner, g, adds)
    else:
        gemm(c, o, i, j, rows, inner, cols, g, adds)


@intrinsic
def gemm(typing, c, o, i, j, rows, inner, cols, g, adds):
    """A product of matrices."""

    def emit(context, build, signature, values):
        array, o, i, j, rows, inner, cols, g, adds = values
        g, at = Blocks(*cgutils.unpack_tuple(build, g)), Numbers(context, build, c)
        given = [I32(ROW_MAJOR), as_stored(build, g.a_turned), as_stored(build, g.b_turned)]
        given += [rows, cols, inner, at.one, at.place(g.a, i), g.a_step, at.place(g.b, j), g.b_step]
        given += [build.select(adds, at.one, at.zero)]
        given += [address(context, build, signature.args[0], array, o), g.cols]
        call(build, g.gemm, given)
        return context.get_dummy_value()

    return types.void(c, *[types.intp] * 6, g, types.boolean), emit


@intrinsic
def gemv(typing, c, o, i, j, rows, inner, g, adds):
    """A product of a matrix and a vector, which is a column or a row where b lies."""

    def emit(context, build, signature, values):
        array, o, i, j, rows, inner, g, adds = values
        g, at = Blocks(*cgutils.unpack_tuple(build, g)), Numbers(context, build, c)
        turned = build.trunc(g.a_turned, I1)
        down, along = build.select(turned, inner, rows), build.select(turned, rows, inner)
        step = build.select(build.trunc(g.b_turned, I1), inner.type(1), g.b_step)
        given = [I32(ROW_MAJOR), as_stored(build, g.a_turned), down, along, at.one]
        given += [at.place(g.a, i), g.a_step, at.place(g.b, j), step]
        given += [build.select(adds, at.one, at.zero)]
        given += [address(context, build, signature.args[0], array, o), inner.type(1)]
        call(build, g.gemv, given)
        return context.get_dummy_value()

    return types.void(c, *[types.intp] * 5, g, types.boolean), emit


class Numbers:
    """Numbers like those of an array, in LLVM's language."""

    def __init__(self, context, build, array):
        self.build, kind = build, context.get_value_type(array.dtype)
        self.pointer = kind.as_pointer()
        self.one, self.zero = ir.Constant(kind, 1.0), ir.Constant(kind, 0.0)

    def place(self, start, offset):
        """The pointer to number `offset` behind the address `start`."""
        return self.build.gep(self.build.inttoptr(start, self.pointer), [offset])


def as_stored(build, turned):
    """What BLAS calls a matrix whose transpose lies in memory, or one that lies there itself."""
    return build.select(build.trunc(turned, I1), I32(TRANSPOSED), I32(AS_IT_IS))


def call(build, function, given):
    """Call what stands at an address."""
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
    build.call(build.inttoptr(function, kind.as_pointer()), given)
