"""The questions that `check_gradients` asks, in order.

Before any slope is measured (`conditions`): is everything float64, does the forward give the same
y twice and whatever came before, does it leave its input alone, is the backward linear in dy and
repeatable? Each of these has let a wrong backward pass a check somewhere. Then the slopes.
"""

import numpy as np

from minires.checks import expect_int, expect_number
from minires.gradcheck.conditions import (
    RefusedError,
    output,
    refuse_other_dtypes,
    steady_gradients,
    steady_output,
)
from minires.gradcheck.numeric import Probe, common_shifts, compare, size_of, worst_of
from minires.gradcheck.report import GradientReport, GradientRow
from minires.gradcheck.subject import make_subject

MOVES = 10  # how often a sample is moved off a kink before giving up
MOVE = 1e-2  # how far: a thousand times the step
BLIND = 1e-3  # where rounding hides larger errors than this, nothing was shown


def check_gradients(
    layer_or_pair,
    *inputs,
    training=True,
    parameters=None,
    constant=None,
    ignore=(),
    h=1e-5,
    tolerance=1e-7,
    max_entries=1000,
    directions=8,
    rng=0,
):
    """Compare a backward pass with central differences of its forward pass, in float64.

    Parameters
    ----------
    layer_or_pair : object with forward and backward, or (forward, backward)
        A minires layer or loss; anybody's object with `forward(*inputs) -> y` and
        `backward(dy) -> gradients of the inputs`; or a pair of functions
        `forward(*inputs) -> y, cache` and `backward(dy, cache) -> gradients of the inputs`.
        A backward that takes no dy is a loss.
    *inputs : float64 arrays, or anything
        Every float array is checked; what is no float array (labels, say) is passed on.
    training : bool
        Passed to `forward` if it takes it.
    parameters : {name: (value, gradient)}, optional
        Arrays to check beside the inputs; `gradient` is an array or a function that returns it.
        Left out, they are found wherever an array has its gradient beside it: `w` and `dw`,
        `w_grad` or `grad_w`; `params` and `grads`, dictionaries or lists; `.value` or `.data` and
        `.grad`; also in layers inside the layer.
    constant : int or collection of int, optional
        Positions of float inputs that have no gradient. For a loss, all but the first.
    ignore : collection of str
        Names of arrays in somebody's layer that y depends on and that are no parameters.
    h : float
        Step of the differences.
    tolerance : float
        Largest error relative to the largest gradient of the array. 1e-7 suits a layer, 1e-6 a
        block of layers.
    max_entries : int
        Arrays up to this size are checked entry by entry, larger ones along random directions
        and at 64 random entries.
    directions : int
        How many directions.
    rng : None, int or numpy.random.Generator
        Draws dy, the directions and the moves.

    Returns
    -------
    report : GradientReport
        `report.ok`, and a table when printed. The verdicts are

        - *pass*
        - *fail*: with the reason, if the slopes are not it
        - *kink*: the slopes on the two sides differ, as for ReLU at 0 or a tie in max pooling. The
          sample was moved off the kink, and there it passes
        - *vacuous*: both sides are about 0, so nothing was shown
        - *not float64*: refused, because differences in float32 are too coarse to judge anything
        - *random*: forward returns different values for the same input
        - *unchecked*: y depends on an array of somebody's layer for which no gradient was found

    Raises
    ------
    TypeError, ValueError
        If the arguments are not of this form. What forward and backward raise passes through.

    Notes
    -----
    A copy of the layer is checked, so that the layer itself does not change. Errors below
    `tolerance` times the largest gradient of an array cannot be seen.

    dy is random: with dy = 1 the true gradient through batch norm or softmax is 0, and a backward
    pass that returns zeros would pass.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((4, 3))
    >>> check_gradients((lambda x: x**2, lambda dy, x: 2 * x * dy), x).ok
    True
    >>> check_gradients((lambda x: x**2, lambda dy, x: x * dy), x).verdicts
    {'x': 'fail'}
    """
    owner = "check_gradients"
    h = expect_number(owner, "h", h, above=0)
    tolerance = expect_number(owner, "tolerance", tolerance, above=0)
    max_entries = expect_int(owner, "max_entries", max_entries)
    directions = expect_int(owner, "directions", directions)
    rng = np.random.default_rng(rng)
    subject = make_subject(
        layer_or_pair, inputs, training=training, constant=constant, parameters=parameters
    )
    if not subject.targets:
        came = ", ".join(describe(a) for a in inputs) or "nothing"
        raise TypeError(f"{owner} expects at least one float64 array to check, got {came}")
    if any(target.array.size == 0 for target in subject.targets):
        raise ValueError(f"{owner} expects arrays with at least one number, got an empty one")
    values = [target.array.copy() for target in subject.targets]
    gradients = [np.copy(t.gradient()) if t.gradient else None for t in subject.targets]
    options = {"h": h, "max_entries": max_entries, "directions": directions, "rng": rng}
    try:
        rows = judge(subject, tolerance, options) + loose_rows(subject, ignore)
    except RefusedError as refusal:
        rows = refusal.rows
    finally:
        put_back(subject.targets, values, gradients)
    return GradientReport(subject.title, rows, tolerance)


