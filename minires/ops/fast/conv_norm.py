"""Both gradients of a convolution in one pass over the gradient behind its batch norm.

On the way back through norm(conv(x)), the norm's second pass writes the gradient dy of the
convolution's output, and then two kernels read it: one for dx, one for dweight. Here dy is never
stored. A band of it is made from the gradient behind the norm as it is read, and its tiles are
transformed twice, once for each gradient:

    apart       norm: 2 images in, 1 out    dx: 1 in, 1 out    dweight: 2 in
    together    3 in (the norm's x, the gradient behind it, x), 1 out (dx)

The sums over the batch that the norm's gradient needs are a pass of their own, before this one. But
if x is a norm, too (of the two convolutions of a block the second normalises what the first wrote),
the sums for its gradient are made of the tiles of dx while they are in the cache, and its own pass
is left out.
The arithmetic is that of `batchnorm.py` and `winograd.py`, number for number, but for those sums,
which are added in another order.

Measured, with a pass for the sums, behind a ReLU and with `other`, 128 images: 3.9 ms for 32x32x16
where the kernels apart take 4.4, 2.6 for 16x16x32 where they take 2.9; 2.9 for 8x8x64 where they
take 2.8, so these stay apart (medians of 25 in two turns; Intel Xeon with AVX-512, 2 threads,
2026-11-30).
"""

import itertools

import numpy as np
from numba import get_thread_id

from minires.ops.fast import winograd
from minires.ops.fast.batchnorm import add_masked
from minires.ops.fast.epilogue import After
from minires.ops.fast.jit import inlined, kernel
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import WIDEST, affine, clear, turned
from minires.ops.fast.simd import lane, lanes, same
from minires.ops.fast.tiles import (
    FEW_TILES,
    place_of,
    sizes,
    step,
    tiles_in,
    tiles_of_gradient,
    tiles_out,
)
from minires.ops.fast.transforms import TILES

MOST_WEIGHTS = 2**10  # C * F up to which U, dU and three blocks of tiles stay in the L2 cache


