"""3x3 convolution at stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3).

A 4x4 tile of the output depends on 6x6 pixels. Instead of 16 * 9 products per channel and filter,

    Y = A' [(G w G') * (B' x B)] A                                     (36 products)

where `'` is the transpose and `*` goes number by number. So there are three steps: transform the
tiles, multiply 36 small matrices (tiles x channels) @ (channels x filters), transform back. The
gradients are the same map read in other directions:

    forward          Y  = A' [U * V] A        U = G w G', V = B' x B
    weight gradient  dw = G' [V * dM] G       dM = A dY A'
    input gradient   a forward of dY with the weights turned round

The transforms act on one register of channels at a time, so they are the formulas of the paper
written with `Vec`s, and take no multiplication by 36x16 matrices.

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

from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.keep import kept
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import FEW, clear, copy, copy_rows, pack, padded, panel_width
from minires.ops.fast.simd import (
    ROWS,
    add_tile,
    axpy,
    lanes,
    load,
    outer,
    store,
    store_tile,
    zeros,
)

TILES = 16  # in a block
BAND = 24 * 1024  # numbers in the band, about: with V and M it stays in the L2 cache
MOST_GRADIENTS = 2**15  # C * F up to which the weight gradient is faster here: dU is 4 MB then
FEWEST = 8  # channels and filters from which it is faster than the direct kernels


def pays(cache):
    """Whether a convolution runs here: 3x3, stride 1, float32, enough channels and pixels."""
    x, weight, window, _ = cache
    C, F = weight.shape[2:]
    tiles = len(x) * -(-window.out[0] // 4) * -(-window.out[1] // 4)
    return (
        window.kernel == (3, 3)
        and window.stride == (1, 1)
        and x.dtype == np.float32
        and min(C, F) >= FEWEST
        and min(window.out) >= 3
        and tiles >= TILES
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


def sizes(x_shape, y_shape, padding):
    _, H, W, C = x_shape
    _, OH, OW, F = y_shape
    (top, _), (left, _) = padding
    down, across = -(-OH // 4), -(-OW // 4)
    v = panel_width(np.float32) // 2
    cs, fs = -(-C // v) * v, -(-F // v) * v
    width = 4 * across + 2
    deep = max(1, min(down, BAND // (4 * width * cs)))
    return Sizes(H, W, C, OH, OW, F, top, left, down, across, width, deep, cs, fs)


def forward(x, weight, bias, window):
    """y = bias + x correlated with weight."""
    y = empty((len(x), *window.out, weight.shape[3]), x.dtype)
    correlate(x, weight, bias, y, window.padding)
    return y


def input_gradient(shape, weight, dy, window):
    """dx: a correlation of dy with the weights turned round."""
    (top, _), (left, _) = window.padding
    dx = empty(shape, dy.dtype)
    turned = weight[::-1, ::-1].swapaxes(2, 3)
    no_bias = padded(np.zeros(shape[3], dy.dtype))
    correlate(dy, turned, no_bias, dx, ((2 - top, 0), (2 - left, 0)))
    return dx


def correlate(x, weight, bias, y, padding):
    """Write bias + correlation to y, whose size says how many pixels are wanted."""
    s = sizes(x.shape, y.shape, padding)
    U = kept("winograd", weight, lambda weight: transformed(weight, s))
    work = scratch(x.dtype, work_size(s))
    convolve(PARTS, x.reshape(-1), U, bias, y.reshape(-1), len(x), s, work)


def transformed(weight, s):
    """U for all channels and filters."""
    U = empty((36 * s.cs * padded_panels(s.F),), weight.dtype)
    run = transform_weight.alone if weight.size < FEW else transform_weight
    run(s.cs, pack(weight), s, U)
    return U


def padded_panels(F):
    width = panel_width(np.float32)
    return -(-F // width) * width


def work_size(s):
    """V, M or dM, the band of x, a band of dy or one tile of y."""
    band = (4 * s.deep + 2) * s.width * s.cs
    return TILES * 36 * (s.cs + s.fs) + band + 16 * s.across * s.fs


# ---- the transforms in one dimension; in two they act on the columns, then on the rows


@inlined
def bt(d):
    """B' d: 6 pixels -> 6."""
    p, q = axpy(-4, d[2], d[4]), axpy(-4, d[1], d[3])
    r, t = d[4] - d[2], d[3] - d[1]
    first = axpy(4, d[0], axpy(-5, d[2], d[4]))
    last = axpy(4, d[1], axpy(-5, d[3], d[5]))
    return first, p + q, p - q, axpy(2, t, r), axpy(-2, t, r), last


