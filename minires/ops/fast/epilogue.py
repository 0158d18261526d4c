"""What a convolution does with its output while that is still in the cache.

A residual sum, a ReLU, and the statistics that the batch norm behind it needs: as passes of their
own, each reads the whole image from memory again.
"""

from typing import NamedTuple

import numpy as np

from minires.ops.fast.jit import PARTS, inlined, kernel
from minires.ops.fast.panels import FEW
from minires.ops.fast.simd import lanes, load, relu, store


class After(NamedTuple):
    """What comes after a convolution."""

    adds: bool  # another image
    rectifies: bool
    measures: bool  # mean and squares of each filter


class Moments(NamedTuple):
    """Mean and sum of squared distances from it, of each part of an output."""

    parts: np.ndarray  # (PARTS, 2, F) float64
    counts: np.ndarray  # (PARTS,) int, pixels


def moments(F):
    """Room for the Moments of F filters."""
    return Moments(np.zeros((PARTS, 2, F)), np.zeros(PARTS, np.int64))


NOTHING = moments(1)


def join(parts, counts, dtype):
    """Mean and biased variance (F,) of all parts."""
    F = parts.shape[2]
    mean, var = np.empty(F, dtype), np.empty(F, dtype)
    join_parts.alone(1, parts, counts, mean, var)
    return mean, var


@inlined
def finish(y, i, n, other, after):
    """y[i : i + n] = relu(y + other), either step only if it comes after."""
    v = lanes(y)
    last = i + n - n % v
    for j in range(i, last, v):
        t = load(y, j)
        if after.adds:
            t = t + load(other, j)
        if after.rectifies:
            t = relu(t)
        store(y, j, t)
    zero = y.dtype.type(0)
    for j in range(last, i + n):
        t = y[j] + other[j] if after.adds else y[j]
        y[j] = zero if after.rectifies and t <= zero else t


def finish_in_place(y, other=None, relu=False):
    """y = relu(y + other), either step only if asked for, in a pass of its own."""
    after = After(other is not None, relu, False)
    run = finish_part.alone if y.size < FEW else finish_part
    y = y.reshape(-1)
    run(PARTS, y, y if other is None else other.reshape(-1), after)


@kernel
def finish_part(k, y, other, after):
    i, j = k * y.size // PARTS, (k + 1) * y.size // PARTS
    finish(y, i, j - i, other, after)


# ---- statistics: sums (3, F) are a shift, near the mean, and the sums of distances and squares


@inlined
def sample(y, o, rows, cols, sums, s):
    """Begin the sums: the shift is the mean of the rows x cols pixels at y[o]."""
    v = lanes(y)
    share = y.dtype.type(1) / y.dtype.type(rows * cols)
    for f in range(0, s.F, v):
        total = load(y, o + f)
        zero = total - total
        for r in range(rows):
            for c in range(cols):
                if r + c > 0:
                    total = total + load(y, o + (r * s.OW + c) * s.F + f)
        store(sums, f, total)
        store(sums, s.F + f, zero)
        store(sums, 2 * s.F + f, zero)
    for f in range(s.F):
        sums[f] *= share


@inlined
def measure(y, o, rows, cols, sums, s):
    """Add the rows x cols pixels at y[o]."""
    v = lanes(y)
    for f in range(0, s.F, v):
        shift, total, squares = load(sums, f), load(sums, s.F + f), load(sums, 2 * s.F + f)
        for r in range(rows):
            for c in range(cols):
                d = load(y, o + (r * s.OW + c) * s.F + f) - shift
                total = total + d
                squares = squares + d * d
        store(sums, s.F + f, total)
        store(sums, 2 * s.F + f, squares)


@inlined
def join_block(sums, n, part, seen):
    """Join n pixels with the `seen` ones that part (2, F) describes; returns how many there are.

    The formula of Chan et al. (1983); see `batchnorm.py`.
    """
    F = part.shape[1]
    for c in range(F):
        total, squares = np.float64(sums[F + c]), np.float64(sums[2 * F + c])
        off = sums[c] + total / n - part[0, c]
        part[1, c] += squares - total * total / n + off * off * seen * n / (seen + n)
        part[0, c] += off * n / (seen + n)
    return seen + n


@kernel
def join_parts(_, parts, counts, mean, var):
    """One part after the other, by the same formula."""
    for c in range(mean.size):
        count, m, m2 = 0, 0.0, 0.0
        for k in range(len(parts)):
            n = counts[k]
            if n:
                off = parts[k, 0, c] - m
                m2 += parts[k, 1, c] + off * off * count * n / (count + n)
                m += off * n / (count + n)
                count += n
        mean[c] = m
        var[c] = m2 / count
