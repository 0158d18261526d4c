"""A fused model as a whole, which infers from a plan (`plan.py`) where it has one."""

import contextlib
from typing import NamedTuple

import numpy as np

from minires.core import changes, unobserved
from minires.layers.containers import Sequential
from minires.layers.plan import plan, through

MOST = 16  # shapes that a model remembers
SEEN = "images of this shape went through the layers"


class Planned(NamedTuple):
    """What a plan leaves for a backward pass: all else is computed again from it."""

    x: np.ndarray


class FusedModel(Sequential):
    """A fused Sequential; `fuse` makes it.

    When images of a shape come for the second time it follows a plan. Outputs are those of the
    layers' own `forward`, bit by bit, but the layers keep nothing then: a backward pass of the
    model begins with the forward of each layer.

    Parameters
    ----------
    model : Sequential
        Of fused layers; its attributes become those of this one.
    """

    passing = (*Sequential.passing, "_inference_plans")

    def __init__(self, model):
        vars(self).update(vars(model))

    def forward(self, x, *, training=False):
        """As of every layer."""
        if training or self.observers:
            return super().forward(x, training=training)
        plans, kind = self._plans(), (getattr(x, "shape", None), getattr(x, "dtype", None))
        steps = plans.get(kind)
        if steps is SEEN:
            steps = plans[kind] = plan(self)
        if isinstance(steps, list):
            with contextlib.suppress(Exception):  # the layers say where it happens
                return self._follow(steps, x)
        y = super().forward(x)
        if kind not in plans:
            if len(plans) == MOST:
                plans.clear()
            plans[kind] = SEEN
        return y

    def _plans(self):
        """{(shape, dtype): SEEN, steps or None}, emptied when an attribute of any layer is set."""
        number, plans = vars(self).get("_inference_plans", (None, None))
        if number != changes.last:
            number, plans = changes.last, {}
            vars(self)["_inference_plans"] = number, plans
        return plans

    def _follow(self, steps, x):
        """y of a plan."""
        vars(self)["_cache"] = None
        y = through(steps, x)
        vars(self)["_cache"] = Planned(x), y.shape, y.dtype
        return y

    def _take_cache(self, dy):
        cache = super()._take_cache(dy)
        if isinstance(cache, Planned):
            with unobserved(self):
                _, cache = self._forward(cache.x, False)
        return cache