@inlined
def at(m):
    """A' m: 6 products -> 4 pixels."""
    p, q, r, t = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return m[0] + p + r, axpy(2, t, q), axpy(4, r, p), axpy(8, t, q) + m[5]


@inlined
def a(y):
    """A y, the transpose of `at`: 4 -> 6."""
    p, q, r, t = y[0] + y[2], y[1] + y[3], axpy(4, y[2], y[0]), axpy(4, y[3], y[1])
    return y[0], p + q, p - q, axpy(2, t, r), axpy(-2, t, r), y[3]


@inlined
def g(w):
    """G w: 3 taps -> 6."""
    p, q = w[0] + w[2], axpy(4.0, w[2], w[0])
    zero = w[0] - w[0]
    return (
        axpy(1 / 4, w[0], zero),
        axpy(-1 / 6, p + w[1], zero),
        axpy(-1 / 6, p - w[1], zero),
        axpy(1 / 24, axpy(2, w[1], q), zero),
        axpy(1 / 24, axpy(-2, w[1], q), zero),
        w[2],
    )


@inlined
def gt(u):
    """G' u, the transpose of `g`: 6 -> 3."""
    zero = u[0] - u[0]
    p, q = u[1] + u[2], u[2] - u[1]
    r, t = axpy(1 / 24, u[3] + u[4], zero), axpy(1 / 12, u[3] - u[4], zero)
    first = axpy(1 / 4, u[0], axpy(-1 / 6, p, r))
    return first, axpy(1 / 6, q, t), axpy(-1 / 6, p, axpy(4, r, u[5]))


@inlined
def load3(x, i, s):
    return load(x, i), load(x, i + s), load(x, i + 2 * s)


@inlined
def load4(x, i, s):
    return load(x, i), load(x, i + s), load(x, i + 2 * s), load(x, i + 3 * s)


@inlined
def load6(x, i, s):
    p, q = load3(x, i, s), load3(x, i + 3 * s, s)
    return p[0], p[1], p[2], q[0], q[1], q[2]


@inlined
def store3(x, i, s, t):
    store(x, i, t[0])
    store(x, i + s, t[1])
    store(x, i + 2 * s, t[2])


@inlined
def store4(x, i, s, b, t):
    """x[i], x[i + s], ... = b + t."""
    store(x, i, b + t[0])
    store(x, i + s, b + t[1])
    store(x, i + 2 * s, b + t[2])
    store(x, i + 3 * s, b + t[3])


@inlined
def store6(x, i, s, t):
    store3(x, i, s, t)
    store3(x, i + 3 * s, s, (t[3], t[4], t[5]))


# ---- one tile, one register of channels after the other: columns first, then rows


@inlined
def bt_columns(x, i, row, pixel):
    """B' on each of the 6 columns of the 6x6 pixels at x[i]."""
    return (
        bt(load6(x, i, row)),
        bt(load6(x, i + pixel, row)),
        bt(load6(x, i + 2 * pixel, row)),
        bt(load6(x, i + 3 * pixel, row)),
        bt(load6(x, i + 4 * pixel, row)),
        bt(load6(x, i + 5 * pixel, row)),
    )


@inlined
def at_columns(M, i, v):
    """A' on each of the 6 columns of the products at M[i]."""
    return (
        at(load6(M, i, 6 * v)),
        at(load6(M, i + v, 6 * v)),
        at(load6(M, i + 2 * v, 6 * v)),
        at(load6(M, i + 3 * v, 6 * v)),
        at(load6(M, i + 4 * v, 6 * v)),
        at(load6(M, i + 5 * v, 6 * v)),
    )


@inlined
def a_columns(y, i, row, pixel):
    """A on each of the 4 columns of the 4x4 pixels at y[i]."""
    return (
        a(load4(y, i, row)),
        a(load4(y, i + pixel, row)),
        a(load4(y, i + 2 * pixel, row)),
        a(load4(y, i + 3 * pixel, row)),
    )


