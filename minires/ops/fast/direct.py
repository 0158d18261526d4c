"""Convolution without columns: the im2col matrix is only a way to step through the image.

In NHWC a window of the image is KH runs of KW*C contiguous numbers. So the matrix product of
`reference/conv.py` can read its left factor from the image itself: row = output pixel, one pixel
to the right = SW*C numbers further; column = tap, the next kernel row = one image row further.
Nothing of size KH*KW*C per pixel is ever stored. A band of rows is copied into a buffer that fits
in the L2 cache, with its zero border, so that no loop asks whether it is at the edge; register
tiles (`simd.py`) multiply it with the weights, which are packed in the order they are read.

    forward          y[pixel, f]   += x[pixel * SW*C + k]  * w[k, f]     tile: pixels x filters
    weight gradient  dw[k, f]      += x[pixel * SW*C + k]  * dy[pixel, f] tile: taps x filters
    input gradient   a forward of dy with flipped weights, one for each of the SH*SW phases that
                     a pixel of x can have towards the stride

Measured (`python -m benchmarks.roofline`, forward of ResNet-20's three stages at batch 128 in
float32; AMD EPYC, Zen 4, 2 cores, 2026-11-24): 205, 211 and 201 GF/s, 86 to 91 % of what a tile
reaches on numbers in the L1 cache. Seven compiled loops reach 5 to 6, im2col with BLAS 30, 54 and
114. How bands and tiles lie in the images: `bands.py`. Read next: `winograd.py`.
"""

from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minires.ops.fast.bands import Place, axes, copy_band, item_of, multiply_adds, pixel_rows, steps
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.keep import kept
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import (
    LITTLE,
    WIDEST,
    by_taps,
    clear,
    copy,
    pack,
    padded,
    padded_size,
    panel_width,
    turned,
)
from minires.ops.fast.simd import (
    ROWS,
    add_tile,
    expect_tile,
    lanes,
    load,
    load_tile,
    outer,
    outer_fixed,
    store,
    store_tile,
    zeros,
)


def forward(x, weight, bias, window):
    """y = bias + x correlated with weight."""
    return prepared(x.shape, weight, bias, window)(x)


def prepared(x_shape, weight, bias, window):
    """`forward` of images of one shape: what depends on shapes and weights alone is made now."""
    y_shape = x_shape[0], *window.out, weight.shape[3]
    pixels, window = pixel_rows(x_shape, window)
    (top, _), (left, _) = window.padding
    panels = kept("direct", weight, lambda weight: pack(by_taps(weight)))
    place = Place(top, left, *window.out, 0, 1, 1)
    shapes = (*pixels, x_shape[3]), (pixels[0], *window.out, y_shape[3])
    correlate = correlation(*shapes, panels, window.kernel, bias, window.stride, place)

    def forward(x):
        y = empty(y_shape, x.dtype)
        correlate(x, y)
        return y

    return forward


def correlation(x_shape, y_shape, panels, kernel, bias, stride, place):
    """A function that sets y at `place` to bias + x correlated with packed weights of `kernel`."""
    s = steps(x_shape, kernel, y_shape, stride, place, bias.itemsize)
    work = scratch(bias.dtype, s.buffer + ROWS * 2 * WIDEST)
    run = convolve.alone if multiply_adds(s) < LITTLE else convolve

    def correlate(x, y):
        run(PARTS, x.reshape(-1), panels, bias, y.reshape(-1), s, work)

    return correlate


# ---- forward


CHAIN = 128  # products added up in one register; of more, such sums are added: less rounding


def pixel_tile(rows, cols):
    """The product for `rows` outputs beside each other and `cols` registers of filters."""

    @inlined
    def product(buffer, i, i_step, panels, j, bias, f, y, o, o_step, s):
        v, taps = lanes(buffer), s.KW * s.C
        several = s.KH * taps > CHAIN
        t = load_tile(zeros(buffer, rows, cols), bias, f, 0, v)
        if several:
            store_tile(t, y, o, o_step, v)
            t = zeros(buffer, rows, cols)
        else:
            expect_tile(t, y, o, o_step, v)
        for kh in range(s.KH):
            a, b = i + kh * s.width * s.C, j + kh * taps * 2 * v
            for first in range(0, taps, CHAIN):
                for k in range(first, min(first + CHAIN, taps)):
                    t = outer(t, buffer, a + k, i_step, panels, b + k * 2 * v, v)
                if several:
                    add_tile(t, y, o, o_step, v)
                    t = zeros(buffer, rows, cols)
        if not several:
            store_tile(t, y, o, o_step, v)

    return product


wide_pixels, narrow_pixels = pixel_tile(ROWS, 2), pixel_tile(ROWS, 1)


