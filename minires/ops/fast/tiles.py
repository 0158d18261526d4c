"""The tiles of Winograd's convolution: how they lie in images and blocks, and come in and out.

The tiles of all images are numbered row by row; a block is some that follow each other. Pixels
are read through a band, rows of tiles copied with their zero border, and written where they belong;
what hangs over the edge of an image is cut. Read next: `winograd.py`, which multiplies them.
"""

import functools
from typing import NamedTuple

import numpy as np

from minires.ops.fast.epilogue import finish, measure, sample
from minires.ops.fast.jit import CHUNKS, PARTS, inlined
from minires.ops.fast.panels import affine, clear, copy, copy_rows, panel_width
from minires.ops.fast.simd import ROWS, lanes, load, prefetch, relu, store
from minires.ops.fast.transforms import TILES, tile_dy, tile_in, tile_out

FEW_TILES = 2 * TILES  # up to which blocks are small
BAND = 24 * 1024  # numbers in the band, about: with V and M it stays in the L2 cache
LINE = 16  # numbers in a line of the cache
NEAR = 2**17  # numbers that stay in the L2 cache


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
    image = H, W, C, OH, OW, F, top, left
    return Sizes(
        *image,
        *(down, across, width, deep, cs, fs),
        step=cs * panels * panel + v,
        gradient_step=cs * fs + v,
        block=block,
        blocks=blocks,
        share=share,
        shares=-(-fs // share),
        chunks=chunks,
        work=TILES * 36 * (cs + fs) + (4 * deep + 2) * width * cs + (16 * across + 3) * fs,
    )


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
def normalise_rows(x, base, first, rows, lines, out, s):
    """`copy_rows` of relu(batchnorm(x)), whose C is whole registers; the zero border stays zero."""
    v, C = lanes(x), s.C
    before, skip = min(max(s.left, 0), s.width), max(-s.left, 0)
    inside = max(0, min(s.W - skip, s.width - before))
    size = s.width * C
    for r in range(rows):
        h = first + r
        if h < 0 or h >= s.H:
            clear(out, r * size, size)
        else:
            i, o = ((base + h) * s.W + skip) * C, r * size + before * C
            clear(out, r * size, before * C)
            clear(out, o + inside * C, size - (before + inside) * C)
            for f in range(0, C, v):
                mean, scale, beta = affine(lines, f)
                for p in range(f, inside * C, C):
                    store(out, o + p, relu((load(x, i + p) - mean) * scale + beta))


@inlined
def tiles_in(x, lines, first, tiles, band, held, V, s):
    """V for the tiles first, first + 1, ... of all images, row by row.

    The band in memory begins with the row of tiles `held`, counted from the first image; returns
    the new one. With `lines` the tiles are those of relu(batchnorm(x)).
    """
    v = lanes(x)
    n, i, j = place_of(first, s)
    for t in range(tiles):
        row = n * s.down + i
        if held < 0 or row >= held + s.deep or (i == 0 and row != held):
            held = row - i % s.deep
            above = held - n * s.down
            rows, top = 4 * min(s.deep, s.down - above) + 2, 4 * above - s.top
            if lines.shape[1] > 0:
                normalise_rows(x, n * s.H, top, rows, lines, band, s)
            else:
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
def share_of(array, first, tiles, image, s):
    """The numbers of an array that belong to some tiles, for `ask_for`: the first, a 36th of them.

    `image` is how many there are in an image. Of small arrays nothing is asked for: they are near.
    """
    tiles_of_image = s.down * s.across
    start = first * image // tiles_of_image
    stop = min((first + tiles) * image // tiles_of_image, array.size)
    few = array.size < NEAR or stop < start
    return start, 0 if few else -(-(stop - start) // (36 * LINE)) * LINE


@inlined
def ask_for(array, share, e):
    """Have share number e of 36 near before it is needed.

    The memory has nothing to do while products are computed; what it brings meanwhile nobody waits
    for later. Saves 6 to 8 % of a convolution (16 to 64 channels, batch 128, one thread of an Intel
    Emerald Rapids, 2026-11-29).
    """
    start = share[0] + e * share[1]
    for k in range(start, start + share[1], LINE):
        prefetch(array, k)


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


@inlined
def pixels_of(first, tiles, s):
    """How many pixels belong to the tiles first, first + 1, ..."""
    count = 0
    n, i, j = place_of(first, s)
    for _ in range(tiles):
        count += min(4, s.OH - 4 * i) * min(4, s.OW - 4 * j)
        n, i, j = step(n, i, j, s)
    return count
