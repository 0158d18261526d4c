"""How a direct convolution goes through the images: bands in a buffer, tiles along one axis.

A band is some rows of an image, copied with the zero border; it fits into a part of the L2 cache.
Small images go into the buffer several at a time. A tile takes ROWS outputs that lie beside each
other on one axis: along a row of the image as a rule, down the columns where rows are short, or
from image to image where both are. All three are a constant step in the buffer and in the output.
"""

import functools
from typing import NamedTuple

from minires.ops.fast.jit import CHUNKS, inlined
from minires.ops.fast.panels import LITTLE, WIDEST, copy_rows, padded_size
from minires.ops.fast.simd import ROWS

BAND_BYTES = 128 * 1024  # of the buffer: a part of the L2 cache, the weights take another
MANY_BYTES = 384 * 1024  # if the weights do not fit beside it anyway, but stream past each band
FEW_PIXELS = 64  # in the images of a group, below which it grows: a tile is loaded and stored once
ALONG_ROWS, DOWN_COLUMNS, ACROSS_IMAGES = range(3)


def pixel_rows(shape, window):
    """(N, H, W) that is as good for the pixels of `shape` (N, H, W, C), and the window there.

    For a 1x1 kernel that visits every pixel it does not matter which pixels are neighbours.
    """
    N, H, W, _ = shape
    if window.kernel != (1, 1) or window.stride != (1, 1) or window.out != (H, W):
        return (N, H, W), window
    width = next((n for n in (256, 128, 64, 32, 16, 8) if N * H * W % n == 0), H * W)
    return (N * H * W // width, 1, width), window._replace(out=(1, width))


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

    N: int
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
    group: int  # images computed at a time
    items: int  # bands of all groups
    size: int  # buffer: from image to image
    axis: int  # of the tiles
    buffer: int  # numbers in the buffer; tiles may read, and ignore, some behind the band


@functools.lru_cache(maxsize=1024)
def steps(x_shape, kernel, y_shape, stride, place, itemsize, whole=False):
    """The Steps of a correlation; bands are as high as the buffer and the parallel work allow.

    With `whole` the work is shared out by filters, and images need not be cut for it.
    """
    N, H, W, C = x_shape
    KH, KW = kernel
    _, YH, YW, F = y_shape
    (SH, SW), (top, left, OH, OW, start, down, right) = stride, place
    width = (OW - 1) * SW + KW
    large = KH * KW * C * F * itemsize > MANY_BYTES
    room = (MANY_BYTES if large else BAND_BYTES) // (width * C * itemsize)  # rows
    little = N * OH * OW * KH * KW * C * F < LITTLE
    most = (
        N * OH if little or whole else -(-OH * N // (2 * CHUNKS))
    )  # rows, or there is nothing to share
    band = max(1, min((room - KH) // SH + 1, most, OH))
    height = (band - 1) * SH + KH
    group = max(1, min(N, room // height, most // OH)) if band == OH else 1
    axis, group = tile_axis(OH, OW, band, group)
    size = padded_size(height * width * C)
    behind = ROWS * (SW * C, SH * width * C, size)[axis]
    return Steps(
        *(N, H, W, C, F, KH, KW, SH, SW, top, left, OH, OW, width, start),
        image=YH * YW * F,
        row=down * YW * F,
        pixel=right * F,
        band=band,
        bands=-(-OH // band),
        group=group,
        items=-(-N // group) * -(-OH // band),
        size=size,
        axis=axis,
        buffer=group * size + padded_size(behind + WIDEST),
    )


def tile_axis(OH, OW, band, group):
    """Along which axis fewer rows of the tiles are idle, and how many of `group` images to take."""
    waste = idle_rows(OW), idle_rows(band), idle_rows(group - group % ROWS or group)
    axis = waste.index(min(waste)) if waste[ALONG_ROWS] > 1 / 4 else ALONG_ROWS
    if axis == ACROSS_IMAGES:
        return axis, group - group % ROWS or group
    return axis, min(group, -(-FEW_PIXELS // (OH * OW)))


def idle_rows(n):
    """The share of a tile's rows that hang over if it takes its outputs from `n`."""
    return 1 - n / (-(-n // ROWS) * ROWS)


def multiply_adds(s):
    """Multiplications of a correlation."""
    return s.N * s.OH * s.OW * s.KH * s.KW * s.C * s.F


@inlined
def item_of(item, s):
    """The images (first, count) and output rows (first, count) of an item."""
    n, h = item // s.bands * s.group, item % s.bands * s.band
    return n, min(s.group, s.N - n), h, min(s.band, s.OH - h)


@inlined
def copy_band(x, images, first, rows, buffer, s):
    """What the output rows first, first + 1, ... of some images (first, count) see."""
    top, count = first * s.SH - s.top, (rows - 1) * s.SH + s.KH
    for n in range(images[1]):
        band = buffer[n * s.size : (n + 1) * s.size]
        base = (images[0] + n) * s.H
        copy_rows(x, base, s.H, s.W, s.C, top, count, s.left, s.width, s.C, band)


@inlined
def axes(images, rows, s):
    """Three loops (count, step in the buffer, step in y), the last along the tiles."""
    across = images, s.size, s.image
    down = rows, s.SH * s.width * s.C, s.row
    along = s.OW, s.SW * s.C, s.pixel
    if s.axis == ALONG_ROWS:
        return across, down, along
    if s.axis == DOWN_COLUMNS:
        return across, along, down
    return down, along, across
