"""Slopes by central differences, and what they say about a gradient that was claimed.

The function is f = <y, dy> with a fixed random dy. Nudging an array by h along v gives the slope
(f(+h) - f(-h)) / 2h, which the gradient claims to be <gradient, v>. The outputs are subtracted
before they are summed: what the nudge does not reach cancels exactly and adds no noise.

A slope that disagrees is measured again with other steps before anybody is blamed: the error of
a difference has a part that falls as h^2 (curvature) and one that grows as 1/h (rounding).
"""

import itertools
from dataclasses import dataclass

import numpy as np

EPS = np.finfo(np.float64).eps
STEPS = 1 / 16, 1 / 4, 1, 16, 256, 4096  # in units of h, where a slope is measured again
TINY = 1 / 1024, 1 / 700, 1 / 512  # the like, where a smooth function is straight
FOLD = 1e-2  # slopes ahead and behind that differ by more, of the largest, may mean a kink
NOISE = 30  # rounding errors that a forward pass may add up, in units of EPS


@dataclass
class Slope:
    """One measured slope beside the claimed one."""

    where: object  # entry index, or the name of a direction
    analytic: float
    numeric: float
    kink: float  # sum of |slope ahead - slope behind|: of order h where y is smooth
    noise: float  # how far off the measurement may be
    is_kink: bool = False  # measured again, it disagrees, and does so because of a kink

    @property
    def difference(self):
        """|analytic - numeric|; a NaN is as wrong as can be."""
        d = abs(self.analytic - self.numeric)
        return d if np.isfinite(d) else np.inf


@dataclass
class Comparison:
    """All slopes of one array: entries and directions, which have sizes of their own."""

    how: str
    groups: list  # of lists of Slope
    folded: bool  # whether some slope stands on a kink, be it that the claim agrees with the mean


def size_of(slopes):
    """The largest slope of a group: what errors are relative to."""
    values = np.abs([v for s in slopes for v in (s.analytic, s.numeric)])
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def compare(subject, target, gradient, dy, y, *, tolerance, h, max_entries, directions, rng):
    """Measure the slopes of one array and put them beside the claimed gradient.

    Small arrays are checked entry by entry. Large ones along random directions, each of which
    sees every entry at the cost of two forward passes, and at some entries as well.
    """
    array = target.array
    probe = Probe(subject, array, gradient, dy, y, h)
    if array.size <= max_entries:
        groups, how = [[probe.entry(i) for i in range(array.size)]], "every entry"
    else:
        some = rng.choice(array.size, size=min(64, max_entries), replace=False)
        along = [
            probe.along(f"direction {k}", random_direction(array, rng)) for k in range(directions)
        ]
        groups = [along, [probe.entry(i) for i in some]]
        how = f"{directions} directions, {len(some)} entries"
    folded = any(s.kink > FOLD * size_of(slopes) + s.noise for slopes in groups for s in slopes)
    again = [probe.measure_again(slopes, tolerance) for slopes in groups]
    return Comparison(how, again, folded)


def random_direction(array, rng):
    """A random unit vector: short steps in each entry, so that few of them meet a kink."""
    v = rng.standard_normal(array.shape)
    return v / np.linalg.norm(v)


def common_shifts(array, rng):
    """Directions in which equal entries stay equal: all ones, and one number a row or channel.

    Along them a tie in max pooling is no kink, so the slope is known even at the tie.
    """
    yield "all entries together", np.ones(array.shape)
    for axis in {0, array.ndim - 1} if array.ndim > 1 else ():
        shape = [1] * array.ndim
        shape[axis] = array.shape[axis]
        weights = rng.standard_normal(shape)
        yield f"common shifts along axis {axis}", np.broadcast_to(weights, array.shape)