@inlined
def tile_in(x, i, row, pixel, V, o, channels):
    """V[o] = B' x B for the 6x6 pixels at x[i]."""
    v = lanes(x)
    for c in range(0, channels, v):
        p, q, r, s, t, u = bt_columns(x, i + c, row, pixel)
        k = o + c * TILES * 36
        store6(V, k, v, bt((p[0], q[0], r[0], s[0], t[0], u[0])))
        store6(V, k + 6 * v, v, bt((p[1], q[1], r[1], s[1], t[1], u[1])))
        store6(V, k + 12 * v, v, bt((p[2], q[2], r[2], s[2], t[2], u[2])))
        store6(V, k + 18 * v, v, bt((p[3], q[3], r[3], s[3], t[3], u[3])))
        store6(V, k + 24 * v, v, bt((p[4], q[4], r[4], s[4], t[4], u[4])))
        store6(V, k + 30 * v, v, bt((p[5], q[5], r[5], s[5], t[5], u[5])))


@inlined
def tile_dy(y, i, row, pixel, M, o, filters):
    """M[o] = A dY A' for the 4x4 pixels at y[i]."""
    v = lanes(y)
    for f in range(0, filters, v):
        p, q, r, s = a_columns(y, i + f, row, pixel)
        k = o + f * TILES * 36
        store6(M, k, v, a((p[0], q[0], r[0], s[0])))
        store6(M, k + 6 * v, v, a((p[1], q[1], r[1], s[1])))
        store6(M, k + 12 * v, v, a((p[2], q[2], r[2], s[2])))
        store6(M, k + 18 * v, v, a((p[3], q[3], r[3], s[3])))
        store6(M, k + 24 * v, v, a((p[4], q[4], r[4], s[4])))
        store6(M, k + 30 * v, v, a((p[5], q[5], r[5], s[5])))


@inlined
def tile_out(M, i, bias, y, o, row, pixel, filters):
    """The 4x4 pixels at y[o] = bias + A' M A."""
    v = lanes(y)
    for f in range(0, filters, v):
        p, q, r, s, t, u = at_columns(M, i + f * TILES * 36, v)
        k, b = o + f, load(bias, f)
        store4(y, k, pixel, b, at((p[0], q[0], r[0], s[0], t[0], u[0])))
        store4(y, k + row, pixel, b, at((p[1], q[1], r[1], s[1], t[1], u[1])))
        store4(y, k + 2 * row, pixel, b, at((p[2], q[2], r[2], s[2], t[2], u[2])))
        store4(y, k + 3 * row, pixel, b, at((p[3], q[3], r[3], s[3], t[3], u[3])))


# ---- weights


