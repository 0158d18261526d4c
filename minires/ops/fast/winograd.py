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

Layout. 16 tiles make a block. V and M are stored [register of channels][tile][36][lane], so that
a transform writes one contiguous run and the products step from tile to tile by a constant.
Images are read through a band of rows, copied with its zero border; tiles that hang over the
edge of the output are computed and cut.

Error. The transforms multiply by up to 8 * 8 and divide again: 1e-5 of the largest output in
float32, where the direct sum has 1e-6. In float64 the direct kernels run.

References
----------
Lavin and Gray (2016), arXiv:1509.09308, section 4.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minires.ops.fast.epilogue import NOTHING, After, finish, join_block, measure, sample
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.keep import kept
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import LITTLE, clear, copy, copy_rows, padded, panel_width, turned
from minires.ops.fast.simd import (
    ROWS,
    add_tile,
    lanes,
    load,
    outer,
    prefetch,
    store,
    store_tile,
    zeros,
)
from minires.ops.fast.transforms import (
    TILES,
    tile_dy,
    tile_in,
    tile_out,
    weight_in,
    weight_out,
)

FEW_TILES = 2 * TILES  # up to which blocks are small
BAND = 24 * 1024  # numbers in the band, about: with V and M it stays in the L2 cache
MOST_GRADIENTS = 2**15  # C * F up to which the weight gradient is faster here: dU is 4 MB then
FEWEST_TILES, MANY_WEIGHTS = 4, 2**14  # below, transforming the weights takes too long
FEWEST = 8  # channels and filters from which it is faster than the direct kernels
LINE = 16  # numbers in a line of the cache
SMALL = 2**15  # numbers for which other threads are not woken


