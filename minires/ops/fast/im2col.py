"""The loops of im2col and col2im: what `columns.py` multiplies, and what it sends back.

`write_columns` reads the image without a border. `fold` is its transpose. Windows that overlap in a
row would add to numbers that the window before has just stored, in another place of a register: a
CPU then waits until they have left its store buffer. So a pixel asks instead which windows see it,
and adds up in a register what they have for it.
"""

from typing import NamedTuple

from minires.ops.fast.jit import PARTS, inlined, kernel
from minires.ops.fast.panels import add, clear, copy
from minires.ops.fast.simd import lanes, load, load_between, same, store, store_first


class Seen(NamedTuple):
    """Images and the windows on them."""

    N: int
    H: int
    W: int
    C: int
    KH: int
    KW: int
    SH: int
    SW: int
    top: int
    left: int
    OH: int
    OW: int


def seen(shape, window):
    """Their sizes."""
    (top, _), (left, _) = window.padding
    return Seen(*shape, *window.kernel, *window.stride, top, left, *window.out)


@inlined
def inside(ow, s):
    """The taps (first, last) of a window that lie in the image, and the column of tap 0."""
    left = ow * s.SW - s.left
    first = min(s.KW, max(0, -left))  # KW, if no tap does
    return first, max(first, min(s.KW, s.W - left)), left


@inlined
def unclipped(s):
    """The windows (first, last) of a row that have all their taps in the image."""
    first = min(s.OW, (s.left + s.SW - 1) // s.SW)
    return first, max(first, min(s.OW, (s.W + s.left - s.KW + s.SW) // s.SW))


@inlined
def write_clipped(x, row, cols, o, ow, s):
    """A kernel row that hangs over the image at its left, its right or both."""
    first, last, left = inside(ow, s)
    i, n, start, stop = (row + left) * s.C, s.KW * s.C, first * s.C, last * s.C
    if n <= lanes(x):
        store_first(cols, o, n, load_between(x, i, start, stop))
    else:
        clear(cols, o, n)
        copy(x, i + start, cols, o + start, stop - start)


@kernel
def write_columns(k, x, cols, s):
    """The columns of some rows of output pixels."""
    run = s.KW * s.C
    pixel = s.KH * run
    first, last = unclipped(s)
    for line in range(k * s.N * s.OH // PARTS, (k + 1) * s.N * s.OH // PARTS):
        n, oh = line // s.OH, line % s.OH
        for kh in range(s.KH):
            h, o = oh * s.SH - s.top + kh, line * s.OW * pixel + kh * run
            row = (n * s.H + h) * s.W
            if h < 0 or h >= s.H:
                for ow in range(s.OW):
                    clear(cols, o + ow * pixel, run)
                continue
            for ow in range(first):
                write_clipped(x, row, cols, o + ow * pixel, ow, s)
            i, step = (row - s.left) * s.C, s.SW * s.C
            if run == pixel == step:  # one window begins where the last ended
                copy(x, i + first * step, cols, o + first * pixel, (last - first) * run)
            else:
                for ow in range(first, last):
                    copy(x, i + ow * step, cols, o + ow * pixel, run)
            for ow in range(last, s.OW):
                write_clipped(x, row, cols, o + ow * pixel, ow, s)


@inlined
def sum_of_windows(dcols, i, rows, cols, down, right):
    """One register of channels of a pixel, from all windows that see it."""
    t = same(dcols, 0)
    for r in range(rows):
        for q in range(cols):
            t = t + load(dcols, i + r * down + q * right)
    return t


@inlined
def sum_of_first(dcols, i, rows, cols, down, right, n):
    """The same for the last n channels, which do not fill a register (masks cost AVX2 more)."""
    t = same(dcols, 0)
    for r in range(rows):
        for q in range(cols):
            t = t + load_between(dcols, i + r * down + q * right, 0, n)
    return t


@inlined
def collect(dcols, dx, line, n, below, top, bottom, s):
    """A row of dx, pixel by pixel: what windows have for it adds up in a register."""
    v, pixel = lanes(dx), s.KH * s.KW * s.C
    down, across = s.OW * pixel - s.SH * s.KW * s.C, pixel - s.SW * s.C  # from window to window
    full = s.C - s.C % v
    for w in range(s.W):
        right = w + s.left
        first, last = max(0, right - s.KW + s.SW) // s.SW, min(s.OW - 1, right // s.SW)
        tap = (below - top * s.SH) * s.KW + right - first * s.SW
        i, o = ((n * s.OH + top) * s.OW + first) * pixel + tap * s.C, (line * s.W + w) * s.C
        windows = bottom + 1 - top, last + 1 - first, down, across
        for c in range(0, full, v):
            store(dx, o + c, sum_of_windows(dcols, i + c, *windows))
        if full < s.C:
            rest = s.C - full
            store_first(dx, o + full, rest, sum_of_first(dcols, i + full, *windows, rest))


@inlined
def spread_out(dcols, dx, line, n, below, top, bottom, s):
    """A row of dx, window by window, where windows have no pixels of a row in common."""
    run, pixel, row = s.KW * s.C, s.KH * s.KW * s.C, line * s.W
    clear(dx, row * s.C, s.W * s.C)
    for oh in range(top, bottom + 1):
        o = (n * s.OH + oh) * s.OW * pixel + (below - oh * s.SH) * run
        for ow in range(s.OW):
            first, last, left = inside(ow, s)
            start = first * s.C
            add(dcols, o + start, dx, (row + left) * s.C + start, (last - first) * s.C)
            o += pixel


@kernel
def fold(k, dcols, dx, s):
    """Some rows of dx: each pixel is the sum of what the windows that see it have for it.

    One that is seen once a row at most need not be collected.
    """
    for line in range(k * s.N * s.H // PARTS, (k + 1) * s.N * s.H // PARTS):
        n, below = line // s.H, line % s.H + s.top
        top, bottom = max(0, below - s.KH + s.SH) // s.SH, min(s.OH - 1, below // s.SH)
        if s.KW <= s.SW:
            spread_out(dcols, dx, line, n, below, top, bottom, s)
        else:
            collect(dcols, dx, line, n, below, top, bottom, s)