def assert_gradients(layer_or_pair, *inputs, allow_vacuous=(), **options):
    """`check_gradients` for tests: raise AssertionError with the table unless all gradients pass.

    Parameters
    ----------
    layer_or_pair, *inputs, **options
        As for `check_gradients`.
    allow_vacuous : collection of str
        Names of arrays whose gradient is truly 0, such as a bias in front of a batch norm.

    Returns
    -------
    report : GradientReport

    Raises
    ------
    AssertionError
        With the report as its message.
    """
    report = check_gradients(layer_or_pair, *inputs, **options)
    excused = [r for r in report.rows if r.verdict == "vacuous" and r.name in allow_vacuous]
    if not all(row.ok or row in excused for row in report.rows):
        raise AssertionError(str(report))
    return report


def judge(subject, tolerance, options):
    """The rows of the report: first whether the check can mean anything, then the slopes."""
    rng = options["rng"]
    refuse_other_dtypes(subject)
    y = steady_output(subject, rng)
    dy = rng.standard_normal(y.shape) if subject.takes_dy else np.ones(y.shape)
    moved = {}
    for _ in range(MOVES + 1):
        claimed = steady_gradients(subject, y, dy, rng)
        compared = [
            compare(subject, target, gradient, dy, y, tolerance=tolerance, **options)
            for target, gradient in zip(subject.targets, claimed, strict=True)
        ]
        kinks = find_kinks(subject.targets, compared, tolerance)
        if not moved and (kinks or any(c.folded for c in compared)):
            refuse_wrong_ties(subject, claimed, dy, y, tolerance, options)
        if not kinks:
            break
        for target, slopes in kinks:
            moved[target.name] = moved.get(target.name, 0) + len(slopes)
            move_away(target.array, slopes, rng)
        y = output_when_moved(subject)
    return [
        row_of(target, comparison, tolerance, moved.get(target.name, 0))
        for target, comparison in zip(subject.targets, compared, strict=True)
    ]


def find_kinks(targets, compared, tolerance):
    """[(target, slopes on a kink)], if kinks explain everything that is wrong; else nothing."""
    found = []
    for target, comparison in zip(targets, compared, strict=True):
        wrong = [s for slopes in comparison.groups for s in too_far(slopes, tolerance)]
        if not all(s.is_kink for s in wrong):
            return []
        if wrong:
            found.append((target, wrong))
    return found


def too_far(slopes, tolerance):
    """The slopes of a group that disagree."""
    size = size_of(slopes)
    return [s for s in slopes if not s.difference <= tolerance * size + s.noise]


def refuse_wrong_ties(subject, claimed, dy, y, tolerance, options):
    """On a kink, check what can be checked there: directions in which ties stay ties.

    A max pooling that sends dy to every cell of a tie passes as soon as the sample is moved.
    """
    for target, gradient in zip(subject.targets, claimed, strict=True):
        probe = Probe(subject, target.array, gradient, dy, y, options["h"])
        size = float(np.abs(gradient * np.ones(target.array.shape)).sum())
        for name, v in common_shifts(target.array, options["rng"]):
            slope = probe.along(name, v)
            smooth = slope.kink <= 1e-3 * slope.difference
            allowed = max(tolerance, 1e-6) * size + slope.noise
            if smooth and slope.difference > allowed + probe.roughness(slope) / options["h"]:
                note = "wrong on the kink itself, in a direction in which there is none"
                error = slope.difference / size if size else np.inf
                values = slope.analytic, slope.numeric, error
                row = GradientRow(target.name, "fail", "common shifts", *values, name, note)
                raise RefusedError(row)