def pays(x_shape, w_shape, window):
    """Whether both gradients of a convolution that runs in `winograd.py` are computed here."""
    (N, H, W, C), F = x_shape, w_shape[3]
    return (
        window.padding == ((1, 1), (1, 1))
        and C % WIDEST == F % WIDEST == 0
        and C * F <= MOST_WEIGHTS
        and N * -(-H // 4) * -(-W // 4) > FEW_TILES
    )


def gradients(given, lines, masks, x, weight, x_lines, other=None):
    """dx, plus `other`, dweight and dbias.

    Parameters
    ----------
    given : (a, d), (N, H, W, F) float32 each
        The output of the convolution, and the gradient behind the norm, or behind its ReLU.
    lines : (5, F) float32
        The norm's coefficients on the way back.
    masks : bool
        Whether d is behind a ReLU.
    x : (N, H, W, C) float32
    weight : (3, 3, C, F) float32
    x_lines : (3, C) or (3, 0) float32
        (3, C): relu(batchnorm(x)) was convolved, with these coefficients; (3, 0): x itself.
    other : (N, H, W, C) float32, optional

    Returns
    -------
    dx, dweight, dbias
    sums : (parts, 2, C) float64, or None
        With x_lines, for the gradient of that batch norm: of what is returned as dx where the ReLU
        let pass, and of the same times x - mean.
    """
    back = sizes(given[0].shape, x.shape, ((1, 0), (1, 0)))  # of dx
    s = sizes(x.shape, given[0].shape, ((1, 0), (1, 0)))  # of dweight
    blocks = -(-len(x) * s.down * s.across // TILES)
    parts = winograd.gradient_parts(blocks, s)
    dw, db = empty((parts, 9 * s.cs * s.fs), x.dtype), empty((parts, s.fs), x.dtype)
    bias = np.zeros(s.C, x.dtype)
    U = winograd.transformed(turned(weight), back)
    dx = empty(x.shape, x.dtype)
    after = After(other is not None, False, False)
    other = bias if other is None else other.reshape(-1)
    images = *(image.reshape(-1) for image in (*given, x)), other, dx.reshape(-1)
    sums = np.zeros((parts, 2, x_lines.shape[1]))
    norms, results = (lines, masks, x_lines), (dw, db, sums)
    cuts = cuts_of_work(back, s)
    work = scratch(x.dtype, cuts[-1])
    both(parts, images, norms, U, bias, results, len(x), back, s, after, work, cuts)
    return dx, *winograd.added_up(dw, db, s), sums if sums.size else None


def cuts_of_work(back, s):
    """Where V, M, dM, the bands of dy and x, an edge and dU end in the working memory."""
    most = TILES * 36 * max(s.C, s.F)
    bands = (4 * back.deep + 2) * back.width * s.F, (4 * s.deep + 2) * s.width * s.C
    rest = 16 * s.C, 36 * s.gradient_step
    return tuple(itertools.accumulate((most, most, TILES * 36 * s.F, *bands, *rest)))


@kernel
def both(k, images, norms, U, bias, results, N, back, s, after, work, cuts):
    """Part k of dw, db and sums, and its tiles of dx."""
    (a, d, x, other, dx), (lines, masks, x_lines), (dw, db, sums) = images, norms, results
    parts = len(db)
    tiles = N * s.down * s.across
    blocks = -(-tiles // TILES)
    V, M, dM, dy_band, x_band, edge, dU = carve(work[get_thread_id()], cuts)
    dbk, held_dy, held_x = db[k], -1, -1
    clear(dU, 0, dU.size)
    clear(dbk, 0, dbk.size)
    for block in range(k * blocks // parts, (k + 1) * blocks // parts):
        first = block * TILES
        here = min(TILES, tiles - first)
        of_dy = first, here, dy_band, held_dy, V, dM, back
        held_dy = tiles_of_gradient((a, d), lines, masks, *of_dy)
        product = V if winograd.in_place(V, here, back) else M
        winograd.multiply(V, U, product, first, here, (0, s.C), dx, d, back)
        tiles_out(product, first, here, (0, s.C), (bias, other), dx, edge, back, after, edge)
        held_x = tiles_in(x, x_lines, first, here, x_band, held_x, V, s)
        if x_lines.shape[1] > 0:
            add_sums(dx, x, x_lines, first, here, sums[k], s)
        winograd.multiply_gradient(V, dM, dU, first, here, x, a, s)
        winograd.add_bias_gradient(dM, here, dbk, s)
    winograd.transform_gradient(dU, dw[k], s)


@inlined
def carve(work, cuts):
    """The working memory in its parts."""
    i, j, k, n, m, o, end = cuts
    bands = work[k:n], work[n:m]
    return work[:i], work[i:j], work[j:k], *bands, work[m:o], work[o:end]


@inlined
def add_sums(dx, x, lines, first, tiles, sums, s):
    """sums (2, C) += those of `batchnorm.masked_sums` over the pixels of some tiles."""
    v, arrays = lanes(x), (x, dx, x, dx)
    for f in range(0, s.C, v):
        coefficients = affine(lines, f)
        s1 = q1 = s2 = q2 = s3 = q3 = s4 = q4 = same(x, 0)
        n, i, j = place_of(first, s)
        for _ in range(tiles):
            rows, cols = min(4, s.H - 4 * i), min(4, s.W - 4 * j)
            for r in range(rows):
                p = ((n * s.H + 4 * i + r) * s.W + 4 * j) * s.C + f
                if cols == 4:
                    s1, q1 = add_masked(s1, q1, arrays, p, coefficients)
                    s2, q2 = add_masked(s2, q2, arrays, p + s.C, coefficients)
                    s3, q3 = add_masked(s3, q3, arrays, p + 2 * s.C, coefficients)
                    s4, q4 = add_masked(s4, q4, arrays, p + 3 * s.C, coefficients)
                else:
                    for c in range(cols):
                        s1, q1 = add_masked(s1, q1, arrays, p + c * s.C, coefficients)
            n, i, j = step(n, i, j, s)
        total, product = (s1 + s2) + (s3 + s4), (q1 + q2) + (q3 + q4)
        for c in range(v):
            sums[0, f + c] += lane(total, c)
            sums[1, f + c] += lane(product, c)
