"""Slopes by central differences, and what they say about a gradient that was claimed.

The function is f = <y, dy> with a fixed random dy. Nudging an array by h along v gives the slope
(f(+h) - f(-h)) / 2h, which the gradient claims to be <gradient, v>. The outputs are subtracted
before they are summed: what the nudge does not reach cancels exactly and adds no noise.
"""

from dataclasses import dataclass

import numpy as np

EPS = np.finfo(np.float64).eps
NOISE = 30  # rounding errors that a forward pass may add up, in units of EPS


@dataclass
class Slope:
    """One measured slope beside the claimed one."""

    where: object  # entry index, or "direction k"
    analytic: float
    numeric: float
    kink: float  # sum of |slope ahead - slope behind|: of order h where y is smooth
    noise: float  # what rounding alone may make of a slope of 0


@dataclass
class Comparison:
    """All slopes of one array, split in entries and directions, which have sizes of their own."""

    how: str
    groups: list  # of lists of Slope


def compare(subject, target, gradient, dy, y, *, h, max_entries, directions, rng):
    """Measure the slopes of one array and put them beside the claimed gradient.

    Small arrays are checked entry by entry. Large ones along random directions, each of which
    sees every entry at the cost of two forward passes, and at some entries as well.
    """
    array = target.array
    probe = Probe(subject, array, gradient, dy, y, h)
    if array.size <= max_entries:
        slopes = [probe.entry(i) for i in range(array.size)]
        return Comparison("every entry", [slopes])
    some = rng.choice(array.size, size=min(64, max_entries), replace=False)
    along = [probe.direction(k, rng) for k in range(directions)]
    how = f"{directions} directions, {len(some)} entries"
    return Comparison(how, [along, [probe.entry(i) for i in some]])


class Probe:
    """Nudges one array and watches y."""

    def __init__(self, subject, array, gradient, dy, y, h):
        self.subject, self.array, self.gradient = subject, array, gradient
        self.dy, self.y, self.h = dy, y, h

    def entry(self, i):
        """The slope along entry `i` of the flattened array."""
        index = tuple(int(k) for k in np.unravel_index(i, self.array.shape))
        old = self.array[index]
        above, below = old + self.h, old - self.h  # rounded, so the step is not exactly h

        def put(value):
            self.array[index] = value

        return self.slope(index, self.gradient[index], put, (above, old, below), above - below)

    def direction(self, k, rng):
        """The slope along a random unit vector: short steps in each entry, so few meet a kink."""
        v = rng.standard_normal(self.array.shape)
        v /= np.linalg.norm(v)
        old = self.array.copy()

        def put(value):
            self.array[...] = value

        analytic = float((self.gradient * v).sum())
        steps = (old + self.h * v, old, old - self.h * v)
        return self.slope(f"direction {k}", analytic, put, steps, 2 * self.h)

    def slope(self, where, analytic, put, steps, width):
        above, old, below = steps
        try:
            put(above)
            ahead = np.array(self.subject.forward(), dtype=np.float64)
            put(below)
            behind = np.array(self.subject.forward(), dtype=np.float64)
        finally:
            put(old)
        numeric = float(((ahead - behind) * self.dy).sum()) / width
        kink = float(np.abs(((ahead - self.y) + (behind - self.y)) * self.dy).sum())
        reached = self.dy * (np.abs(ahead) + np.abs(behind)) * (ahead != behind)
        noise = NOISE * EPS * float(np.linalg.norm(reached)) / width
        return Slope(where, float(analytic), numeric, kink / (width / 2), noise)


def worst_of(slopes):
    """(relative error, its slope, what the error may be at this size, noise) of one group.

    The error is relative to the largest slope of the group, so that entries whose gradient is 0
    by chance need no rule of their own.
    """
    size = max(max(abs(s.analytic), abs(s.numeric)) for s in slopes)
    worst = max(slopes, key=lambda s: difference(s))
    noise = max(s.noise for s in slopes)
    error = difference(worst) / size if size > 0 else 0.0
    return error, worst, noise / size if size > 0 else 0.0, size <= noise


def difference(slope):
    """|analytic - numeric|; a NaN is as wrong as can be."""
    d = abs(slope.analytic - slope.numeric)
    return d if np.isfinite(d) else np.inf


def on_a_kink(slope, allowed):
    """Whether a kink may explain a wrong slope: ahead and behind disagree by about as much.

    A kink within reach of the step shifts the central difference by at most half of its jump;
    where several meet, as in overlapping pooling windows, their jumps can cancel in part, hence
    the generous factor. Nothing is excused by it: the sample is moved and has to pass there.
    """
    return difference(slope) > allowed and slope.kink >= 0.05 * difference(slope)
