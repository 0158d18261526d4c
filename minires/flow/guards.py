"""What is wrong with a training run, layer by layer and in words, from what was recorded of it."""

import math
import statistics
from dataclasses import dataclass, field

from minires.checks import expect_number
from minires.flow.log import FlowLog

GUIDE = 1e-3  # update-to-weight ratio
SHOWN = 4  # findings of a kind in the text
ADVICE = {
    "not finite": "NaN and infinity spread to everything behind them. Look at the first layer "
    "named here; a lower learning rate or clipped gradients may avoid them.",
    "no gradient": "What gets no gradient learns nothing. A ReLU or a factor of 0 behind it may "
    "stop it, or a backward pass that forgets it.",
    "dead units": "A unit whose ReLU gives 0 for every example passes no gradient, and may never "
    "come back. A lower learning rate or a batch norm in front may help.",
    "exploding": "The gradient grows from layer to layer on its way to the input, and with it the "
    "steps that SGD takes. In a plain network, put an identity path around the layers, with batch "
    "norm in the branch; in a residual one, normalise the branches or let them begin small.",
    "vanishing": "The gradient shrinks from layer to layer on its way to the input: with SGD the "
    "first layers hardly learn. He weights help through some layers, an identity path through "
    "many. Batch norm alone turns vanishing into exploding in a deep plain network.",
    "growing": "The gradient has become much larger than it was. If the loss grows too, training "
    "is becoming unstable: try a lower learning rate, a warm-up, or clipping.",
    "update too large": "Steps of this size may undo what was learned: try a lower learning rate.",
    "update too small": "At this pace the weights hardly move: try a higher learning rate.",
    "not updated": "It has a gradient, and no optimiser changed it. That is fine where you froze "
    "it on purpose; otherwise look at the optimiser's parameters and its learning rate.",
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


def describe(finding):
    """A finding as a line of text."""
    more = f", {finding.steps} steps in all" if finding.steps > 1 else ""
    return f"{finding.path or 'the model'}: {finding.message} (step {finding.step}{more})"


def diagnose(flow, *, dead=0.5, growth=100.0, ratio=100.0):
    """Name the layers whose gradient or update is not as it should be.

    Parameters
    ----------
    flow : FlowLog
        With at least one recorded step.
    dead : float
        Report a ReLU of whose units more than this share is dead (the median over the steps).
    growth : float
        Report a gradient that grows or shrinks by more than this factor between a layer and those
        next to the output, at the first recorded step or at half of them, or that has grown by it
        since the first.
    ratio : float
        Report a weight whose update-to-weight ratio (the median over the steps that changed it) is
        off the guide of 1e-3 by more than this factor, either way.

    Returns
    -------
    diagnosis : Diagnosis

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or nothing was recorded.

    Notes
    -----
    Steps with NaN or infinity are reported as that and left out of all else. A gradient counts as
    zero if it is at every recorded step.

    The guide of 1e-3 is a rule of thumb for weights (A. Karpathy, CS231n, "Babysitting the learning
    process"): biases and norms are not held to it, nor weights that are 0.
    """
    if not isinstance(flow, FlowLog):
        raise TypeError(f"diagnose expects a FlowLog or FlowRecorder, got {type(flow).__name__}")
    dead = expect_number("diagnose", "dead", dead, at_least=0, at_most=1)
    growth = expect_number("diagnose", "growth", growth, above=1)
    ratio = expect_number("diagnose", "ratio", ratio, above=1)
    steps = [flow.at(step) for step in flow.steps]
    if not steps:
        raise ValueError("diagnose expects a FlowLog with recorded steps, got an empty one")
    seen = [entry for log in steps for entry in not_finite(log)]
    broken = {step for _, _, step, _ in seen}
    sound = [log for log in steps if log.steps[0] not in broken]
    seen += [
        *no_gradient(sound),
        *dead_units(sound, dead),
        *lasting((entry for log in sound for entry in uneven(log, growth)), sound),
        *growing(sound, growth),
        *off_guide(sound, ratio),
    ]
    return Diagnosis(collected(seen), len(steps))


def collected(seen):
    """One Finding for each kind and path, with the first message and the number of steps."""
    entries = {}
    for kind, path, step, message in seen:
        entries.setdefault((kind, path), []).append((step, message))
    found = [
        Finding(*key, entry[0][0], len({step for step, _ in entry}), entry[0][1])
        for key, entry in entries.items()
    ]
    order = list(ADVICE)
    return sorted(found, key=lambda finding: order.index(finding.kind))  # within one as it came


# ---- each yields (kind, path, step, message); a log holds one step


def not_finite(log):
    """Outputs in the order of the forward pass, then gradients in that of the backward pass."""
    leaves = leaf_records(log)
    for r in leaves:
        if not math.isfinite(r.y_norm):
            yield "not finite", r.path, r.step, f"the norm of its output is {r.y_norm}"
    for r in reversed(leaves):
        for name, norm in (("upstream gradient", r.dy_norm), ("gradient dx", r.dx_norm)):
            if math.isfinite(r.y_norm) and not math.isfinite(norm):
                yield "not finite", r.path, r.step, f"the norm of its {name} is {norm}"
    for r in reversed(log.parameters):
        numbers = {"value": r.value_norm, "gradient": r.grad_norm, "update": r.update_norm}
        wrong = [f"{name} {norm}" for name, norm in numbers.items() if not math.isfinite(norm)]
        if wrong:
            yield "not finite", r.path, r.step, f"the norm of its {', of its '.join(wrong)}"


def no_gradient(logs):
    """Where a layer ends the gradient at every step, and what never gets any."""
    layers = by_path(r for log in logs for r in leaf_records(log))
    for path, records in layers.items():
        if all(r.dx_norm == 0 and r.dy_norm > 0 for r in records):
            text = f"dx is 0, dy has the norm {records[0].dy_norm:.2g}: here the gradient ends"
            yield from (("no gradient", path, r.step, text) for r in records)
    for path, records in by_path(r for log in logs for r in log.parameters).items():
        if all(r.grad_norm == 0 for r in records):
            text = "its gradient is 0"
            yield from (("no gradient", path, r.step, text) for r in records)


def dead_units(logs, limit):
    relus = by_path(r for log in logs for r in log.layers if r.dead is not None)
    for path, records in relus.items():
        if statistics.median(r.dead for r in records) > limit:
            dead = [r for r in records if r.dead > limit]
            text = f"{dead[0].dead:.0%} of its units gave 0 for all examples"
            yield from (("dead units", path, r.step, text) for r in dead)


def uneven(log, growth):
    """The gradient of each weight beside those behind it; else the gradient in front of it.

    Both, since a signal that shrinks forward as much as its gradient does backward leaves the
    gradients of the weights, which are products of the two, at one size.
    """
    weights, layers = log.gradient_norms(log.steps[0]), {r.path: r.dy_norm for r in log.layers}
    named = [(n.path, n.path.rpartition(".")[0], n.norm) for n in weights]
    upstream = [(layer, layer, layers[layer]) for _, layer, _ in named if layer in layers]
    reported = set()
    for what, found in (("gradient norm", named), ("upstream gradient norm", upstream)):
        for kind, path, layer, text in beside_the_end(found, growth):
            if layer not in reported:
                reported.add(layer)
                yield kind, path, log.steps[0], f"{what} {text}"


def beside_the_end(found, growth):
    """What stands out in [(path, layer, norm)], in the order of depth.

    Each is compared with the geometric mean of the last three, or of as many as are behind it.
    """
    found = [entry for entry in found if 0 < entry[2] < math.inf]
    for i, (path, layer, norm) in enumerate(found[:-1]):
        behind = [norm for *_, norm in found[max(i + 1, len(found) - 3) :]]
        end = math.exp(sum(map(math.log, behind)) / len(behind))
        text = f"{norm:.2g}, that next to the output is {end:.2g}"
        if norm > end * growth:
            yield "exploding", path, layer, text
        if norm < end / growth:
            yield "vanishing", path, layer, text


def lasting(seen, logs):
    """What was so at the first step, or at half of the steps: not what one wild step did."""
    entries = {}
    for entry in seen:
        entries.setdefault(entry[:2], []).append(entry)
    for found in entries.values():
        if found[0][2] == logs[0].steps[0] or 2 * len(found) >= len(logs):
            yield from found


def growing(logs, growth):
    for path, records in by_path(r for log in logs for r in log.parameters).items():
        start = records[0]
        for r in records:
            if r.role == "weight" and 0 < start.grad_norm * growth < r.grad_norm:
                times = r.grad_norm / start.grad_norm
                then = f"that of step {start.step}"
                text = f"gradient norm {r.grad_norm:.2g}, {times:.3g} times {then}"
                yield "growing", path, r.step, text


def off_guide(logs, ratio):
    """By the median over the steps: a single step says little, and Adam's first is a large one."""
    parameters = by_path(r for log in logs for r in log.parameters)
    trained = any(r.update_norm for records in parameters.values() for r in records)
    if parameters and not trained and len(logs) > 1:
        text = f"no Parameter changed in {len(logs)} recorded steps"
        yield "not updated", "", logs[0].steps[0], text
    for path, records in parameters.items():
        ratios = [r.update_ratio for r in records if r.update_norm and r.value_norm]
        still = not any(r.update_norm for r in records)
        if trained and still and any(r.grad_norm for r in records):
            yield "not updated", path, records[0].step, "its value is what it was"
        if records[0].role != "weight" or not ratios:
            continue
        median = statistics.median(ratios)
        text = f"an update changes it by {median:.1e} of its norm (median), the guide is {GUIDE:g}"
        if median > GUIDE * ratio:
            yield "update too large", path, records[0].step, text
        if median < GUIDE / ratio:
            yield "update too small", path, records[0].step, text


def by_path(records):
    """{path: [records]}, in the order in which they come."""
    found = {}
    for record in records:
        found.setdefault(record.path, []).append(record)
    return found


def leaf_records(log):
    """Layer records without those of containers, which say again what their layers say."""
    containers = {
        ".".join(pieces[:i])
        for pieces in {tuple(r.path.split(".")) for r in log.layers if r.path}
        for i in range(len(pieces))
    }
    return [r for r in log.layers if r.path not in containers]
