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

Read next: `winograd.py`.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import get_thread_id

from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.keep import kept
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import WIDEST, copy, copy_rows, pack, padded, padded_size
from minires.ops.fast.simd import (
    ROWS,
    add_tile,
    lanes,
    load,
    load_tile,
    outer,
    store,
    store_tile,
    zeros,
)

BAND_BYTES = 128 * 1024  # of the buffer: a part of the L2 cache, the weights take another


def forward(x, weight, bias, window):
    """y = bias + x correlated with weight."""
    y = empty((len(x), *window.out, weight.shape[3]), x.dtype)
    (top, _), (left, _) = window.padding
    correlate(x, weight, bias, y, window.stride, Place(top, left, *window.out, 0, 1, 1))
    return y


class Place(NamedTuple):
    """Which pixels a correlation reads and which it writes."""

    top: int  # zero rows above the image; negative: rows to skip
    left: int
    OH: int  # rows and columns to compute
    OW: int
    start: int  # number in y of the first of them
    down: int  # they are every `down`-th row of y
    right: int  # and every `right`-th column


class Steps(NamedTuple):
    """One correlation as its kernel sees it: sizes, and steps through the arrays in numbers."""

    H: int
    W: int
    C: int
    F: int
    KH: int
    KW: int
    SH: int
    SW: int
    top: int
    left: int
    OH: int
    OW: int
    width: int  # pixels in a row of the buffer
    start: int  # y: first number
    image: int  # y: from image to image
    row: int  # y: from row to row
    pixel: int  # y: from pixel to pixel
    band: int  # output rows computed at a time
    bands: int  # bands in an image
    buffer: int  # numbers in the buffer of a band; tiles may read, and ignore, some behind it


def correlate(x, weight, bias, y, stride, place):
    """y at `place` = bias + x correlated with `weight`."""
    s = steps(x.shape, weight.shape, y.shape, stride, place, x.itemsize)
    work = scratch(x.dtype, s.buffer + ROWS * 2 * WIDEST)
    panels = kept("direct", weight, pack)
    convolve(PARTS, x.reshape(-1), panels, bias, y.reshape(-1), len(x), s, work)