@kernel
def transform_weight(c, panels, s, U):
    """U[e] (channels, filters) = (G w G')[e], in panels: [e][panel][channel][lane]."""
    width = 2 * lanes(panels)
    blocks = -(-s.F // width)
    v = lanes(panels)
    S = np.empty(18 * v, panels.dtype)
    for block in range(blocks):
        for f in range(0, width, v):
            o = (block * s.cs + c) * width + f
            if c < s.C:
                i, tap = (block * 9 * s.C + c) * width + f, s.C * width
                for j in range(3):
                    store6(S, j * v, 3 * v, g(load3(panels, i + j * tap, 3 * tap)))
                for j in range(6):
                    t = g(load3(S, j * 3 * v, v))
                    store6(U, o + j * 6 * s.cs * blocks * width, s.cs * blocks * width, t)
            else:
                for e in range(36):
                    clear(U, o + e * s.cs * blocks * width, v)


@kernel
def gradient_of_weight(c, dU, s, dw):
    """dw (3, 3, channels, filters) = G' dU G, dU summed over its parts in their order."""
    parts = dU.shape[0]
    dU1, dw1 = dU.reshape(-1), dw.reshape(-1)
    v = lanes(dU1)
    S = np.empty(36 * v, dU1.dtype)
    tap = s.cs * s.fs
    for f in range(0, s.fs, v):
        o = c * s.fs + f
        for e in range(36):
            total = load(dU1, e * tap + o)
            for k in range(1, parts):
                total = total + load(dU1, (k * 36 + e) * tap + o)
            store(S, e * v, total)
        for j in range(6):
            store3(S, j * v, 6 * v, gt(load6(S, j * v, 6 * v)))
        for j in range(3):
            store3(dw1, j * 3 * tap + o, tap, gt(load6(S, j * 6 * v, v)))


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
def multiply(V, U, M, s):
    """M[e] = V[e] @ U[e] for a block of tiles."""
    v = lanes(V)
    blocks = -(-s.F // (2 * v))
    for e in range(36):
        for f in range(0, s.fs, 2 * v):
            j, o = (e * blocks * 2 * v + f) * s.cs, f * TILES * 36 + e * v
            if f + v < s.fs:
                for r in range(0, TILES, ROWS):
                    wide_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)
            else:
                for r in range(0, TILES, 2 * ROWS):
                    tall_tiles(V, r * 36 * v + e * v, U, j, M, o + r * 36 * v, s.cs)


@inlined
def multiply_gradient(V, M, dU, tiles, s):
    """dU[e] += V[e]' @ dM[e] over the tiles of a block."""
    v = lanes(V)
    for e in range(36):
        for c in range(0, s.cs, v):
            i = c * TILES * 36 + e * v
            for f in range(0, s.fs, 2 * v):
                j, o = f * TILES * 36 + e * v, (e * s.cs + c) * s.fs + f
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
def tiles_out(M, first, tiles, bias, y, edge, s):
    """The pixels of the tiles first, first + 1, ..."""
    v = lanes(y)
    n, i, j = place_of(first, s)
    for t in range(tiles):
        rows, cols = min(4, s.OH - 4 * i), min(4, s.OW - 4 * j)
        o = ((n * s.OH + 4 * i) * s.OW + 4 * j) * s.F
        if rows == 4 and cols == 4 and s.fs == s.F:
            tile_out(M, t * 36 * v, bias, y, o, s.OW * s.F, s.F, s.fs)
        else:
            tile_out(M, t * 36 * v, bias, edge, 0, 4 * s.fs, s.fs, s.fs)
            for r in range(rows):
                for c in range(cols):
                    copy(edge, (4 * r + c) * s.fs, y, o + (r * s.OW + c) * s.F, s.F)
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
def convolve(chunk, x, U, bias, y, N, s, work):
    """y = bias + x correlated with the transformed weights."""
    tiles = N * s.down * s.across
    blocks = -(-tiles // TILES)
    V, M, band, edge = parts_of(work[get_thread_id()], s)
    held = -1
    for block in range(chunk * blocks // PARTS, (chunk + 1) * blocks // PARTS):
        first = block * TILES
        here = min(TILES, tiles - first)
        held = tiles_in(x, first, here, band, held, V, s)
        multiply(V, U, M, s)
        tiles_out(M, first, here, bias, y, edge, s)


@kernel
def correlate_gradient(k, x, dy, N, dU, db, s, work):
    """Part k of dU (36, channels, filters) and of db: the sum over its blocks, in their order."""
    parts = len(db)
    tiles = N * s.down * s.across
    blocks = -(-tiles // TILES)
    V, M, band, dy_band = parts_of(work[get_thread_id()], s)
    held = -1
    dUk, dbk = dU[k].reshape(-1), db[k]
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


def weight_gradient(x, dy, window):
    """dweight and dbias."""
    s = sizes(x.shape, dy.shape, window.padding)
    parts = min(CHUNKS, -(-len(x) * s.down * s.across // TILES))
    dU = empty((parts, 36, s.cs, s.fs), x.dtype)
    db = empty((parts, s.fs), x.dtype)
    work = scratch(x.dtype, work_size(s))
    correlate_gradient(parts, x.reshape(-1), dy.reshape(-1), len(x), dU, db, s, work)
    dw = empty((3, 3, s.cs, s.fs), x.dtype)
    run = gradient_of_weight.alone if dU.size < FEW else gradient_of_weight
    run(s.cs, dU.reshape(parts, -1), s, dw)
    return np.ascontiguousarray(dw[:, :, : s.C, : s.F]), db.sum(axis=0)[: s.F]
