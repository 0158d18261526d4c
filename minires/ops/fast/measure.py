"""What a recorder writes down of an array, at the speed at which memory is read.

Chunks that fit into the first cache are read twice, once for their sums and once around their mean.
All on the calling thread: a recorder also sits in models of the reference ops, and threads that
wait for its next array would keep the cores from BLAS.
"""

import numpy as np

from minires.ops import reference
from minires.ops.fast.jit import PARTS, kernel, part_of
from minires.ops.reference.measure import join, within_range

CHUNK = 4096  # numbers
WIDTH = 32  # sums side by side


def statistics(x):
    """Norm, mean, standard deviation and share of zeros; see `reference`."""
    if not x.size:
        return reference.statistics(x)
    x = np.ascontiguousarray(x).reshape(-1)
    sizes = np.full(-(-x.size // CHUNK), CHUNK)
    sizes[-1] = x.size - CHUNK * (len(sizes) - 1)
    found = np.zeros((len(sizes), 4))
    chunk_sums.alone(PARTS, x, found, np.empty((PARTS, 4, WIDTH)))
    return within_range(statistics, x, join(found, sizes))


def inner_product(a, b):
    """The sum of a * b, added in float64; see `reference`."""
    a, b = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    found = np.zeros((PARTS, WIDTH))
    products.alone(PARTS, a, b, found)
    return float(found.sum())


@kernel
def chunk_sums(k, x, found, scratch):
    """Part k of the rows (sum x, sum x^2, sum (x - its mean)^2, zeros), one a chunk."""
    sums, chunks = scratch[k], len(found)
    for chunk in range(k * chunks // PARTS, (k + 1) * chunks // PARTS):
        part = x[chunk * CHUNK : min(x.size, (chunk + 1) * CHUNK)]
        whole = part.size - part.size % WIDTH
        sums[:] = 0
        for i in range(0, whole, WIDTH):
            for c in range(WIDTH):
                number = np.float64(part[i + c])
                sums[0, c] += number
                sums[1, c] += number * number
                sums[3, c] += 1.0 if number == 0 else 0.0
        for i in range(whole, part.size):
            number = np.float64(part[i])
            sums[0, 0] += number
            sums[1, 0] += number * number
            sums[3, 0] += 1.0 if number == 0 else 0.0
        mean = sums[0].sum() / part.size
        for i in range(0, whole, WIDTH):
            for c in range(WIDTH):
                far = np.float64(part[i + c]) - mean
                sums[2, c] += far * far
        for i in range(whole, part.size):
            far = np.float64(part[i]) - mean
            sums[2, 0] += far * far
        for row in range(4):
            found[chunk, row] = sums[row].sum()


@kernel
def products(k, a, b, found):
    """Part k of the sum of products, as WIDTH sums."""
    a, b, sums = part_of(a, k), part_of(b, k), found[k]
    whole = a.size - a.size % WIDTH
    for i in range(0, whole, WIDTH):
        for c in range(WIDTH):
            sums[c] += np.float64(a[i + c]) * np.float64(b[i + c])
    for i in range(whole, a.size):
        sums[0] += np.float64(a[i]) * np.float64(b[i])