def move_away(array, slopes, rng):
    """Shift the entries that stand on a kink; for a direction, every entry."""
    if any(isinstance(s.where, str) for s in slopes):
        array += MOVE * rng.choice((-1, 1), array.shape) * rng.uniform(0.5, 1, array.shape)
        return
    for s in slopes:
        array[s.where] += MOVE * rng.choice((-1, 1)) * rng.uniform(0.5, 1)


def output_when_moved(subject):
    """y at the moved sample, or a refusal if the function is not defined there."""
    try:
        y = output(subject)
    except Exception as error:
        y, why = np.full(1, np.nan), f"raised {type(error).__name__}: {error}"
    else:
        why = "returned NaN or infinity"
    if not np.isfinite(y).all():
        note = f"stands on a kink, and {MOVE:g} beside it forward {why}: choose another sample"
        raise RefusedError(GradientRow("y", "fail", note=note))
    return y


def row_of(target, comparison, tolerance, moved):
    """The verdict on one array from its slopes."""
    results = [worst_of(slopes, tolerance) for slopes in comparison.groups]
    error, allowed, worst, _ = max(results, key=lambda r: np.nan_to_num(r[0] / r[1]))
    sizes = [size for *_, size in results]
    noise = max((s.noise for slopes in comparison.groups for s in slopes), default=0.0)
    if not np.isfinite(worst.numeric):
        verdict, note = "fail", "forward is not finite a step away: choose another sample"
    elif error > allowed:
        verdict = "fail"
        note = "the slopes on the two sides differ at every sample tried" if worst.is_kink else ""
    elif max(sizes) <= noise:
        verdict = "vacuous"
        note = "both sides are about 0, so nothing was shown: is this gradient meant to be 0?"
    elif allowed - tolerance > BLIND:
        verdict = "vacuous"
        note = f"rounding hides errors of {allowed:.0e}, so nothing was shown: scale the sample"
    else:
        verdict, note = ("kink", kink_note(moved)) if moved else ("pass", "")
        if allowed > 100 * tolerance:
            note = f"{note}; ".lstrip("; ") + f"rounding hides errors below {allowed:.0e} here"
    values = worst.analytic, worst.numeric, error, worst.where
    return GradientRow(target.name, verdict, comparison.how, *values, note)


def kink_note(moved):
    """How a pass came about at a sample that stood on a kink."""
    return (
        f"the slopes on the two sides differed at {moved} place{'s' * (moved > 1)}; moved the "
        f"sample by about {MOVE:g} there, and it passes"
    )


def loose_rows(subject, ignore):
    """Arrays in somebody's layer that y depends on and that have no gradient to check."""
    rows, y = [], output(subject)
    for target in subject.loose:
        if target.name not in ignore and depends_on(subject, target.array, y):
            note = (
                f"y depends on it, but no gradient of it was found: pass parameters="
                f"{{{target.name!r}: (value, gradient)}}, or ignore=[{target.name!r}] if it is "
                f"a constant"
            )
            rows.append(GradientRow(target.name, "unchecked", note=note))
    return rows


def depends_on(subject, array, y):
    """Whether y changes with the array."""
    before = array.copy()
    try:
        array[...] = before * 1.01 + 0.01
        return not np.array_equal(output(subject), y, equal_nan=True)
    except Exception:
        return True
    finally:
        array[...] = before


def describe(value):
    """What an input is, in two words."""
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__


def put_back(targets, values, gradients):
    """Leave parameters and their gradients as they were found."""
    for target, value, gradient in zip(targets, values, gradients, strict=True):
        target.array[...] = value
        found = target.gradient() if target.gradient else None
        if isinstance(found, np.ndarray) and found.shape == np.shape(gradient):
            found[...] = gradient
