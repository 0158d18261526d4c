"""Sums over everything but the channels, for the gradients of biases.

A row is as many whole pixels as fill whole registers, or one pixel of many channels, whose last
register overlaps the one before. Rows are added in the dtype of the images, a few at a time, and
such sums in float64: `reference/sums.py` explains why. On several threads where there is much to
add, otherwise on this one, and where there is next to nothing pixel by pixel: NumPy would take
longer to find its way than to add.
"""

import math

import numpy as np

from minires.ops.fast.jit import CHUNKS, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.panels import FEW, WIDEST
from minires.ops.fast.simd import lanes, load, store

FEW_SUMMANDS, FEW_PIXELS = 2**12, 2**10  # below both they are added pixel by pixel
MANY = 4 * WIDEST  # channels from which a row is one pixel
CHAIN = 32  # rows added up in float32


def channel_sum(dy):
    """(..., F) -> (F,), dtype of `dy`; see `reference`, where only the result may overflow."""
    F, numbers, total = dy.shape[-1], dy.reshape(-1), np.zeros(dy.shape[-1])
    width = F if F >= MANY else F * WIDEST // math.gcd(F, WIDEST)
    rows, start = dy.size // width, 0
    if rows > 0 and (dy.size >= FEW_SUMMANDS or dy.size >= FEW_PIXELS * F):
        several = dy.size >= FEW and rows >= CHUNKS * CHAIN
        count, run = (CHUNKS, sum_rows) if several else (1, sum_rows.alone)
        parts, totals = empty((count, width), dy.dtype), np.zeros((count, width))
        run(count, numbers, rows, parts, totals)
        total, start = totals.reshape(-1, F).sum(axis=0), rows * width
    if start < dy.size:
        add_pixels.alone(1, numbers[start:], total)
    return total.astype(dy.dtype)


@kernel
def add_pixels(_, dy, total):
    """The sum of all pixels, one by one."""
    for i in range(0, dy.size, total.size):
        for f in range(total.size):
            total[f] += dy[i + f]


@kernel
def sum_rows(k, dy, rows, parts, totals):
    """The sums of some rows, which fill at least one register."""
    v, part, (count, width) = lanes(dy), parts[k], parts.shape
    start, stop = k * rows // count, (k + 1) * rows // count
    for first in range(start, stop, CHAIN):
        last = min(first + CHAIN, stop)
        for column in range(0, width, v):
            f = min(column, width - v)
            t = load(dy, first * width + f)
            for q in range(first + 1, last):
                t = t + load(dy, q * width + f)
            store(part, f, t)
        for f in range(width):
            totals[k, f] += part[f]
