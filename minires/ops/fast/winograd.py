"""3x3 convolution at stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3).

A 4x4 tile of the output depends on 6x6 pixels. Instead of 16 * 9 products per channel and filter,

    Y = A' [(G w G') * (B' x B)] A                                     (36 products)

where `'` is the transpose and `*` goes number by number. So there are three steps: transform the
tiles, multiply 36 small matrices (tiles x channels) @ (channels x filters), transform back. The
gradients are the same map read in other directions:

    forward          Y  = A' [U * V] A        U = G w G', V = B' x B
    weight gradient  dw = G' [V * dM] G       dM = A dY A'
    input gradient   a forward of dY with the weights turned round

The transforms (`transforms.py`) act on one register of channels at a time, so they are the formulas
of the paper written with `Vec`s, and take no multiplication by 36x16 matrices.

Layout. 16 tiles make a block, fewer where there are few. V and M are stored [register of channels]
[tile][36][lane], so that a transform writes one contiguous run and the products step from tile to
tile by a constant. How the tiles lie in the images: `tiles.py`.

Error. The transforms multiply by up to 8 * 8 and divide again: 1e-5 of the largest output in
float32, where the direct sum has 1e-6. In float64 the direct kernels run. NaN or infinity in a
pixel makes NaN of whole tiles, and numbers above 1e35 may overflow on the way.

Measured as `direct.py` was, counting the operations of the direct sum: 417, 561 and 649 GF/s, 1.8
to 2.8 times the ceiling.

References
----------
Lavin and Gray (2016), arXiv:1509.09308, section 4.
"""

import math

import numpy as np
from numba import get_thread_id

from minires.ops.fast.epilogue import NOTHING, After, join_block
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.keep import kept
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import LITTLE, WIDEST, clear, padded, turned
from minires.ops.fast.simd import ROWS, add_tile, lanes, load, outer_fixed, store, store_tile, zeros
from minires.ops.fast.tiles import (
    ask_for,
    parts_of,
    pixels_of,
    share_of,
    sizes,
    tiles_dy,
    tiles_in,
    tiles_out,
)
from minires.ops.fast.transforms import TILES, weight_in, weight_out

MOST_GRADIENTS = 2**15  # C * F up to which the weight gradient is faster here: dU is 4 MB then
FEWEST_TILES = 14  # that are full, in full registers; below, transforming weights takes too long
WIDE, FEWEST_WIDE = 16, 24  # the same where F > 16 C
FEWEST_PREPARED, MANY_WEIGHTS = 4, 2**14  # the same if they are kept
FEWEST_PRODUCTS = 2**12  # tiles * channels * filters from which a single call pays
FEWEST_AT_ONCE = 2**14  # the same if the weights are to be transformed, too
FEWEST = 8  # channels and filters from which it is faster than the direct kernels
SMALL = 2**15  # numbers for which other threads are not woken
CHAIN = 64  # channels added up in one register; of more, such sums are added: less rounding
NO_LINES = np.empty((3, 0), np.float32)


