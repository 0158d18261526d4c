"""The learning rate as a function of the step: `schedule(step)`, steps counted from 0.

A schedule is plain data, so that its repr is the recipe. `fit(..., schedule=...)` sets
`optimizer.lr` from it before every step.
"""

import math
from dataclasses import dataclass

from minires.checks import expect_int, expect_number


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step."""

    lr: float

    def __post_init__(self):
        expect_number("Constant", "lr", self.lr, at_least=0)

    def __call__(self, step):
        return self.lr


@dataclass(frozen=True)
class Step:
    """lr, multiplied by `factor` at each of the steps in `milestones`.

    He et al. (2015), arXiv:1512.03385, section 4.2, use Step(0.1, (32000, 48000)).
    """

    lr: float
    milestones: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self):
        expect_number("Step", "lr", self.lr, at_least=0)
        expect_number("Step", "factor", self.factor, above=0)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            expect_int("Step", "milestones", milestone)

    def __call__(self, step):
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.lr * self.factor**passed


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from lr at step 0 to `last` at step `steps`, and `last` from there on.

    Loshchilov and Hutter (2017), arXiv:1608.03983, equation 5.
    """

    lr: float
    steps: int
    last: float = 0.0

    def __post_init__(self):
        expect_number("Cosine", "lr", self.lr, at_least=0)
        expect_number("Cosine", "last", self.last, at_least=0)
        expect_int("Cosine", "steps", self.steps)

    def __call__(self, step):
        return between(self.lr, self.last, step / self.steps)


@dataclass(frozen=True)
class OneCycle:
    """Up from lr / start to lr during the first `rise` of the steps, then down to lr / start / end.

    Both ways along half a cosine; the numbers are PyTorch's OneCycleLR's. The last of `steps`
    steps is number steps - 1.

    Smith and Topin (2018), arXiv:1708.07120.
    """

    lr: float
    steps: int
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self):
        expect_number("OneCycle", "lr", self.lr, at_least=0)
        expect_int("OneCycle", "steps", self.steps, at_least=2)
        expect_number("OneCycle", "rise", self.rise, above=0, below=1)
        expect_number("OneCycle", "start", self.start, above=0)
        expect_number("OneCycle", "end", self.end, above=0)

    def __call__(self, step):
        first = self.lr / self.start
        top = self.rise * self.steps - 1
        if step <= top:
            return between(first, self.lr, step / top if top else 1.0)
        return between(self.lr, first / self.end, (step - top) / (self.steps - 1 - top))


@dataclass(frozen=True)
class WarmUp:
    """`steps` steps in a line from `factor` * schedule(0) to schedule(0), then the schedule."""

    schedule: object
    steps: int
    factor: float = 0.0

    def __post_init__(self):
        if not callable(self.schedule):
            raise TypeError(f"WarmUp expects a schedule to warm up to, got {self.schedule!r}")
        expect_int("WarmUp", "steps", self.steps)
        expect_number("WarmUp", "factor", self.factor, at_least=0, at_most=1)

    def __call__(self, step):
        if step >= self.steps:
            return self.schedule(step - self.steps)
        share = self.factor + (1 - self.factor) * step / self.steps
        return share * self.schedule(0)


def between(first, last, t):
    """Half a cosine from `first` at t = 0 to `last` at t = 1, held outside."""
    t = min(max(t, 0.0), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * t)) / 2
