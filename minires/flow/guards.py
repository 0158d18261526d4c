"""What is wrong with a training run, layer by layer and in words, from what was recorded of it."""

import math
import statistics
from dataclasses import dataclass, field

from minires.checks import expect_number
from minires.flow.log import FlowLog

GUIDE = 1e-3  # update-to-weight ratio
ADVICE = {
    "not finite": "NaN and infinity spread to everything behind them. Look at the first layer "
    "named here; lower the learning rate, or clip the gradients.",
    "no gradient": "What gets no gradient learns nothing: a ReLU behind it may be dead, a factor "
    "in front of it 0, or its backward pass forgets it.",
    "dead units": "A unit whose ReLU gives 0 for every example passes no gradient, and may never "
    "come back. Lower the learning rate, or put a batch norm in front.",
    "exploding": "The gradient grows from layer to layer on its way to the input, so that one "
    "learning rate cannot suit all of them. An identity path around the layers keeps it level.",
    "vanishing": "The gradient shrinks from layer to layer on its way to the input, so that the "
    "first layers hardly learn. Normalise, start with He weights, add an identity path.",
    "growing": "Training is becoming unstable: lower the learning rate, warm it up, or clip.",
    "update too large": "Steps of this size undo what was learned: lower the learning rate.",
    "update too small": "At this pace the weights hardly move: raise the learning rate.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one layer or Parameter.

    Attributes
    ----------
    kind : str
        A key of `guards.ADVICE`, such as "no gradient" or "update too large".
    path : str
        Of the layer or Parameter.
    step : int
        The first recorded step at which it was so.
    steps : int
        At how many recorded steps it was so.
    message : str
        What was measured at the first, beside what was expected.
    """

    kind: str
    path: str
    step: int
    steps: int
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """Findings by kind, and the text to read: `print(diagnosis)`.

    Attributes
    ----------
    findings : list of Finding
        The graver kinds first.
    steps : int
        How many recorded steps were looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    steps: int = 0

    @property
    def ok(self):
        """Whether nothing was found."""
        return not self.findings

    def paths(self, kind):
        """The paths with a finding of one kind."""
        return [finding.path for finding in self.findings if finding.kind == kind]

    def __str__(self):
        looked = f"{self.steps} recorded step{'s' * (self.steps != 1)}"
        if self.ok:
            return f"Healthy: nothing to report in {looked}."
        lines = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            found = [finding for finding in self.findings if finding.kind == kind]
            lines += [f"{kind.capitalize()} ({len(found)} of them). {ADVICE[kind]}"]
            lines += [f"  {describe(finding)}" for finding in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  and {len(found) - SHOWN} more")
        return "\n".join([f"{looked}:", *lines])


SHOWN = 4


def describe(finding):
    """A finding as a line of text."""
    more = f", {finding.steps} steps in all" if finding.steps > 1 else ""
    return f"{finding.path or 'the model'}: {finding.message} (step {finding.step}{more})"


def diagnose(flow, *, dead=0.5, growth=100.0, ratio=30.0):
    """Name the layers whose gradient or update is not as it should be.

    Parameters
    ----------
    flow : FlowLog
        With at least one recorded step.
    dead : float
        Report a ReLU of whose units more than this share is dead.
    growth : float
        Report a gradient that grows or shrinks by more than this factor between the layers (or
        grew by it since the first recorded step).
    ratio : float
        Report a weight whose update-to-weight ratio (the median over the recorded steps) is off
        the guide of 1e-3 by more than this factor, either way.

    Returns
    -------
    diagnosis : Diagnosis

    Raises
    ------
    ValueError
        If nothing was recorded.

    Notes
    -----
    The guide of 1e-3 is a rule of thumb for weights (A. Karpathy, CS231n, "Babysitting the learning
    process"): biases and norms are not held to it, nor weights that are 0.
    """
    if not isinstance(flow, FlowLog):
        raise TypeError(f"diagnose expects a FlowLog or FlowRecorder, got {type(flow).__name__}")
    dead = expect_number("diagnose", "dead", dead, at_least=0)
    growth = expect_number("diagnose", "growth", growth, above=1)
    ratio = expect_number("diagnose", "ratio", ratio, above=1)
    if not flow.steps:
        raise ValueError("diagnose expects a FlowLog with recorded steps, got an empty one")
    steps = len(flow.steps)
    seen = list(not_finite(flow))
    broken = {step for _, _, step, _ in seen}
    flow = FlowLog(r for r in flow.records if r.step not in broken)  # NaN explains itself
    seen += [
        *no_gradient(flow),
        *dead_units(flow, dead),
        *uneven(flow, growth),
        *growing(flow, growth),
        *off_guide(flow, ratio),
    ]
    first, count = {}, {}
    for kind, path, step, message in seen:
        first.setdefault((kind, path), (step, message))
        count[kind, path] = count.get((kind, path), 0) + 1
    found = [Finding(*key, step, count[key], message) for key, (step, message) in first.items()]
    order = list(ADVICE)
    found.sort(key=lambda finding: order.index(finding.kind))  # stable: the model's order within
    return Diagnosis(found, steps)


# ---- each yields (kind, path, step, message)


def not_finite(flow):
    """Outputs in the order of the forward pass, then gradients in that of the backward pass."""
    leaves = leaf_records(flow)
    for r in leaves:
        if not math.isfinite(r.y_norm):
            yield "not finite", r.path, r.step, f"the norm of its output is {r.y_norm}"
    for r in reversed(leaves):
        if math.isfinite(r.y_norm) and not math.isfinite(r.dx_norm):
            yield "not finite", r.path, r.step, f"the norm of its gradient dx is {r.dx_norm}"
    for r in reversed(flow.parameters):
        if not math.isfinite(r.grad_norm):
            yield "not finite", r.path, r.step, f"its gradient norm is {r.grad_norm}"


def no_gradient(flow):
    for r in leaf_records(flow):
        if r.dx_norm == 0 and r.dy_norm > 0:
            text = f"dx is 0 everywhere, dy has the norm {r.dy_norm:.2g}: here the gradient ends"
            yield "no gradient", r.path, r.step, text
    for r in flow.parameters:
        if r.grad_norm == 0:
            yield "no gradient", r.path, r.step, "every number of its gradient is 0"


def dead_units(flow, limit):
    for r in flow.layers:
        if r.dead is not None and r.dead > limit:
            yield "dead units", r.path, r.step, f"{r.dead:.0%} of its units gave 0 for all examples"


def uneven(flow, growth):
    """The gradient of each weight beside those of the last three; else the gradient before it.

    Both, since a signal that shrinks forward as much as its gradient does backward leaves the
    gradients of the weights, which are products of the two, at one size.
    """
    for step in flow.steps:
        weights = flow.gradient_norms(step)
        layers = {r.path: r.dy_norm for r in flow.at(step).layers}
        named = [(n.path, n.path.removesuffix(".weight"), n.norm) for n in weights]
        upstream = [(layer, layer, layers[layer]) for _, layer, _ in named if layer in layers]
        reported = set()
        for what, found in (("gradient norm", named), ("upstream gradient norm", upstream)):
            for kind, path, layer, text in beside_the_end(found, growth):
                if layer not in reported:
                    reported.add(layer)
                    yield kind, path, step, f"{what} {text}"


def beside_the_end(found, growth):
    """What stands out in [(path, layer, norm)], in the order of depth."""
    found = [entry for entry in found if 0 < entry[2] < math.inf]
    norms = [norm for *_, norm in found[-3:]]
    end = math.exp(sum(map(math.log, norms)) / len(norms)) if norms else 0
    for path, layer, norm in found:
        text = f"{norm:.2g}, that next to the output is {end:.2g}"
        if norm > end * growth:
            yield "exploding", path, layer, text
        if norm < end / growth:
            yield "vanishing", path, layer, text


def growing(flow, growth):
    first = {}
    for r in flow.parameters:
        start = first.setdefault(r.path, r)
        if r.role == "weight" and 0 < start.grad_norm * growth < r.grad_norm < math.inf:
            times = r.grad_norm / start.grad_norm
            text = f"gradient norm {r.grad_norm:.2g}, {times:.3g} times that of step {start.step}"
            yield "growing", r.path, r.step, text


def off_guide(flow, ratio):
    """By the median over the steps: a single step says little, and Adam's first is a large one."""
    weights = {}
    for r in flow.parameters:
        if r.role == "weight" and r.value_norm and 0 < r.grad_norm < math.inf:
            weights.setdefault(r.path, []).append(r)
    for path, records in weights.items():
        median = statistics.median(r.update_ratio for r in records)
        text = f"an update changes it by {median:.1e} of its norm (median), the guide is {GUIDE:g}"
        if median > GUIDE * ratio:
            yield "update too large", path, records[0].step, text
        if median < GUIDE / ratio:
            yield "update too small", path, records[0].step, text


def leaf_records(flow):
    """Layer records without those of containers, which say again what their layers say."""
    containers = {""} | {
        ".".join(pieces[:i])
        for pieces in {tuple(r.path.split(".")) for r in flow.layers}
        for i in range(1, len(pieces))
    }
    found = [r for r in flow.layers if r.path not in containers]
    return found or flow.layers  # a model that is one layer
