"""What kernels share: packed weights, image rows with their zero border, a norm's coefficients."""

import numpy as np

from minires.ops.fast.jit import inlined, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.simd import BITS, lanes, load, load_between, same, store, store_first

FEW = 2**17  # numbers for which other threads are not woken
LITTLE = 2**20  # and multiply-adds


def panel_width(dtype):
    """Filters side by side in a panel: two registers."""
    return 2 * BITS // (8 * np.dtype(dtype).itemsize)


def pack(weight, taps=None):
    """(taps, C, F) -> (ceil(F / width), taps * C, width) in one dimension, filled up with zeros.

    A tile that runs through the taps then reads the weights of its filters from first to last.
    `taps` are the numbers of those that are wanted, in their order; all, if left out.
    """
    count, C, F = weight.shape
    taps = np.arange(count) if taps is None else np.array(taps)
    width = panel_width(weight.dtype)
    panels = empty((-(-F // width), len(taps) * C, width), weight.dtype)
    run = fill.alone if panels.size < FEW else fill.aside
    run(len(panels) * len(taps), np.ascontiguousarray(weight).reshape(-1), taps, F, panels)
    return panels.reshape(-1)


def by_taps(weight):
    """(KH, KW, C, F) -> (KH*KW, C, F)."""
    return weight.reshape(-1, *weight.shape[2:])


def turned(weight):
    """(KH, KW, C, F) -> (KH, KW, F, C), upside down and right to left."""
    KH, KW, C, F = weight.shape
    out = empty((KH, KW, F, C), weight.dtype)
    run = turn.alone if weight.size < FEW else turn.aside
    run(KH * KW * -(-C // SIDE), by_taps(np.ascontiguousarray(weight)), by_taps(out))
    return out


def padded(bias):
    """(F,) -> a whole number of panels, filled up with zeros."""
    width = panel_width(bias.dtype)
    if len(bias) % width == 0 and bias.flags.c_contiguous:
        return bias
    full = np.zeros(-(-len(bias) // width) * width, bias.dtype)
    full[: len(bias)] = bias
    return full


def padded_size(n):
    """`n` rounded up to whole registers of any width."""
    return -(-n // WIDEST) * WIDEST


WIDEST = 16  # numbers in the widest register


MEAN, SCALE, BETA, CONSTANT, SLOPE = range(5)  # the rows of a batch norm's coefficients


@inlined
def affine(lines, f):
    """Three registers of coefficients: mean, scale, beta."""
    return load(lines[MEAN], f), load(lines[SCALE], f), load(lines[BETA], f)


@inlined
def affine_back(lines, f):
    """Five: also constant and slope, which `spread` takes."""
    return *affine(lines, f), load(lines[CONSTANT], f), load(lines[SLOPE], f)


@inlined
def spread(xmu, d, scale, constant, slope):
    """The gradient in front of a batch norm, from d behind it and xmu = x - mean."""
    return scale * (d - constant - xmu * slope)


@inlined
def clear(a, i, n):
    """a[i : i + n] = 0."""
    v = lanes(a)
    last = i + n - n % v
    for j in range(i, last, v):
        store(a, j, same(a, 0))
    if last < i + n and n > v:
        store(a, i + n - v, same(a, 0))
    elif last < i + n:
        store_first(a, last, n, same(a, 0))


@inlined
def copy(source, i, target, j, n):
    """target[j : j + n] = source[i : i + n]."""
    v = lanes(source)
    last = n - n % v
    for k in range(0, last, v):
        store(target, j + k, load(source, i + k))
    if last < n:
        rest = n - last
        store_first(target, j + last, rest, load_between(source, i + last, 0, rest))


@inlined
def add(source, i, target, j, n):
    """target[j : j + n] += source[i : i + n]."""
    v = lanes(source)
    last = n - n % v
    for k in range(0, last, v):
        store(target, j + k, load(target, j + k) + load(source, i + k))
    if last < n:
        rest = n - last
        total = load_between(target, j + last, 0, rest) + load_between(source, i + last, 0, rest)
        store_first(target, j + last, rest, total)


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


@kernel
def fill(item, weight, taps, F, panels):
    """One tap of one panel, for all channels."""
    width, C = panels.shape[2], panels.shape[1] // taps.size
    block, tap = item // taps.size, item % taps.size
    f0 = block * width
    filters = min(width, F - f0)
    out = panels[block].reshape(-1)
    for c in range(C):
        o = (tap * C + c) * width
        copy(weight, (taps[tap] * C + c) * F + f0, out, o, filters)
        clear(out, o + filters, width - filters)


SIDE = 16  # of a square of numbers


@kernel
def turn(item, weight, out):
    """Some channels of one tap, square by square, so that neither side leaves the cache."""
    taps, C, F = weight.shape
    blocks = -(-C // SIDE)
    tap, c0 = item // blocks, item % blocks * SIDE
    for f0 in range(0, F, SIDE):
        for f in range(f0, min(f0 + SIDE, F)):
            for c in range(c0, min(c0 + SIDE, C)):
                out[taps - 1 - tap, f, c] = weight[tap, c, f]
