"""What both convolutions share: packed weights, and image rows copied with their zero border."""

import numpy as np

from minires.ops.fast.jit import inlined, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.simd import BITS

FEW = 2**17  # numbers for which other threads are not woken


def panel_width(dtype):
    """Filters side by side in a panel: two registers."""
    return 2 * BITS // (8 * np.dtype(dtype).itemsize)


def pack(weight):
    """(KH, KW, C, F) -> (ceil(F / width), KH*KW*C, width) in one dimension, filled up with zeros.

    A tile that runs through the taps then reads the weights of its filters from first to last.
    """
    KH, KW, C, F = weight.shape
    width = panel_width(weight.dtype)
    panels = empty((-(-F // width), KH * KW * C, width), weight.dtype)
    run = fill.alone if weight.size < FEW else fill.aside
    run(len(panels) * KH * KW, weight if weight.flags.c_contiguous else any_strides(weight), panels)
    return panels.reshape(-1)


def any_strides(a):
    """A view that Numba compiles one kernel for, whatever the strides."""
    return np.lib.stride_tricks.as_strided(a, a.shape, a.strides)


def padded(bias):
    """(F,) -> a whole number of panels, filled up with zeros."""
    width = panel_width(bias.dtype)
    if len(bias) % width == 0 and bias.flags.c_contiguous:
        return bias
    full = np.zeros(-(-len(bias) // width) * width, bias.dtype)
    full[: len(bias)] = bias
    return full


@kernel
def fill(item, weight, panels):
    """One tap of one panel, for all channels."""
    KH, KW, C, F = weight.shape
    width = panels.shape[2]
    block, tap = item // (KH * KW), item % (KH * KW)
    kh, kw = tap // KW, tap % KW
    f0 = block * width
    filters = min(width, F - f0)
    for c in range(C):
        row = panels[block, tap * C + c]
        for f in range(filters):
            row[f] = weight[kh, kw, c, f0 + f]
        for f in range(filters, width):
            row[f] = 0


def padded_size(n):
    """`n` rounded up to whole registers of any width."""
    return -(-n // WIDEST) * WIDEST


WIDEST = 16  # numbers in the widest register


@inlined
def clear(a, i, n):
    """a[i : i + n] = 0."""
    part = a[i : i + n]
    for j in range(part.size):
        part[j] = 0


@inlined
def copy(source, i, target, j, n):
    """target[j : j + n] = source[i : i + n]."""
    s, t = source[i : i + n], target[j : j + n]
    for k in range(min(s.size, t.size)):
        t[k] = s[k]


@inlined
def copy_rows(x, base, H, W, C, first, rows, left, width, channels, out):
    """Rows first, first + 1, ... of the image whose row 0 is row `base` of x, zero border included.

    out is (rows, width, channels) with channels >= C; `left` zero columns stand before the image,
    or, if negative, that many of its columns are skipped.
    """
    before = min(max(left, 0), width)
    skip = max(-left, 0)
    inside = max(0, min(W - skip, width - before))
    size = width * channels
    for r in range(rows):
        h = first + r
        if h < 0 or h >= H or channels != C:
            clear(out, r * size, size)
        if 0 <= h < H:
            i, o = ((base + h) * W + skip) * C, r * size + before * channels
            if channels == C:
                clear(out, r * size, before * C)
                copy(x, i, out, o, inside * C)
                clear(out, o + inside * C, size - (before + inside) * C)
            else:
                for p in range(inside):
                    copy(x, i + p * C, out, o + p * channels, C)
