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
threadpoolctl finds. Where there is none (NumPy with another BLAS), NumPy multiplies.
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
from minires.ops.fast.jit import CHUNKS, PARTS, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.simd import address

LEAST = 2**20  # multiply-adds from which a product is cut
LARGE = 2**17  # numbers in a matrix from which it is cut all the same: threads have them near
BLOCK = 512  # rows or columns in a block, so that packing the other matrix takes little of the time
UNPACKED = 10**6  # multiply-adds up to which OpenBLAS multiplies without packing
SIDE = 16  # rows, columns or terms in a block: a multiple of that
CHAIN = 256  # terms of a long sum that one call adds up: less rounding
LONG = 8  # how many times longer than rows and columns sums are, if they are cut
MANY_TIMES = 32  # as many numbers in a and b as in c, if the pixels are cut
NAMES = "scipy_cblas_{}gemm64_", "cblas_{}gemm64_"  # with 64-bit sizes; in wheels of NumPy
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # of the C interface to BLAS
SINGLE = np.dtype(np.float32)
I1, I32 = ir.IntType(1), ir.IntType(32)


class Blocks(NamedTuple):
    """A product c = a @ b, or c += a @ b, in blocks."""

    gemm: int  # addresses
    a: int
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
    return one_thread if address_of_gemm(SINGLE) else calm(products)


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
    gemm = much(rows, inner, cols) and address_of_gemm(a.dtype)
    if not gemm:
        return plain(a, b, out, adds)
    (a, a_turned, a_step), (b, b_turned, b_step) = lines(a), lines(b)
    cut, count = blocks(rows, inner, cols, a_turned)
    g = Blocks(
        *(gemm, a.ctypes.data, b.ctypes.data, a_step, b_step, a_turned, b_turned),
        *(rows, inner, cols, int(adds and cut != TERMS), cut, count),
    )
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
    largest = max(rows * inner, inner * cols, rows * cols)
    return largest >= LARGE or rows * inner * cols >= LEAST


def lines(a):
    """`a`, whether its columns are its lines of contiguous numbers, and the step between lines.

    A copy, if it has no such lines or if they overlap. The step of a line that is alone may be
    anything; BLAS expects at least its length.
    """
    (rows, cols), (down, along) = a.shape, (stride // a.itemsize for stride in a.strides)
    if not any(stride % a.itemsize for stride in a.strides):
        if (along == 1 or cols == 1) and (down >= cols or rows == 1):
            return a, 0, max(down, cols)
        if (down == 1 or rows == 1) and along >= rows:
            return a, 1, along
    return np.ascontiguousarray(a), 0, cols


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


def plain(a, b, out, adds):
    """By NumPy, whose BLAS is slow where there is one term to a sum: an outer product."""
    if a.shape[1] == 1 and b.shape[1] >= SIDE and not adds:
        return np.multiply(a, b, out=out)
    if adds:
        out += a @ b
        return out
    return np.matmul(a, b, out=out)


@functools.cache
def address_of_gemm(dtype):
    """Where BLAS' matrix product for numbers of that dtype is, or None."""
    letter = "s" if dtype == np.float32 else "d"
    for library in libraries():
        for name in NAMES:
            function = getattr(library.dynlib, name.format(letter), None)
            if function is not None:
                return ctypes.cast(function, ctypes.c_void_p).value
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
        gemm(c, first * g.cols, first * row, 0, n, g.inner, g.cols, g, g.adds > 0)
    elif g.cut == COLS:
        gemm(
            c, first, 0, first * (g.b_step if g.b_turned else 1), g.rows, g.inner, n, g, g.adds > 0
        )
    else:
        o, next_b = k * g.rows * g.cols, 1 if g.b_turned else g.b_step
        for t in range(first, last, CHAIN):
            n = min(CHAIN, last - t)
            gemm(c, o, t * term, t * next_b, g.rows, n, g.cols, g, t > first)


@intrinsic
def gemm(typing, c, o, i, j, rows, inner, cols, g, adds):
    """c[o ...] = a[i ...] @ b[j ...], or += if it adds: one call of BLAS."""

    def emit(context, build, signature, values):
        array, o, i, j, rows, inner, cols, g, adds = values
        number = context.get_value_type(c.dtype)
        pointer, g = number.as_pointer(), Blocks(*cgutils.unpack_tuple(build, g))

        def turned(flag):
            return build.select(build.trunc(flag, I1), I32(TRANSPOSED), I32(AS_IT_IS))

        def at(start, offset):
            return build.gep(build.inttoptr(start, pointer), [offset])

        one, zero = ir.Constant(number, 1.0), ir.Constant(number, 0.0)
        given = [I32(ROW_MAJOR), turned(g.a_turned), turned(g.b_turned), rows, cols, inner, one]
        given += [at(g.a, i), g.a_step, at(g.b, j), g.b_step]
        given += [build.select(adds, one, zero)]
        given += [address(context, build, signature.args[0], array, o), g.cols]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        build.call(build.inttoptr(g.gemm, kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(c, *[types.intp] * 6, g, types.boolean), emit
