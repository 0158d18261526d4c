"""What a recorder writes down of an array, at the speed at which memory is read.

Sums of small chunks, each around its first number, so that one pass is enough and no digits are
lost where the numbers lie far from 0. The compiler may add them in any order, which it needs to
use its registers; it is the same order every time. All on the calling thread: a recorder also sits
in models of the reference ops, and threads that wait for its next array would keep the cores from
BLAS. Measured: 0.2 ns a number, a quarter of it for reading memory (AMD EPYC, Zen 4, 2026-11).
"""

import functools

import numpy as np

from minires.ops import reference
from minires.ops.fast.jit import PARTS, inlined, kernel, part_of
from minires.ops.reference.measure import join, within_range

CHUNK = 4096  # numbers
in_any_order = functools.partial(inlined, fastmath={"reassoc", "nsz"})


def statistics(x):
    """Norm, mean, standard deviation and share of zeros; see `reference`."""
    if not x.size:
        return reference.statistics(x)
    x = np.ascontiguousarray(x).reshape(-1)
    sizes = np.full(-(-x.size // CHUNK), CHUNK)
    sizes[-1] = x.size - CHUNK * (len(sizes) - 1)
    found = np.empty((len(sizes), 4))
    chunk_sums.alone(PARTS, x, found)
    return within_range(statistics, x, join(found, sizes))


def inner_product(a, b):
    """The sum of a * b, added in float64; see `reference`."""
    a, b = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    found = np.empty(PARTS)
    products.alone(PARTS, a, b, found)
    return float(found.sum())


@kernel
def chunk_sums(k, x, found):
    """Part k of the rows (sum x, sum x^2, sum (x - its mean)^2, zeros), one a chunk."""
    chunks = len(found)
    for chunk in range(k * chunks // PARTS, (k + 1) * chunks // PARTS):
        part, row = x[chunk * CHUNK : min(x.size, (chunk + 1) * CHUNK)], found[chunk]
        centre, n = np.float64(part[0]), part.size
        squares, first, second, zeros = sums_around(part, centre)
        spread = second - first * first / n
        row[0], row[1], row[3] = first + n * centre, squares, zeros
        row[2] = spread if not spread < 0 else 0.0  # by a rounding


@in_any_order
def sums_around(x, centre):
    """sum x^2, sum (x - centre), sum (x - centre)^2, and how many numbers are 0."""
    squares, first, second, zeros = 0.0, 0.0, 0.0, 0
    for i in range(x.size):
        number = np.float64(x[i])
        far = number - centre
        squares += number * number
        first += far
        second += far * far
        zeros += x[i] == 0
    return squares, first, second, zeros


@kernel
def products(k, a, b, found):
    """Part k of the sum of products."""
    found[k] = product(part_of(a, k), part_of(b, k))


@in_any_order
def product(a, b):
    total = 0.0
    for i in range(min(a.size, b.size)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total