class Probe:
    """Nudges one array and watches y."""

    def __init__(self, subject, array, gradient, dy, y, h):
        self.subject, self.array, self.gradient = subject, array, gradient
        self.dy, self.y, self.h = dy, y, h
        self.directions = {}

    def entry(self, i):
        """The slope along entry `i` of the flattened array."""
        index = tuple(int(k) for k in np.unravel_index(i, self.array.shape))
        return self.slope(index, float(self.gradient[index]), self.h)

    def along(self, name, v):
        """The slope along the direction `v`."""
        self.directions[name] = v
        return self.slope(name, float((self.gradient * v).sum()), self.h)

    def steps(self, where, h):
        """(where to write, the values ahead, now and behind, the width between them)."""
        if isinstance(where, str):
            old, v = self.array.copy(), self.directions[where]
            return ..., (old + h * v, old, old - h * v), 2 * h
        old = self.array[where]
        return where, (old + h, old, old - h), (old + h) - (old - h)  # rounded: not exactly 2 h

    def slope(self, where, analytic, h):
        """Measure one slope with step h."""
        place, (above, old, below), width = self.steps(where, h)
        try:
            with np.errstate(all="ignore"):  # what is not finite is noticed below
                self.array[place] = above
                ahead = np.array(self.subject.forward(), dtype=np.float64)
                self.array[place] = below
                behind = np.array(self.subject.forward(), dtype=np.float64)
        finally:
            self.array[place] = old
        if not width or not (np.isfinite(ahead).all() and np.isfinite(behind).all()):
            return Slope(where, analytic, np.nan, 0.0, 0.0)
        numeric = float(((ahead - behind) * self.dy).sum()) / width
        kink = float(np.abs(((ahead - self.y) + (behind - self.y)) * self.dy).sum())
        reached = self.dy * (np.abs(ahead) + np.abs(behind)) * (ahead != behind)
        noise = NOISE * EPS * float(np.linalg.norm(reached)) / width
        return Slope(where, analytic, numeric, kink / (width / 2), noise)

    def measure_again(self, slopes, tolerance):
        """Replace the slopes that disagree or are noisy, where other steps give better ones."""
        size = size_of(slopes)
        if size <= 1e-6 * np.abs(self.dy).max() and self.only_rounding(slopes, size):
            return slopes
        doubted = [not s.difference <= tolerance * size or s.noise > 1e-4 * size for s in slopes]
        some = list(itertools.compress(slopes, doubted))[:16]
        rough = max(map(self.roughness, some), default=0.0)  # one entry may be lucky, not all
        return [
            self.better(s, size, tolerance, rough) if doubt else s
            for s, doubt in zip(slopes, doubted, strict=True)
        ]

    def better(self, slope, size, tolerance, rough):
        """The best known slope of several steps, chosen without a look at the claimed one.

        How far a difference is off is estimated by rounding, which grows as 1/h, plus what changed
        since the next smaller step, which grows as h^2 for curvature and jumps at a kink. The two
        smallest steps also give the limit for h = 0 (Richardson). A slope that still disagrees
        stands near a kink if a smaller step does not make ahead and behind differ less: where y is
        smooth, their difference falls with h.
        """
        ladder = [self.tried(slope, self.h * k) for k in STEPS]
        jumps = [abs(b.numeric - a.numeric) for a, b in itertools.pairwise(ladder)]
        curved = jumps[0] <= jumps[1] / 4  # they fall with h^2, which rounding does not
        for candidate, k in zip(ladder, STEPS, strict=True):
            candidate.noise = max(candidate.noise, rough / (self.h * k))
        first, second = ladder[:2]
        limit = (16 * first.numeric - second.numeric) / 15
        fine = Slope(slope.where, slope.analytic, limit, first.kink, 1.2 * first.noise)
        off = [abs(limit - first.numeric), jumps[0], *jumps]
        if curved:
            off[:2] = off[0] / 4, off[1] / 15
        for candidate, unsure in zip([fine, *ladder], off, strict=True):
            candidate.noise = candidate.noise + unsure if np.isfinite(unsure) else np.inf
        best = min([fine, *ladder], key=lambda s: s.noise)
        if not np.isfinite(best.noise):
            return slope
        wrong = best.difference > tolerance * size + best.noise
        stays = (
            a.kink >= 0.5 * b.kink >= 0.05 * best.difference for a, b in itertools.pairwise(ladder)
        )
        best.is_kink = wrong and any(stays)
        return best

    def only_rounding(self, slopes, size):
        """Whether slopes this small are rounding; if so, they are told how much noise they have."""
        largest = max(slopes, key=lambda s: max(abs(s.analytic), abs(np.nan_to_num(s.numeric))))
        noise = max(largest.noise, self.roughness(largest) / self.h)
        if size <= noise:
            for s in slopes:
                s.noise = max(s.noise, noise)
        return size <= noise

    def roughness(self, slope):
        """How much <y, dy> is off by rounding inside the forward pass, which y does not show.

        A loss of 1e-6 may come from numbers near 10 that nearly cancel. Over steps this small a
        smooth y is a straight line: what is bent, or has another slope at each, is rounding.
        """
        tries = [(self.tried(slope, self.h * k), self.h * k) for k in TINY]
        bent = [s.kink * h for s, h in tries]
        slopes = [s.numeric for s, _ in tries]
        return 3 * max(*bent, 2 * tries[0][1] * (max(slopes) - min(slopes)))

    def tried(self, slope, h):
        """The slope with another step, which may lead out of where the function is defined."""
        try:
            return self.slope(slope.where, slope.analytic, h)
        except Exception:
            return Slope(slope.where, slope.analytic, np.nan, 0.0, np.inf)


def worst_of(slopes, tolerance):
    """(error, allowed, slope, size) of the slope that exceeds what is allowed by most.

    The error is relative to the largest slope of the group, so that entries whose gradient is 0
    by chance need no rule of their own. Each slope is allowed its own rounding on top.
    """
    size = size_of(slopes)

    def excess(s):
        allowed = tolerance * size + s.noise
        return s.difference / allowed if allowed > 0 else float(s.difference > 0) * np.inf

    worst = max(slopes, key=lambda s: (np.nan_to_num(excess(s)), s.difference))
    scale = size if size > 0 else 1.0
    return worst.difference / scale, tolerance + worst.noise / scale, worst, size