@inlined
def run_of_tiles(buffer, i, edge, panels, bias, y, o, f, tiles, s):
    """The outputs y[o], y[o + step], ... for one panel of filters, tile by tile."""
    v, taps = lanes(buffer), s.KH * s.KW * s.C
    count, i_step, o_step = tiles
    filters = min(2 * v, s.F - f)
    for q in range(0, count, ROWS):
        outputs, a, k = min(ROWS, count - q), i + q * i_step, o + q * o_step + f
        whole = outputs == ROWS and filters % v == 0
        target, t, step = (y, k, o_step) if whole else (edge, 0, 2 * v)
        if filters > v:
            wide_pixels(buffer, a, i_step, panels, f * taps, bias, f, target, t, step, s)
        else:
            narrow_pixels(buffer, a, i_step, panels, f * taps, bias, f, target, t, step, s)
        if not whole:  # a tile that hangs over: keep what belongs to the output
            for p in range(outputs):
                copy(edge, p * 2 * v, y, k + p * o_step, filters)


@inlined
def convolve_band(buffer, edge, panels, bias, y, o, loops, s):
    """The output at y[o] that the band in `buffer` gives."""
    outer_loop, inner_loop, tiles = loops
    for f in range(0, s.F, 2 * lanes(buffer)):
        for g in range(outer_loop[0]):
            for h in range(inner_loop[0]):
                i = g * outer_loop[1] + h * inner_loop[1]
                k = o + g * outer_loop[2] + h * inner_loop[2]
                run_of_tiles(buffer, i, edge, panels, bias, y, k, f, tiles, s)


