"""One line of the table that an experiment prints: what is expected, and what came."""

import math
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One figure of an article and its measurement.

    Attributes
    ----------
    quantity : str
    expected, got : float
    spread : float
        Standard error of `got` over the seeds; NaN for one seed.
    tolerance : float
        How far `got` may be from `expected`: "between 2 and 4" is 3 with a tolerance of 1.
    """

    quantity: str
    expected: float
    got: float
    spread: float
    tolerance: float

    @property
    def agrees(self):
        """Whether `got` lies within the tolerance."""
        return abs(self.got - self.expected) <= self.tolerance


def row(quantity, expected, tolerance, samples):
    """The Row of a quantity that was measured once a seed.

    Parameters
    ----------
    quantity : str
    expected, tolerance : float
    samples : (S,) float
    """
    mean, error = mean_and_error(samples)
    return Row(quantity, expected, float(mean), float(error), tolerance)


def mean_and_error(samples):
    """Mean over the seeds and its standard error.

    Parameters
    ----------
    samples : (S, ...) float
        One curve a seed.

    Returns
    -------
    mean, error : (...)
        The error is NaN for one seed.
    """
    samples = np.asarray(samples, np.float64)
    S = len(samples)
    mean = samples.mean(axis=0)
    if S == 1:
        return mean, np.full_like(mean, math.nan)
    return mean, samples.std(axis=0, ddof=1) / math.sqrt(S)