def pays(x_shape, x_dtype, w_shape, window):
    """Whether a convolution runs here: 3x3, stride 1, float32, enough channels and pixels."""
    C, F = w_shape[2:]
    tiles = x_shape[0] * -(-window.out[0] // 4) * -(-window.out[1] // 4)
    return (
        window.kernel == (3, 3)
        and window.stride == (1, 1)
        and x_dtype == np.float32
        and min(C, F) >= FEWEST
        and min(window.out) >= 3
        and tiles >= (FEWEST_TILES if C * F < MANY_WEIGHTS else TILES)
    )


def gradient_pays(C, F):
    """Whether the weight gradient runs here too: dU must stay near while tiles are added to it."""
    return C * F <= MOST_GRADIENTS


class Sizes(NamedTuple):
    """What the kernels need to know about one convolution."""

    H: int
    W: int
    C: int
    OH: int
    OW: int
    F: int
    top: int
    left: int
    down: int  # tiles below each other
    across: int  # and beside each other
    width: int  # pixels in a row of the band
    deep: int  # rows of tiles in the band
    cs: int  # channels, rounded up to whole registers
    fs: int  # filters, rounded up likewise
    step: int  # numbers in one of the 36 matrices of U
    gradient_step: int  # and of dU
    block: int  # tiles computed at a time
    blocks: int  # in all images
    share: int  # filters computed at a time
    shares: int  # of a block
    chunks: int  # into which the shares of all blocks are cut
    work: int  # numbers of working memory: V, M or dM, a band of x, a band of dy or tile of y, sums


@functools.lru_cache(maxsize=1024)
def sizes(x_shape, y_shape, padding, whole=False):
    """The Sizes of a convolution.

    A matrix of U or dU ends with one register more than it needs: if the 36 were a power of two
    apart, all would want the same few places of the cache. Where there are few tiles, blocks are
    small and threads share the filters of a block, unless they are wanted as a `whole`.
    """
    N, H, W, C = x_shape
    _, OH, OW, F = y_shape
    (top, _), (left, _) = padding
    down, across = -(-OH // 4), -(-OW // 4)
    panel = panel_width(np.float32)
    v = panel // 2
    cs, fs = -(-C // v) * v, -(-F // v) * v
    width = 4 * across + 2
    tiles = N * down * across
    block = ROWS if tiles <= FEW_TILES else TILES
    blocks, panels = -(-tiles // block), -(-F // panel)
    shares = 1 if whole else min(panels, max(1, CHUNKS // blocks))
    share = -(-panels // shares) * panel
    chunks = min(PARTS, blocks * shares)
    run = -(-blocks // chunks) * block  # tiles in a chunk
    rows = -(-run // across) + (run % across > 0)
    deep = max(1, min(down, rows, BAND // (4 * width * cs)))
    return Sizes(
        H,
        W,
        C,
        OH,
        OW,
        F,
        top,
        left,
        down,
        across,
        width,
        deep,
        cs,
        fs,
        step=cs * panels * panel + v,
        gradient_step=cs * fs + v,
        block=block,
        blocks=blocks,
        share=share,
        shares=-(-fs // share),
        chunks=chunks,
        work=TILES * 36 * (cs + fs) + (4 * deep + 2) * width * cs + 16 * across * fs + 3 * fs,
    )


def forward(x, weight, bias, window, other=None, relu=False, moments=None):
    """y = bias + x correlated with weight, then + other and ReLU if asked for.

    Parameters
    ----------
    moments : Moments, optional
        Gets mean and squares of the output, for the batch norm behind it.
    """
    y = empty((len(x), *window.out, weight.shape[3]), x.dtype)
    s = sizes(x.shape, y.shape, window.padding, moments is not None)
    U = kept("winograd", weight, lambda weight: transformed(weight, s))
    correlate(x, U, bias, y, s, other, relu, moments)
    return y


def input_gradient(shape, weight, dy, window, other=None):
    """dx, a correlation of dy with the weights turned round, plus `other`."""
    (top, _), (left, _) = window.padding
    dx = empty(shape, dy.dtype)
    s = sizes(dy.shape, shape, ((2 - top, 0), (2 - left, 0)))
    U = transformed(turned(weight), s)
    correlate(dy, U, padded(np.zeros(shape[3], dy.dtype)), dx, s, other)
    return dx


def correlate(x, U, bias, y, s, other=None, relu=False, moments=None):
    """Write bias + correlation to y, whose size says how many pixels are wanted."""
    after = After(other is not None, relu, moments is not None)
    other = bias if other is None else other.reshape(-1)
    parts, counts = NOTHING if moments is None else moments
    work = scratch(x.dtype, s.work)
    given = x.reshape(-1), U, bias, other
    run = convolve.alone if 36 * s.blocks * s.block * s.cs * s.fs < LITTLE else convolve
    run(s.chunks, *given, y.reshape(-1), parts, counts, len(x), s, after, work)


def weight_gradient(x, dy, window):
    """dweight and dbias."""
    s = sizes(x.shape, dy.shape, window.padding)
    blocks = -(-len(x) * s.down * s.across // TILES)
    several = 1 if s.cs * s.fs <= SMALL // 36 else 4  # dU is cleared and added once for each part
    parts = max(1, min(CHUNKS, blocks // several))
    dU = empty((parts, 36 * s.gradient_step), x.dtype)
    db = empty((parts, s.fs), x.dtype)
    work = scratch(x.dtype, s.work)
    little = 36 * blocks * TILES * s.cs * s.fs < LITTLE
    run = correlate_gradient.alone if little else correlate_gradient
    run(parts, x.reshape(-1), dy.reshape(-1), len(x), dU, db, s, work)
    dw = empty((3, 3, s.cs, s.fs), x.dtype)
    run = gradient_of_weight.alone if dU.size < SMALL else gradient_of_weight.aside
    run(s.cs, dU.reshape(-1), parts, s, dw.reshape(-1), work)
    if (s.cs, s.fs) != (s.C, s.F):
        dw = np.ascontiguousarray(dw[:, :, : s.C, : s.F])
    return dw, db.sum(axis=0)[: s.F]


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


@kernel
def gradient_of_weight(c, dU, parts, s, dw, work):
    """dw (3, 3, channels, filters) = G' dU G, dU summed over its parts in their order."""
    v = lanes(dU)
    S = work[get_thread_id()]
    for f in range(0, s.fs, v):
        o = c * s.fs + f
        for e in range(36):
            total = load(dU, e * s.gradient_step + o)
            for k in range(1, parts):
                total = total + load(dU, (k * 36 + e) * s.gradient_step + o)
            store(S, e * v, total)
        weight_out(S, dw, o, s.cs * s.fs)


# ---- the 36 products


def product_of_tiles(rows, cols):
    """M = V @ U for `rows` tiles and `cols` registers of filters, summed over the channels."""

    @inlined
    def product(V, i, U, j, M, o, channels):
        v = lanes(V)
        t = zeros(V, rows, cols)
        for c in range(0, channels, v):
            for k in range(v):
                t = outer(t, V, i + c * TILES * 36 + k, 36 * v, U, j + (c + k) * 2 * v, v)
        store_tile(t, M, o, 36 * v, TILES * 36 * v)

    return product


def product_of_channels(rows, cols):
    """dU += V' @ dM for `rows` channels and `cols` registers of filters, summed over the tiles."""

    @inlined
    def product(V, i, M, j, dU, o, filters, tiles):
        v = lanes(V)
        t = zeros(V, rows, cols)
        for k in range(tiles):
            t = outer(t, V, i + k * 36 * v, 1, M, j + k * 36 * v, TILES * 36 * v)
        add_tile(t, dU, o, filters, v)

    return product


wide_tiles, tall_tiles = product_of_tiles(ROWS, 2), product_of_tiles(2 * ROWS, 1)
wide_channels, tall_channels = product_of_channels(ROWS, 2), product_of_channels(ROWS, 1)


@inlined
def multiply(V, U, M, tiles, filters, s):
    """M[e] = V[e] @ U[e] for the tiles of a block and filters (first, last)."""
    v = lanes(V)
    for e in range(36):
        for f in range(filters[0], filters[1], 2 * v):
            j, o = e * s.step + f * s.cs, f * TILES * 36 + e * v
            if f + v < filters[1]:
                for r in range(0, tiles, ROWS):
                    wide_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)
            else:
                for r in range(0, tiles, 2 * ROWS):
                    tall_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)


@inlined
def multiply_gradient(V, M, dU, tiles, s):
    """dU[e] += V[e]' @ dM[e] over the tiles of a block."""
    v = lanes(V)
    for e in range(36):
        for c in range(0, s.cs, v):
            i = c * TILES * 36 + e * v
            for f in range(0, s.fs, 2 * v):
                j, o = f * TILES * 36 + e * v, e * s.gradient_step + c * s.fs + f
                for r in range(0, v, ROWS):
                    if f + v < s.fs:
                        wide_channels(V, i + r, M, j, dU, o + r * s.fs, s.fs, tiles)
                    else:
                        tall_channels(V, i + r, M, j, dU, o + r * s.fs, s.fs, tiles)


# ---- blocks of tiles


@inlined
def parts_of(work, s):
    """The working memory, carved up: V, M, band of x, rest."""
    i = TILES * 36 * s.cs
    j = i + TILES * 36 * s.fs
    k = j + (4 * s.deep + 2) * s.width * s.cs
    return work[:i], work[i:j], work[j:k], work[k:]


@inlined
def place_of(tile, s):
    """Image, row and column of a tile."""
    row = tile // s.across
    return row // s.down, row % s.down, tile % s.across


@inlined
def step(n, i, j, s):
    """The place of the next tile, without a division."""
    j += 1
    if j == s.across:
        i, j = i + 1, 0
        if i == s.down:
            n, i = n + 1, 0
    return n, i, j


@inlined
def tiles_in(x, first, tiles, band, held, V, s):
    """V for the tiles first, first + 1, ... of all images, row by row.

    The band in memory begins with the row of tiles `held`, counted from the first image; returns
    the new one.
    """
    v = lanes(x)
    n, i, j = place_of(first, s)
    for t in range(tiles):
        row = n * s.down + i
        if held < 0 or row >= held + s.deep or (i == 0 and row != held):
            held = row - i % s.deep
            above = held - n * s.down
            rows, top = 4 * min(s.deep, s.down - above) + 2, 4 * above - s.top
            copy_rows(x, n * s.H, s.H, s.W, s.C, top, rows, s.left, s.width, s.cs, band)
        o = ((row - held) * 4 * s.width + j * 4) * s.cs
        tile_in(band, o, s.width * s.cs, s.cs, V, t * 36 * v, s.cs)
        n, i, j = step(n, i, j, s)
    return held


@inlined
def tiles_out(M, first, tiles, filters, given, y, edge, s, after, sums):
    """The pixels of the tiles first, first + 1, ... for filters (first, last); `given` is (bias,
    other).

    If they are measured, sums (3, filters) gets a shift, and the sums of the pixels' distances
    from it and of their squares.
    """
    v = lanes(y)
    bias, other = given
    f, count = filters[0], min(filters[1], s.F) - filters[0]
    n, i, j = place_of(first, s)
    for t in range(tiles):
        rows, cols = min(4, s.OH - 4 * i), min(4, s.OW - 4 * j)
        o = ((n * s.OH + 4 * i) * s.OW + 4 * j) * s.F
        if rows == 4 and cols == 4 and s.fs == s.F:
            tile_out(M, t * 36 * v, bias, y, o, s.OW * s.F, s.F, filters)
        else:
            tile_out(M, t * 36 * v, bias, edge, 0, 4 * s.fs, s.fs, filters)
            for r in range(rows):
                for c in range(cols):
                    i0, o0 = (4 * r + c) * s.fs + f, o + (r * s.OW + c) * s.F + f
                    copy(edge, i0, y, o0, count)
        if after.adds or after.rectifies:
            for r in range(rows):
                k = o + r * s.OW * s.F + f
                if count == s.F:
                    finish(y, k, cols * s.F, other, after)
                else:
                    for c in range(cols):
                        finish(y, k + c * s.F, count, other, after)
        if after.measures:
            if t == 0:
                sample(y, o, rows, cols, sums, s)
            measure(y, o, rows, cols, sums, s)
        n, i, j = step(n, i, j, s)


@inlined
def ask_for(y, first, tiles, s):
    """Have the places of a block's output near before they are written: saves a tenth at C = 16."""
    n, i, j = place_of(first, s)
    for _ in range(tiles):
        for r in range(4):
            o = ((n * s.OH + 4 * i + r) * s.OW + 4 * j) * s.F
            for k in range(0, 4 * s.F, LINE):
                prefetch(y, o + k)
        n, i, j = step(n, i, j, s)


@inlined
def tiles_dy(dy, first, tiles, band, M, s):
    """dM for the tiles first, first + 1, ..."""
    v = lanes(dy)
    whole = s.OH % 4 == 0 and s.OW % 4 == 0 and s.fs == s.F
    n, i, j = place_of(first, s)
    for t in range(tiles):
        if whole:
            o = ((n * s.OH + 4 * i) * s.OW + 4 * j) * s.F
            tile_dy(dy, o, s.OW * s.F, s.F, M, t * 36 * v, s.fs)
        else:
            width = 4 * s.across
            if j == 0 or t == 0:
                copy_rows(dy, n * s.OH, s.OH, s.OW, s.F, 4 * i, 4, 0, width, s.fs, band)
            tile_dy(band, j * 4 * s.fs, width * s.fs, s.fs, M, t * 36 * v, s.fs)
        n, i, j = step(n, i, j, s)


@kernel
def convolve(chunk, x, U, bias, other, y, parts, counts, N, s, after, work):
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
            ask_for(y, first, here, s)
            held = tiles_in(x, first, here, band, held, V, s)
        multiply(V, U, M, here, filters, s)
        tiles_out(M, first, here, filters, (bias, other), y, edge, s, after, sums)
        if after.measures:
            seen = join_block(sums, pixels_of(first, here, s), parts[chunk], seen)
    if after.measures:
        counts[chunk] = seen


@inlined
def pixels_of(first, tiles, s):
    """How many pixels belong to the tiles first, first + 1, ..."""
    count = 0
    n, i, j = place_of(first, s)
    for _ in range(tiles):
        count += min(4, s.OH - 4 * i) * min(4, s.OW - 4 * j)
        n, i, j = step(n, i, j, s)
    return count


@kernel
def correlate_gradient(k, x, dy, N, dU, db, s, work):
    """Part k of dU (36, channels, filters) and of db: the sum over its blocks, in their order."""
    parts = len(db)
    tiles = N * s.down * s.across
    blocks = -(-tiles // TILES)
    V, M, band, dy_band = parts_of(work[get_thread_id()], s)
    held = -1
    dUk, dbk = dU[k], db[k]
    dUk[:] = 0
    dbk[:] = 0
    for block in range(k * blocks // parts, (k + 1) * blocks // parts):
        first = block * TILES
        here = min(TILES, tiles - first)
        held = tiles_in(x, first, here, band, held, V, s)
        tiles_dy(dy, first, here, dy_band, M, s)
        multiply_gradient(V, M, dUk, here, s)
        add_bias_gradient(M, here, dbk, s)


@inlined
def add_bias_gradient(M, tiles, db, s):
    """The sum of dY over a tile is dM[1, 1]: row 1 of A adds up."""
    v = lanes(M)
    for f in range(0, s.fs, v):
        total = load(M, f * TILES * 36 + 7 * v)
        for t in range(1, tiles):
            total = total + load(M, f * TILES * 36 + (t * 36 + 7) * v)
        store(db, f, load(db, f) + total)