@functools.lru_cache(maxsize=1024)
def steps(x_shape, w_shape, y_shape, stride, place, itemsize):
    """The sizes of a correlation; a band is as high as the buffer and the parallel work allow."""
    N, H, W, C = x_shape
    KH, KW, _, F = w_shape
    _, YH, YW, _ = y_shape
    (SH, SW), (top, left, OH, OW, start, down, right) = stride, place
    width = (OW - 1) * SW + KW
    fits = (BAND_BYTES // (width * C * itemsize) - KH) // SH + 1
    band = max(1, min(fits, -(-OH * N // (2 * CHUNKS)), OH))
    y_steps = start, YH * YW * F, down * YW * F, right * F
    buffer = padded_size(((band - 1) * SH + KH) * width * C + ROWS * SW * C + WIDEST)
    return Steps(
        H, W, C, F, KH, KW, SH, SW, top, left, OH, OW, width, *y_steps, band, -(-OH // band), buffer
    )


@inlined
def copy_band(x, n, first, rows, buffer, s):
    """What the output rows first, first + 1, ... of image n see."""
    top, count = first * s.SH - s.top, (rows - 1) * s.SH + s.KH
    copy_rows(x, n * s.H, s.H, s.W, s.C, top, count, s.left, s.width, s.C, buffer)


# ---- forward


def pixel_tile(rows, cols):
    """The product for `rows` pixels beside each other and `cols` registers of filters."""

    @inlined
    def product(buffer, i, panels, j, bias, f, y, o, pixel, s):
        v = lanes(buffer)
        t = load_tile(zeros(buffer, rows, cols), bias, f, 0, v)
        for kh in range(s.KH):
            a, b = i + kh * s.width * s.C, j + kh * s.KW * s.C * 2 * v
            for k in range(s.KW * s.C):
                t = outer(t, buffer, a + k, s.SW * s.C, panels, b + k * 2 * v, v)
        store_tile(t, y, o, pixel, v)

    return product


wide_pixels, narrow_pixels = pixel_tile(ROWS, 2), pixel_tile(ROWS, 1)


@inlined
def convolve_band(buffer, edge, panels, bias, y, o, rows, s):
    """`rows` rows of output at y[o], from the band in `buffer`."""
    v = lanes(buffer)
    taps = s.KH * s.KW * s.C
    for f in range(0, s.F, 2 * v):
        filters = min(2 * v, s.F - f)
        for h in range(rows):
            for q in range(0, s.OW, ROWS):
                pixels = min(ROWS, s.OW - q)
                place = o + h * s.row + q * s.pixel + f
                i = (h * s.SH * s.width + q * s.SW) * s.C
                whole = pixels == ROWS and filters % v == 0
                target, t, step = (y, place, s.pixel) if whole else (edge, 0, 2 * v)
                if filters > v:
                    wide_pixels(buffer, i, panels, f * taps, bias, f, target, t, step, s)
                else:
                    narrow_pixels(buffer, i, panels, f * taps, bias, f, target, t, step, s)
                if not whole:  # a tile that hangs over: keep what belongs to the image
                    for p in range(pixels):
                        copy(edge, p * 2 * v, y, place + p * s.pixel, filters)


@kernel
def convolve(chunk, x, panels, bias, y, N, s, work):
    """y = bias + x correlated with the packed weights. Each output is computed in one place."""
    space = work[get_thread_id()]
    edge, buffer = space[: ROWS * 2 * lanes(x)], space[ROWS * 2 * lanes(x) :]
    items = N * s.bands
    for item in range(chunk * items // PARTS, (chunk + 1) * items // PARTS):
        n, first = item // s.bands, item % s.bands * s.band
        rows = min(s.band, s.OH - first)
        copy_band(x, n, first, rows, buffer, s)
        o = s.start + n * s.image + first * s.row
        convolve_band(buffer, edge, panels, bias, y, o, rows, s)


# ---- weight gradient


def weight_gradient(x, dy, window):
    """dweight and dbias."""
    (KH, KW), C, F = window.kernel, x.shape[3], dy.shape[3]
    (top, _), (left, _) = window.padding
    place = Place(top, left, *window.out, 0, 1, 1)
    s = steps(x.shape, (KH, KW, C, F), dy.shape, window.stride, place, x.itemsize)
    parts = min(CHUNKS, len(x) * s.bands)
    taps, filters = -(-KW * C // ROWS) * ROWS, padded_size(F)
    dw = empty((parts, KH, taps, filters), x.dtype)
    db = empty((parts, filters), x.dtype)
    size = s.buffer
    work = scratch(x.dtype, size + padded_size(s.band * s.OW * filters))
    correlate_gradient(parts, x.reshape(-1), dy.reshape(-1), len(x), dw, db, size, s, work)
    dweight = dw.sum(axis=0)[:, : KW * C, :F].reshape(KH, KW, C, F)
    return np.ascontiguousarray(dweight), db.sum(axis=0)[:F]


def tap_tile(rows, cols):
    """The product for `rows` taps beside each other and `cols` registers of filters."""

    @inlined
    def product(buffer, i, dy, j, pixel, dw, o, filters, rows_out, s):
        v = lanes(buffer)
        t = zeros(buffer, rows, cols)
        for h in range(rows_out):
            a, b = i + h * s.SH * s.width * s.C, j + h * s.OW * pixel
            for q in range(s.OW):
                t = outer(t, buffer, a + q * s.SW * s.C, 1, dy, b + q * pixel, v)
        add_tile(t, dw, o, filters, v)

    return product


wide_taps, narrow_taps = tap_tile(ROWS, 2), tap_tile(ROWS, 1)


@inlined
def gradient_band(buffer, dy, j, pixel, dw, db, filters, rows, s):
    """Add what one band contributes to dw (KH, taps, filters) and db (filters,)."""
    v = lanes(buffer)
    taps = -(-s.KW * s.C // ROWS) * ROWS
    for f in range(0, s.F, 2 * v):
        for kh in range(s.KH):
            for r in range(0, taps, ROWS):
                o = (kh * taps + r) * filters + f
                i = kh * s.width * s.C + r
                if f + v < s.F:
                    wide_taps(buffer, i, dy, j + f, pixel, dw, o, filters, rows, s)
                else:
                    narrow_taps(buffer, i, dy, j + f, pixel, dw, o, filters, rows, s)
    for f in range(0, s.F, v):
        total = load(dy, j + f)
        for q in range(1, rows * s.OW):
            total = total + load(dy, j + q * pixel + f)
        store(db, f, load(db, f) + total)


@kernel
def correlate_gradient(k, x, dy, N, dw, db, size, s, work):
    """Part k of dw and db: the sum over its bands, in their order."""
    parts, filters = db.shape
    buffer, copied = work[get_thread_id()][:size], work[get_thread_id()][size:]
    dwk, dbk = dw[k].reshape(-1), db[k]
    dwk[:] = 0
    dbk[:] = 0
    aligned = s.F % lanes(dy) == 0
    items = N * s.bands
    for item in range(k * items // parts, (k + 1) * items // parts):
        n, first = item // s.bands, item % s.bands * s.band
        rows = min(s.band, s.OH - first)
        copy_band(x, n, first, rows, buffer, s)
        j = n * s.image + first * s.row
        if aligned:
            gradient_band(buffer, dy, j, s.F, dwk, dbk, filters, rows, s)
        else:
            for q in range(rows * s.OW):
                copy(dy, j + q * s.F, copied, q * filters, s.F)
            gradient_band(buffer, copied, 0, filters, dwk, dbk, filters, rows, s)


# ---- input gradient


def input_gradient(shape, weight, dy, window):
    """dx, phase by phase.

    Pixel i of x (padding included) is read through tap kh by output oh where i = oh * S + kh. Let
    i = S m + r: then kh = r + S j and oh = m - j. So the pixels of phase r see every S-th tap, at
    stride 1, in reverse order.
    """
    (KH, KW), (SH, SW), ((top, _), (left, _)), *_ = window
    _, H, W, C = shape
    dx = empty(shape, dy.dtype)
    if KH < SH or KW < SW:
        dx[...] = 0  # some phase has no taps
    bias = padded(np.zeros(C, dy.dtype))
    for rows in phases(H, KH, SH, top):
        for cols in phases(W, KW, SW, left):
            start = (rows.first * W + cols.first) * C
            place = Place(rows.before, cols.before, rows.count, cols.count, start, SH, SW)
            taps = weight[rows.taps, cols.taps].swapaxes(2, 3)
            correlate(dy, taps, bias, dx, (1, 1), place)
    return dx


class Phase(NamedTuple):
    """Along one axis: the pixels of x that have the same place towards the stride."""

    first: int  # the first of them
    count: int
    before: int  # zeros in front of dy
    taps: slice  # of the kernel, last first


def phases(size, kernel, stride, before):
    """The phases that have pixels and taps."""
    found = []
    for r in range(min(stride, kernel)):
        first = (r - before) % stride
        count = len(range(first, size, stride))
        taps = len(range(r, kernel, stride))
        m = (first + before) // stride
        if count:
            backwards = slice(r + stride * (taps - 1), None, -stride)
            found.append(Phase(first, count, taps - 1 - m, backwards))
    return found
