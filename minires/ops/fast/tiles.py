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
from minires.ops.fast.panels import (
    affine,
    affine_back,
    clear,
    copy,
    copy_rows,
    panel_width,
    spread,
)
from minires.ops.fast.simd import ROWS, lanes, load, prefetch, relu, store, where_positive
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


def row_reader(prepare, change):
    """`copy_rows` of change(...), for arrays whose C is whole registers; the border stays zero.

    prepare(lines, f) gives the coefficients of channels f, f + 1, ...
    """

    @inlined
    def read_rows(arrays, base, first, rows, lines, out, s):
        x = arrays[0]
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
                    coefficients = prepare(lines, f)
                    for p in range(f, inside * C, C):
                        store(out, o + p, change(arrays, i + p, coefficients))

    return read_rows


@inlined
def normalised(arrays, i, coefficients):
    """relu(batchnorm(x))."""
    mean, scale, beta = coefficients
    return relu((load(arrays[0], i) - mean) * scale + beta)


@inlined
def through_norm(arrays, i, coefficients):
    """The gradient in front of a batch norm of x from d, the one behind it."""
    x, d = arrays
    mean, scale, _, constant, slope = coefficients
    return spread(load(x, i) - mean, load(d, i), scale, constant, slope)


@inlined
def through_relu_and_norm(arrays, i, coefficients):
    """The same from the gradient behind the ReLU that follows the batch norm."""
    x, d = arrays
    mean, scale, beta, constant, slope = coefficients
    xmu = load(x, i) - mean
    return spread(xmu, where_positive(xmu * scale + beta, load(d, i)), scale, constant, slope)


normalise_rows = row_reader(affine, normalised)
gradient_rows = row_reader(affine_back, through_norm)
masked_gradient_rows = row_reader(affine_back, through_relu_and_norm)


@inlined
def stale(held, row, i, s):
    """Whether a row of tiles, the i-th of its image, is not in the band that begins with `held`."""
    return held < 0 or row >= held + s.deep or (i == 0 and row != held)


@inlined
def band_rows(held, n, s):
    """Which rows of image n are in the band: the first, how many."""
    above = held - n * s.down
    return 4 * above - s.top, 4 * min(s.deep, s.down - above) + 2


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
        if stale(held, row, i, s):
            held = row - i % s.deep
            top, rows = band_rows(held, n, s)
            if lines.shape[1] > 0:
                normalise_rows((x,), n * s.H, top, rows, lines, band, s)
            else:
                copy_rows(x, n * s.H, s.H, s.W, s.C, top, rows, s.left, s.width, s.cs, band)
        o = ((row - held) * 4 * s.width + j * 4) * s.cs
        tile_in(band, o, s.width * s.cs, s.cs, V, t * 36 * v, s.cs)
        n, i, j = step(n, i, j, s)
    return held


@inlined
def tiles_of_gradient(arrays, lines, masks, first, tiles, band, held, V, M, s):
    """`tiles_in` and `tiles_dy` of one gradient, the one in front of a batch norm.

    `arrays` are the norm's x and the gradient behind it, `masks` whether that one is behind a ReLU.
    For a kernel of 3x3 that sees one pixel of border on each side.
    """
    v = lanes(band)
    n, i, j = place_of(first, s)
    for t in range(tiles):
        row = n * s.down + i
        if stale(held, row, i, s):
            held = row - i % s.deep
            top, rows = band_rows(held, n, s)
            if masks:
                masked_gradient_rows(arrays, n * s.H, top, rows, lines, band, s)
            else:
                gradient_rows(arrays, n * s.H, top, rows, lines, band, s)
        line = s.width * s.C
        o = (row - held) * 4 * line + j * 4 * s.C
        tile_in(band, o, line, s.C, V, t * 36 * v, s.C)
        tile_dy(band, o + line + s.C, line, s.C, M, t * 36 * v, s.C)
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
        whole = rows == 4 and cols == 4 and s.fs == s.F
        place = (o, s.OW * s.F, s.F) if whole else (0, 4 * s.fs, s.fs)
        tile_out(M, t * 36 * v, bias, y if whole else edge, *place, filters)
        if not whole:
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
        width = 4 * s.across
        if not whole and (j == 0 or t == 0):
            copy_rows(dy, n * s.OH, s.OH, s.OW, s.F, 4 * i, 4, 0, width, s.fs, band)
        o = ((n * s.OH + 4 * i) * s.OW + 4 * j) * s.F if whole else j * 4 * s.fs
        tile_dy(dy if whole else band, o, width * s.fs, s.fs, M, t * 36 * v, s.fs)
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