def pays(x_shape, x_dtype, w_shape, window, prepared=False):
    """Whether a convolution runs here: 3x3, stride 1, float32, enough channels and pixels.

    What is transformed are weights, so there must be tiles to use them, more where registers or
    tiles are not full. If weights are transformed once, for many images, fewer are enough.
    """
    C, F = w_shape[2:]
    tiles = x_shape[0] * -(-window.out[0] // 4) * -(-window.out[1] // 4)
    if prepared:
        enough = tiles >= (FEWEST_PREPARED if C * F < MANY_WEIGHTS else TILES)
    else:
        full = x_shape[0] * math.prod(window.out) / 16  # tiles, if all pixels of each were wanted
        used = full * C * F / (-(-C // WIDEST) * -(-F // WIDEST) * WIDEST**2)
        enough = used >= (FEWEST_TILES if F <= WIDE * C else FEWEST_WIDE)
        enough = enough and tiles * C * F >= FEWEST_AT_ONCE
    return (
        window.kernel == (3, 3)
        and window.stride == (1, 1)
        and x_dtype == np.float32
        and min(C, F) >= FEWEST
        and min(window.out) >= 3
        and enough
        and tiles * C * F >= FEWEST_PRODUCTS
    )


def gradient_pays(C, F):
    """Whether the weight gradient runs here too: dU must stay near while tiles are added to it."""
    return C * F <= MOST_GRADIENTS


def forward(x, weight, bias, window, other=None, relu=False, moments=None, lines=NO_LINES):
    """y = bias + x correlated with weight, then + other and ReLU if asked for.

    Parameters
    ----------
    moments : Moments, optional
        Gets mean and squares of the output, for the batch norm behind it.
    lines : (3, C) array, optional
        Coefficients of a batch norm: relu(batchnorm(x)) is convolved, and never stored as a whole.
    """
    after = After(other is not None, relu, moments is not None)
    return prepared(x.shape, weight, bias, window, after)(x, other, moments, lines)


def prepared(x_shape, weight, bias, window, after):
    """`forward` of images of one shape: what depends on shapes and weights alone is made now."""
    y_shape = x_shape[0], *window.out, weight.shape[3]
    s = sizes(x_shape, y_shape, window.padding, after.measures)
    U = kept("winograd", weight, lambda weight: transformed(weight, s))
    correlate = correlation(x_shape[0], U, bias, s, after)

    def forward(x, other=None, moments=None, lines=NO_LINES):
        y = empty(y_shape, x.dtype)
        correlate(x, y, other, moments, lines)
        return y

    return forward


def input_gradient(shape, weight, dy, window, other=None):
    """dx, a correlation of dy with the weights turned round, plus `other`."""
    (top, _), (left, _) = window.padding
    dx = empty(shape, dy.dtype)
    s = sizes(dy.shape, shape, ((2 - top, 0), (2 - left, 0)))
    U = transformed(turned(weight), s)
    bias = padded(np.zeros(shape[3], dy.dtype))
    correlation(len(dy), U, bias, s, After(other is not None, False, False))(dy, dx, other)
    return dx


def correlation(N, U, bias, s, after):
    """A function that writes bias + correlation to y, whose size says which pixels are wanted."""
    work = scratch(U.dtype, s.work)
    little = 36 * s.blocks * s.block * s.cs * s.fs < LITTLE // 4
    run = convolve.alone if little else convolve

    def correlate(x, y, other=None, moments=None, lines=NO_LINES):
        other = bias if other is None else other.reshape(-1)
        given = x.reshape(-1), lines, U, bias, other, y.reshape(-1)
        run(s.chunks, *given, *(moments or NOTHING), N, s, after, work)

    return correlate


def weight_gradient(x, dy, window, lines=NO_LINES):
    """dweight and dbias; with `lines`, of a convolution of relu(batchnorm(x))."""
    s = sizes(x.shape, dy.shape, window.padding)
    blocks = -(-len(x) * s.down * s.across // TILES)
    parts = gradient_parts(blocks, s)
    dw, db = empty((parts, 9 * s.cs * s.fs), x.dtype), empty((parts, s.fs), x.dtype)
    work = scratch(x.dtype, s.work + 36 * s.gradient_step)
    little = 36 * blocks * TILES * s.cs * s.fs < LITTLE // 4
    run = correlate_gradient.alone if little else correlate_gradient
    run(parts, x.reshape(-1), lines, dy.reshape(-1), len(x), dw, db, s, work)
    return added_up(dw, db, s)


def gradient_parts(blocks, s):
    """Into how many parts the blocks are cut; dU is cleared and transformed once for each."""
    several = 1 if s.cs * s.fs <= SMALL // 36 else 4
    return max(1, min(CHUNKS, blocks // several))


def added_up(dw, db, s):
    """dweight and dbias from their parts."""
    total, bias = empty((3, 3, s.cs, s.fs), dw.dtype), empty((s.fs,), db.dtype)
    run = add_parts.alone if dw.size < SMALL else add_parts.aside
    run(PARTS, dw, total.reshape(-1), db, bias)
    if (s.cs, s.fs) != (s.C, s.F):
        total = np.ascontiguousarray(total[:, :, : s.C, : s.F])
    return total, bias[: s.F]


# ---- weights


def transformed(weight, s):
    """U (36, panels of filters, channels, filters) of weights (3, 3, C, F), in one dimension."""
    if s.fs != s.F or not weight.flags.c_contiguous:
        full = np.zeros((3, 3, s.C, s.fs), weight.dtype)
        full[..., : s.F] = weight
        weight = full
    U = empty((36 * s.step,), weight.dtype)
    run = transform_weight.alone if U.size < SMALL else transform_weight.aside
    run(s.cs, weight.reshape(-1), s, U)
    return U


@kernel
def transform_weight(c, weight, s, U):
    """U[e] (channels, filters) = (G w G')[e], in panels: [e][panel][channel][lane].

    Lanes behind the last filter are never read.
    """
    v = lanes(weight)
    width = 2 * v
    blocks = -(-s.fs // width)
    for f in range(0, blocks * width, v):
        o = (f // width * s.cs + c) * width + f % width
        if c < s.C and f < s.fs:
            weight_in(weight, c * s.fs + f, s.C * s.fs, U, o, s.step)
        elif c >= s.C:
            for e in range(36):
                clear(U, o + e * s.step, v)


@inlined
def transform_gradient(dU, dw, s):
    """dw (3, 3, channels, filters) = G' dU G."""
    for o in range(0, s.cs * s.fs, lanes(dU)):
        weight_out(dU, o, s.gradient_step, dw, o, s.cs * s.fs)


@kernel
def add_parts(k, parts, total, bias_parts, bias):
    """Run k of total = parts[0] + parts[1] + ..., and all of bias likewise."""
    for j in range(k * total.size // PARTS, (k + 1) * total.size // PARTS):
        add_column(parts, j, total)
    for j in range(bias.size if k == 0 else 0):
        add_column(bias_parts, j, bias)


@inlined
def add_column(parts, j, total):
    """total[j] = parts[0, j] + parts[1, j] + ..."""
    t = parts[0, j]
    for i in range(1, len(parts)):
        t += parts[i, j]
    total[j] = t


# ---- the 36 products, and the kernels


def product_of_tiles(rows, cols):
    """M = V @ U for `rows` tiles and `cols` registers of filters, summed over the channels."""

    @inlined
    def product(V, i, U, j, M, o, channels):
        v = lanes(V)
        for first in range(0, channels, CHAIN):
            t = zeros(V, rows, cols)
            for c in range(first, min(first + CHAIN, channels), v):
                for k in range(0, v, 2):  # two, for the loop itself costs as much as a load
                    a, b = i + c * TILES * 36 + k, j + (c + k) * 2 * v
                    t = outer_fixed(t, V, a, 36 * v, U, b, v)
                    t = outer_fixed(t, V, a + 1, 36 * v, U, b + 2 * v, v)
            if first == 0:
                store_tile(t, M, o, 36 * v, TILES * 36 * v)
            else:
                add_tile(t, M, o, 36 * v, TILES * 36 * v)

    return product


def product_of_channels(rows, cols):
    """dU += V' @ dM for `rows` channels and `cols` registers of filters, summed over the tiles."""

    @inlined
    def product(V, i, M, j, dU, o, filters, tiles):
        v = lanes(V)
        t = zeros(V, rows, cols)
        for k in range(tiles):
            t = outer_fixed(t, V, i + k * 36 * v, 1, M, j + k * 36 * v, TILES * 36 * v)
        add_tile(t, dU, o, filters, v)

    return product


wide_tiles, tall_tiles = product_of_tiles(ROWS, 2), product_of_tiles(2 * ROWS, 1)
few_tiles = product_of_tiles(ROWS // 2, 2)
wide_channels, tall_channels = product_of_channels(ROWS, 2), product_of_channels(ROWS, 1)


@inlined
def in_place(V, tiles, s):
    """Whether M is written over V, so that more stays in the L1 cache.

    M must fit in, and there may be one panel of filters only: for a second one V[e] is read again.
    (Of more than CHAIN channels the first sums are stored where those channels were.) And no tile
    of the block may be missing: those that are missing are multiplied, too, and what lies there
    would be multiplied again in the next block, and again, down to numbers that CPUs are slow at.
    """
    return tiles == TILES and s.fs <= min(s.cs, 2 * lanes(V))


@inlined
def multiply(V, U, M, first, tiles, filters, x, y, s):
    """M[e] = V[e] @ U[e] for the tiles of a block and filters (first, last); M may be V.

    Meanwhile the pixels of y that are written next are asked for, and those of x a band ahead.
    """
    v = lanes(V)
    written = share_of(y, first, tiles, s.OH * s.OW * s.F, s)
    read = share_of(x, first + s.deep * s.across, tiles, s.H * s.W * s.C, s)
    for e in range(36):
        ask_for(y, written, e)
        ask_for(x, read, e)
        for f in range(filters[0], filters[1], 2 * v):
            j, o = e * s.step + f * s.cs, f * TILES * 36 + e * v
            if f + v < filters[1] and tiles <= ROWS // 2:  # a single image of 8x8
                few_tiles(V, e * v, U, j, M, o, s.cs)
            elif f + v < filters[1]:
                for r in range(0, tiles, ROWS):
                    wide_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)
            else:
                for r in range(0, tiles, 2 * ROWS):
                    tall_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)


@inlined
def multiply_gradient(V, M, dU, first, tiles, x, dy, s):
    """dU[e] += V[e]' @ dM[e] over the tiles of a block."""
    v = lanes(V)
    next_dy = share_of(dy, first + tiles, tiles, s.OH * s.OW * s.F, s)
    read = share_of(x, first + s.deep * s.across, tiles, s.H * s.W * s.C, s)
    for e in range(36):
        ask_for(dy, next_dy, e)
        ask_for(x, read, e)
        for c in range(0, s.cs, v):
            i = c * TILES * 36 + e * v
            for f in range(0, s.fs, 2 * v):
                j, o = f * TILES * 36 + e * v, e * s.gradient_step + c * s.fs + f
                for r in range(0, v, ROWS):
                    if f + v < s.fs:
                        wide_channels(V, i + r, M, j, dU, o + r * s.fs, s.fs, tiles)
                    else:
                        tall_channels(V, i + r, M, j, dU, o + r * s.fs, s.fs, tiles)


@kernel
def convolve(chunk, x, lines, U, bias, other, y, parts, counts, N, s, after, work):
    """y = bias + x correlated with the transformed weights, finished, and measured into parts."""
    tiles = N * s.down * s.across
    V, M, band, rest = parts_of(work[get_thread_id()], s)
    sums, edge = rest[: 3 * s.fs], rest[3 * s.fs :]
    held, block, seen = -1, -1, 0
    items = s.blocks * s.shares
    for item in range(chunk * items // s.chunks, (chunk + 1) * items // s.chunks):
        first = item // s.shares * s.block
        here = min(s.block, tiles - first)
        f = item % s.shares * s.share
        filters = f, min(f + s.share, s.fs)
        if block != item // s.shares:
            block = item // s.shares
            held = tiles_in(x, lines, first, here, band, held, V, s)
        product = V if in_place(V, here, s) else M
        multiply(V, U, product, first, here, filters, x, y, s)
        tiles_out(product, first, here, filters, (bias, other), y, edge, s, after, sums)
        if after.measures:
            seen = join_block(sums, pixels_of(first, here, s), parts[chunk], seen)
    if after.measures:
        counts[chunk] = seen


@kernel
def correlate_gradient(k, x, lines, dy, N, dw, db, s, work):
    """Part k of dw (9 * channels * filters) and of db: the sum over its blocks, in their order."""
    parts = len(db)
    tiles = N * s.down * s.across
    blocks = -(-tiles // TILES)
    space = work[get_thread_id()]
    V, M, band, dy_band = parts_of(space[: s.work], s)
    dU, dbk, held = space[s.work : s.work + 36 * s.gradient_step], db[k], -1
    clear(dU, 0, dU.size)
    clear(dbk, 0, dbk.size)
    for block in range(k * blocks // parts, (k + 1) * blocks // parts):
        first = block * TILES
        here = min(TILES, tiles - first)
        held = tiles_in(x, lines, first, here, band, held, V, s)
        tiles_dy(dy, first, here, dy_band, M, s)
        multiply_gradient(V, M, dU, first, here, x, dy, s)
        add_bias_gradient(M, here, dbk, s)
    transform_gradient(dU, dw[k], s)


@inlined
def add_bias_gradient(M, tiles, db, s):
    """The sum of dY over a tile is dM[1, 1]: row 1 of A adds up."""
    v = lanes(M)
    for f in range(0, s.fs, v):
        total = load(M, f * TILES * 36 + 7 * v)
        for t in range(1, tiles):
            total = total + load(M, f * TILES * 36 + (t * 36 + 7) * v)
        store(db, f, load(db, f) + total)
