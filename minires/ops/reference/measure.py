"""What a recorder writes down of an array: four numbers in one pass over memory."""

import math
from typing import NamedTuple

import numpy as np

IN_CACHE = 2**15  # numbers


class Statistics(NamedTuple):
    """Of all numbers of an array.

    Attributes
    ----------
    norm : float
        Euclidean, sqrt(sum x^2).
    mean, std : float
        std divides by the number of numbers.
    zeros : float
        Share of the numbers that are exactly 0.
    """

    norm: float
    mean: float
    std: float
    zeros: float


QUIET = np.errstate(over="ignore", invalid="ignore")  # a recorder is there to see them


@QUIET
def statistics(x):
    """Norm, mean, standard deviation and share of zeros, added in float64.

    Parameters
    ----------
    x : any shape, float

    Returns
    -------
    statistics : Statistics
        All NaN for an array without numbers.

    Notes
    -----
    One chunk after the other, while it is in the cache, each around its own mean; then

        sum (x - mean)^2 = sum over chunks of (spread + size (chunk's mean - mean)^2),

    which keeps its digits where std is small beside the mean; E[x^2] - mean^2 loses them.

    References
    ----------
    Chan, Golub and LeVeque (1983), The American Statistician 37(3), 242-247.
    """
    flat = x.reshape(-1)
    chunks = [flat[i : i + IN_CACHE] for i in range(0, flat.size, IN_CACHE)]
    found = [sums_of(chunk.astype(np.float64)) for chunk in chunks]
    sizes = np.array([chunk.size for chunk in chunks])
    return within_range(statistics, x, join(np.reshape(found, (-1, 4)), sizes))


def within_range(statistics, x, found):
    """`found`, or the statistics of x anew, scaled, if its squares were too large or too small.

    A norm of 1e-170 is not 0, though its square is.
    """
    if found.norm not in (0, math.inf) or found.zeros == 1:
        return found
    largest = float(np.abs(x).max())
    if not 0 < largest < math.inf:
        return found
    scaled = statistics(x / largest)
    norm, mean, std = (float(v) * largest for v in scaled[:3])
    return Statistics(norm, mean, std, scaled.zeros)


def sums_of(x):
    """(sum x, sum x^2, sum (x - its mean)^2, zeros) of a chunk."""
    total = x.sum()
    return total, x @ x, np.square(x - total / x.size).sum(), x.size - np.count_nonzero(x)


@QUIET
def join(found, sizes):
    """Statistics of an array from those of its chunks.

    Parameters
    ----------
    found : (chunks, 4) float64
        A row of `sums_of` each.
    sizes : (chunks,) int
    """
    size = int(sizes.sum())
    if not size:
        return Statistics(*[math.nan] * 4)
    total, squares, spread, zeros = found.sum(axis=0)
    mean = total / size
    spread += (sizes * np.square(found[:, 0] / sizes - mean)).sum()
    return Statistics(
        math.sqrt(squares), float(mean), math.sqrt(spread / size), float(zeros / size)
    )


@QUIET
def inner_product(a, b):
    """The sum of a * b over all numbers, added in float64: a float.

    Parameters
    ----------
    a, b : any shape, float
        Of one shape.
    """
    a, b = a.reshape(-1), b.reshape(-1)
    cuts = range(0, a.size, IN_CACHE)
    parts = [(a[i : i + IN_CACHE], b[i : i + IN_CACHE]) for i in cuts]
    return float(sum(np.multiply(p, q, dtype=np.float64).sum() for p, q in parts))