@kernel
def convolve(chunk, x, panels, bias, y, s, work):
    """y = bias + x correlated with the packed weights. Each output is computed in one place."""
    space = work[get_thread_id()]
    edge, buffer = space[: ROWS * 2 * lanes(x)], space[ROWS * 2 * lanes(x) :]
    for item in range(chunk * s.items // PARTS, (chunk + 1) * s.items // PARTS):
        n, images, h, rows = item_of(item, s)
        copy_band(x, (n, images), h, rows, buffer, s)
        o = s.start + n * s.image + h * s.row
        convolve_band(buffer, edge, panels, bias, y, o, axes(images, rows, s), s)


# ---- weight gradient


def weight_gradient(x, dy, window):
    """dweight and dbias, as sums over parts of the images, for shares of the filters.

    A part is a copy of dw, which is cleared and added up; a share reads the images once more. So
    large weights and few pixels are cut by filters, small weights and many pixels by images.
    """
    (KH, KW), C, F = window.kernel, x.shape[3], dy.shape[3]
    pixels, window = pixel_rows(x.shape, window)
    x, dy = x.reshape(*pixels, C), dy.reshape(pixels[0], *window.out, F)
    (top, _), (left, _) = window.padding
    place = Place(top, left, *window.out, 0, 1, 1)
    taps, filters, shares = shares_of((KH, KW, C, F), dy.size // F, x.dtype)
    given = x.shape, window.kernel, dy.shape, window.stride, place, x.itemsize
    s = steps(*given, whole=shares == CHUNKS)
    parts = min(-(-CHUNKS // shares), s.items)
    dw = empty((parts, KH, taps, filters), x.dtype)
    db = empty((parts, filters), x.dtype)
    work = scratch(x.dtype, s.buffer + padded_size(s.group * s.band * s.OW * filters))
    run = correlate_gradient.alone if multiply_adds(s) < LITTLE else correlate_gradient
    run(parts * shares, x.reshape(-1), dy.reshape(-1), dw, db, shares, s, work)
    dw = dw[:, :, : KW * C, :F]  # behind it stands what tiles made of old numbers
    dweight = dw[0] if parts == 1 else dw.sum(axis=0)
    return np.ascontiguousarray(dweight).reshape(KH, KW, C, F), db[:, :F].sum(axis=0)


LONG = 32  # numbers of dw for each pixel from which the work is cut by filters


def shares_of(w_shape, pixels, dtype):
    """Taps of a kernel row and filters, in whole tiles; into how many shares filters are cut."""
    KH, KW, C, F = w_shape
    taps, filters = -(-KW * C // ROWS) * ROWS, padded_size(F)
    by_filters = KH * taps * filters > pixels * LONG
    return taps, filters, min(CHUNKS, -(-F // panel_width(dtype))) if by_filters else 1


def tap_tile(rows, cols):
    """The product for `rows` taps beside each other and `cols` registers of filters."""

    @inlined
    def product(buffer, i, dy, j, pixel, dw, o, filters, band, s):
        v = lanes(buffer)
        t, chain = zeros(buffer, rows, cols), 0
        for n in range(band[0]):
            for h in range(band[1]):
                a = i + n * s.size + h * s.SH * s.width * s.C
                b = j + (n * band[1] + h) * s.OW * pixel
                for q in range(s.OW):
                    t = outer_fixed(t, buffer, a + q * s.SW * s.C, 1, dy, b + q * pixel, v)
                chain += s.OW
                if chain >= CHAIN:
                    add_tile(t, dw, o, filters, v)
                    t, chain = zeros(buffer, rows, cols), 0
        add_tile(t, dw, o, filters, v)

    return product


wide_taps, narrow_taps = tap_tile(ROWS, 2), tap_tile(ROWS, 1)


@inlined
def gradient_band(buffer, dy, j, pixel, dw, db, share, band, s):
    """Add what a band of (images, rows) contributes to dw (KH, taps, filters) and db (filters,)."""
    v, filters = lanes(buffer), db.size
    taps = -(-s.KW * s.C // ROWS) * ROWS
    for f in range(share[0], min(share[1], s.F), 2 * v):  # behind F dy may end
        for kh in range(s.KH):
            for r in range(0, taps, ROWS):
                o = (kh * taps + r) * filters + f
                i = kh * s.width * s.C + r
                if f + v < s.F:
                    wide_taps(buffer, i, dy, j + f, pixel, dw, o, filters, band, s)
                else:
                    narrow_taps(buffer, i, dy, j + f, pixel, dw, o, filters, band, s)
    for f in range(share[0], min(share[1], s.F), v):
        total, pixels = load(db, f), band[0] * band[1] * s.OW
        for first in range(0, pixels, CHAIN):
            part = load(dy, j + first * pixel + f)
            for q in range(first + 1, min(first + CHAIN, pixels)):
                part = part + load(dy, j + q * pixel + f)
            total = total + part
        store(db, f, total)


@kernel
def correlate_gradient(number, x, dy, dw, db, shares, s, work):
    """A share of the filters of a part of dw and db: the sum over its bands, in their order."""
    parts, filters = db.shape
    v = lanes(dy)
    k, width = number // shares, -(-filters // (2 * v * shares)) * 2 * v
    share = number % shares * width, min((number % shares + 1) * width, filters)
    buffer, copied = work[get_thread_id()][: s.buffer], work[get_thread_id()][s.buffer :]
    dwk, dbk = dw[k].reshape(-1), db[k]
    for o in range(0, dwk.size, filters):
        clear(dwk, o + share[0], share[1] - share[0])
    clear(dbk, share[0], share[1] - share[0])
    for item in range(k * s.items // parts, (k + 1) * s.items // parts):
        n, images, h, rows = item_of(item, s)
        copy_band(x, (n, images), h, rows, buffer, s)
        j, band = n * s.image + h * s.row, (images, rows)
        if s.F % v == 0:
            gradient_band(buffer, dy, j, s.F, dwk, dbk, share, band, s)
        else:
            for q in range(images * rows * s.OW):
                copy(dy, j + q * s.F, copied, q * filters, s.F)
            gradient_band(buffer, copied, 0, filters, dwk, dbk, share, band, s)


# ---- input gradient


def input_gradient(shape, weight, dy, window):
    """dx, phase by phase.

    Pixel i of x (padding included) is read through tap kh by output oh where i = oh * S + kh. Let
    i = S m + r: then kh = r + S j and oh = m - j. So the pixels of phase r see every S-th tap, at
    stride 1, in reverse order.
    """
    (KH, KW), (SH, SW), ((top, _), (left, _)), *_ = window
    C, result = shape[3], empty(shape, dy.dtype)
    (N, H, W), window = pixel_rows(shape, window)
    dx, dy = result.reshape(N, H, W, C), dy.reshape(N, *window.out, -1)
    if KH < SH or KW < SW:
        dx[...] = 0  # some phase has no taps
    bias, backwards = padded(np.zeros(C, dy.dtype)), by_taps(turned(weight))
    for rows in phases(H, KH, SH, top):
        for cols in phases(W, KW, SW, left):
            start = (rows.first * W + cols.first) * C
            place = Place(rows.before, cols.before, rows.count, cols.count, start, SH, SW)
            panels = pack(backwards, [r * KW + c for r in rows.taps for c in cols.taps])
            kernel = len(rows.taps), len(cols.taps)
            correlation(dy.shape, dx.shape, panels, kernel, bias, (1, 1), place)(dy, dx)
    return result


class Phase(NamedTuple):
    """Along one axis: the pixels of x that have the same place towards the stride."""

    first: int  # the first of them
    count: int
    before: int  # zeros in front of dy
    taps: range  # of the turned kernel


def phases(size, kernel, stride, before):
    """The phases that have pixels and taps."""
    found = []
    for r in range(min(stride, kernel)):
        first = (r - before) % stride
        count = len(range(first, size, stride))
        taps = range((kernel - 1 - r) % stride, kernel - r, stride)
        m = (first + before) // stride
        if count:
            found.append(Phase(first, count, len(taps) - 1 - m, taps))
    return found
