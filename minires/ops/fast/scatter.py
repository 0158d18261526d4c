"""The input gradient for few channels, such as a photograph's three.

`direct.py` puts the channels of the result into the lanes of a register; with 3 channels, 13 of 16
lanes would be idle. Here the lanes hold a kernel row of KW*C taps instead: the gradient of the
columns, dy @ weight' of `reference/conv.py`, which is then added onto the pixels it was read from.
Along a row these are contiguous numbers, so `col2im` is an `add_tile` whose rows overlap. One
image at a time, in a buffer that has the border.

The idle lanes behind the taps hold zeros, so where dy is not finite they add 0 * inf = NaN to the
next pixels of the row as well: a NaN stays visible, but may be wider than the reference's.
"""

import math

from numba import get_thread_id

from minires.ops.fast.bands import Place, multiply_adds, steps
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.memory import empty, scratch
from minires.ops.fast.panels import LITTLE, WIDEST, clear, copy, pack, padded_size, panel_width
from minires.ops.fast.simd import ROWS, add_tile, lanes, outer, store_tile, zeros


def pays(shape, window, dtype):
    """Whether it takes at most half the products, and there are images for the threads.

    `direct.py` also multiplies the zeros around dy, which are most of it where kernels are large
    and dy is small.
    """
    KW, (N, H, W, C), v = window.kernel[1], shape, panel_width(dtype) // 2
    here = math.prod(window.out) * -(-KW * C // v)
    there = H * W / math.prod(window.stride) * KW * -(-C // v)
    return N >= CHUNKS and 2 * here <= there


def input_gradient(shape, weight, dy, window):
    """dx, image by image."""
    KH, KW, C, F = weight.shape
    (top, _), (left, _) = window.padding
    place = Place(top, left, *window.out, 0, 1, 1)
    s = steps(shape, window.kernel, dy.shape, window.stride, place, dy.itemsize)
    rows = weight.transpose(0, 3, 1, 2).reshape(KH, F, KW * C)
    dx = empty(shape, dy.dtype)
    size = padded_size(((s.OH - 1) * s.SH + KH) * s.width * C + 2 * WIDEST)
    work = scratch(dy.dtype, size + ROWS * (F + 2 * WIDEST))
    run = scatter.alone if multiply_adds(s) < LITTLE else scatter
    run(PARTS, dy.reshape(-1), pack(rows), dx.reshape(-1), shape[0], size, s, work)
    return dx


def scatter_tile(rows, cols):
    """The gradient of the columns for `rows` pixels and `cols` registers of taps."""

    @inlined
    def product(dy, i, panels, j, s):
        v = lanes(dy)
        t = zeros(dy, rows, cols)
        for f in range(s.F):
            t = outer(t, dy, i + f, s.F, panels, j + f * 2 * v, v)
        return t

    return product


wide_taps, narrow_taps = scatter_tile(ROWS, 2), scatter_tile(ROWS, 1)


@inlined
def add_pixels(dy, i, panels, pixels, buffer, o, edge, s):
    """Add the windows of `pixels` <= ROWS pixels at dy[i] to the image at buffer[o]."""
    v = lanes(dy)
    taps = s.KW * s.C
    for kh in range(s.KH):
        for r in range(0, taps, 2 * v):
            j, k = (r * s.KH + kh * 2 * v) * s.F, o + kh * s.width * s.C + r
            if pixels == ROWS and r + v < taps:
                add_tile(wide_taps(dy, i, panels, j, s), buffer, k, s.SW * s.C, v)
            elif pixels == ROWS:
                add_tile(narrow_taps(dy, i, panels, j, s), buffer, k, s.SW * s.C, v)
            else:
                store_tile(wide_taps(dy, i, panels, j, s), edge, 0, 2 * v, v)
                for p in range(pixels):
                    for q in range(min(2 * v, taps - r)):
                        buffer[k + p * s.SW * s.C + q] += edge[p * 2 * v + q]


@inlined
def crop(buffer, dx, n, height, s):
    """Image n of dx = the buffer without its border; pixels that no window saw get 0."""
    skip, before = max(s.left, 0), max(-s.left, 0)
    inside = max(0, min(s.W - before, s.width - skip))
    for h in range(s.H):
        o, r = (n * s.H + h) * s.W * s.C, h + s.top
        clear(dx, o, s.W * s.C)
        if r < height:
            copy(buffer, (r * s.width + skip) * s.C, dx, o + before * s.C, inside * s.C)


@kernel
def scatter(chunk, dy, panels, dx, N, size, s, work):
    """dx, each image in one place."""
    v = lanes(dy)
    space = work[get_thread_id()]
    buffer, edge, last = space[:size], space[size:], space[size + ROWS * 2 * v :]
    height = (s.OH - 1) * s.SH + s.KH
    for n in range(chunk * N // PARTS, (chunk + 1) * N // PARTS):
        clear(buffer, 0, size)
        for h in range(s.OH):
            for q in range(0, s.OW, ROWS):
                pixels = min(ROWS, s.OW - q)
                i, o = ((n * s.OH + h) * s.OW + q) * s.F, (h * s.SH * s.width + q * s.SW) * s.C
                if pixels == ROWS:
                    add_pixels(dy, i, panels, ROWS, buffer, o, edge, s)
                else:  # a tile would read behind dy
                    copy(dy, i, last, 0, pixels * s.F)
                    add_pixels(last, 0, panels, pixels, buffer, o, edge, s)
        crop(buffer, dx, n, height, s)
