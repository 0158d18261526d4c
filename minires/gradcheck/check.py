"""The questions that `check_gradients` asks, in order.

Before any slope is measured: is everything float64, does the forward give the same y twice and
whatever came before, does it leave its input alone, is the backward linear in dy and repeatable?
Each of these has let a wrong backward pass a check somewhere.
"""

import numpy as np

from minires.checks import expect_int, expect_number, format_shape
from minires.gradcheck.numeric import compare, difference, on_a_kink, worst_of
from minires.gradcheck.report import GradientReport, GradientRow
from minires.gradcheck.subject import is_float, make_subject, same, unchecked_arrays

MOVES = 10  # how often a sample is moved off a kink before giving up
MOVE = 1e-2  # how far: a thousand times the step


class RefusedError(Exception):
    """A finding that makes slopes meaningless; carries the rows of the report."""

    def __init__(self, *rows):
        super().__init__(*rows)
        self.rows = list(rows)


def check_gradients(
    layer_or_pair,
    *inputs,
    training=True,
    parameters=None,
    constant=None,
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
        Left out, they are found by the usual conventions: `named_parameters()`, attributes with
        `.value` and `.grad`, dictionaries `params` and `grads`, attributes `w` and `dw`.
    constant : collection of int, optional
        Positions of float inputs that have no gradient. For a loss, all but the first.
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

    Raises
    ------
    TypeError, ValueError
        If the arguments are not of this form. What forward and backward raise passes through.

    Notes
    -----
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
        raise TypeError(f"{owner} expects at least one float64 array to check, got none")
    values = [target.array.copy() for target in subject.targets]
    gradients = [np.copy(t.gradient()) if t.gradient else None for t in subject.targets]
    options = {"h": h, "max_entries": max_entries, "directions": directions}
    try:
        rows = judge(subject, tolerance, options, rng)
    except RefusedError as refusal:
        rows = refusal.rows
    finally:
        put_back(subject.targets, values, gradients)
    return GradientReport(subject.title, rows, tolerance, unchecked_arrays(subject))


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


def judge(subject, tolerance, options, rng):
    """The rows of the report: first whether the check can mean anything, then the slopes."""
    refuse_other_dtypes(subject)
    y = steady_output(subject, rng)
    dy = rng.standard_normal(y.shape) if subject.takes_dy else np.ones(y.shape)
    moved = {}
    for _ in range(MOVES + 1):
        claimed = steady_gradients(subject, y, dy)
        compared = [
            compare(subject, target, gradient, dy, y, rng=rng, **options)
            for target, gradient in zip(subject.targets, claimed, strict=True)
        ]
        kinks = find_kinks(subject.targets, compared, tolerance)
        if not kinks:
            break
        for target, slopes in kinks:
            moved[target.name] = moved.get(target.name, 0) + len(slopes)
            move_away(target.array, slopes, rng)
        y = output(subject)
    return [
        row_of(target, comparison, tolerance, moved.get(target.name, 0))
        for target, comparison in zip(subject.targets, compared, strict=True)
    ]


def output(subject):
    """y as a float64 array of its own."""
    return np.array(subject.forward(), dtype=np.float64)


def refuse_other_dtypes(subject):
    """Float arrays that are not float64 are named, with what to do."""
    rows = []
    for target in subject.targets:
        if target.array.dtype != np.float64:
            what = "parameter" if target.gradient else "input"
            remedy = "check layer.astype(np.float64)" if target.gradient else "use float64"
            note = (
                f"expected a float64 {what}, got {target.array.dtype}: a difference over a step "
                f"of 1e-5 loses all but two digits there; {remedy}"
            )
            rows.append(GradientRow(target.name, "not float64", note=note))
    if rows:
        raise RefusedError(*rows)


def steady_output(subject, rng):
    """y, once it is known to be float64, finite and the same whenever it is asked for."""
    fresh = subject.fresh_output()
    other = output_elsewhere(subject, rng)  # what the subject keeps from it must not show in y
    if other is None:
        raise RefusedError(GradientRow("y", "fail", note="forward returned None"))
    first = np.array(subject.forward())
    if subject.wrote_to_input():
        raise RefusedError(GradientRow("y", "fail", note="forward wrote to its input"))
    second = np.array(subject.forward())
    if first.dtype != np.float64:
        note = f"expected a float64 output for float64 inputs, got {first.dtype}"
        raise RefusedError(GradientRow("y", "not float64", note=note))
    if not np.isfinite(first).all():
        raise RefusedError(GradientRow("y", "fail", note="forward returned NaN or infinity"))
    if only_float32(np.asarray(other)):
        note = "the output has no more digits than float32: something inside is not float64"
        raise RefusedError(GradientRow("y", "not float64", note=note))
    if not close(first, second):
        note = f"forward returned {apart(first, second)} for the same input"
        raise RefusedError(GradientRow("y", "random", note=note))
    if fresh is not None and not close(np.asarray(fresh), first):
        note = (
            f"forward returned {apart(np.asarray(fresh), first)} for the same input, before and "
            f"after it had seen another one: it keeps something from earlier calls"
        )
        raise RefusedError(GradientRow("y", "random", note=note))
    return second


def output_elsewhere(subject, rng):
    """y at another sample, of the same range so that it is valid too, random in its last digits."""
    before = [target.array.copy() for target in subject.input_targets]
    for target in subject.input_targets:
        other = target.array.ravel()[::-1] * (1 + 1e-5 * rng.random(target.array.size))
        target.array[...] = other.reshape(target.array.shape)
    y = subject.forward()
    for target, old in zip(subject.input_targets, before, strict=True):
        target.array[...] = old
    return y


def steady_gradients(subject, y, dy):
    """What backward claims, once it is known to be repeatable, linear in dy and well-formed."""
    given = dy.copy()
    claimed = claim(subject, given)
    if not same(given, dy):
        raise RefusedError(GradientRow("dy", "fail", note="backward wrote to dy"))
    again = claim(subject, dy.copy())
    for target, a, b in zip(subject.targets, claimed, again, strict=True):
        if not close(a, b):
            note = "backward returned different values for the same x and dy"
            raise RefusedError(GradientRow(target.name, "fail", note=note))
    if subject.takes_dy:
        scaled = claim(subject, 1024 * dy)
        for target, a, b in zip(subject.targets, claimed, scaled, strict=True):
            if not close(1024 * a, b):
                note = "backward is not linear in dy: 1024 dy did not give 1024 times the gradient"
                raise RefusedError(GradientRow(target.name, "fail", note=note))
    return claimed


def claim(subject, dy):
    """The gradients of one forward and backward pass, copied, with shape and dtype checked."""
    subject.forward()
    found = subject.backward(dy)
    if len(found) != len(subject.targets):
        names = ", ".join(target.name for target in subject.targets)
        wanted = f"expected {len(subject.targets)} gradients ({names})"
        raise RefusedError(GradientRow(names, "fail", note=f"{wanted}, got {len(found)}"))
    pairs = zip(subject.targets, found, strict=True)
    return [well_formed(target, gradient) for target, gradient in pairs]


def well_formed(target, gradient):
    """A copy of the gradient, if it has the shape and dtype of its array and no NaN."""
    wanted = f"expected a gradient of shape {format_shape(target.array.shape)} and dtype float64"
    if not isinstance(gradient, np.ndarray | np.floating | float):
        note = f"{wanted}, got {type(gradient).__name__}"
        raise RefusedError(GradientRow(target.name, "fail", note=note))
    gradient = np.array(gradient)
    if gradient.shape != target.array.shape:
        note = f"{wanted}, got {format_shape(gradient.shape)}"
        raise RefusedError(GradientRow(target.name, "fail", note=note))
    if gradient.dtype != np.float64:
        raise RefusedError(
            GradientRow(target.name, "not float64", note=f"{wanted}, got {gradient.dtype}")
        )
    if not np.isfinite(gradient).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
        note = f"backward returned NaN or infinity, first at {index}"
        raise RefusedError(GradientRow(target.name, "fail", index=index, note=note))
    return gradient


def find_kinks(targets, compared, tolerance):
    """[(target, slopes on a kink)], if kinks explain everything that is wrong; else nothing."""
    found = []
    for target, comparison in zip(targets, compared, strict=True):
        standing = []
        for slopes in comparison.groups:
            error, worst, limit, _ = worst_of(slopes)
            if error <= max(tolerance, limit):
                continue
            allowed = difference(worst) / error * max(tolerance, limit)
            wrong = [s for s in slopes if difference(s) > allowed]
            if not all(on_a_kink(s, allowed) for s in wrong):
                return []
            standing += wrong
        if standing:
            found.append((target, standing))
    return found


def move_away(array, slopes, rng):
    """Shift the entries that stand on a kink; for a direction, every entry."""
    if any(isinstance(s.where, str) for s in slopes):
        array += MOVE * rng.choice((-1, 1), array.shape) * rng.uniform(0.5, 1, array.shape)
        return
    for s in slopes:
        array[s.where] += MOVE * rng.choice((-1, 1)) * rng.uniform(0.5, 1)


def row_of(target, comparison, tolerance, moved):
    """The verdict on one array from its slopes."""
    results = [worst_of(slopes) for slopes in comparison.groups]
    excess = [error / max(tolerance, limit) for error, _, limit, _ in results]
    error, worst, limit, _ = results[excess.index(max(excess))]
    passed = max(excess) <= 1
    if all(empty for *_, empty in results):
        verdict = "vacuous"
        note = "both sides are about 0, so nothing was shown: is this gradient meant to be 0?"
    elif not passed:
        verdict = "fail"
        note = "the slopes on the two sides differ at every sample tried" if moved else ""
    else:
        verdict = "kink" if moved else "pass"
        note = kink_note(moved) if moved else ""
        if limit > tolerance:
            note = join(note, f"rounding hides errors below {limit:.0e} of the largest gradient")
    return GradientRow(
        target.name,
        verdict,
        comparison.how,
        worst.analytic,
        worst.numeric,
        error,
        worst.where,
        note,
    )


def kink_note(moved):
    return (
        f"the slopes on the two sides differed at {moved} place{'s' * (moved > 1)}; moved the "
        f"sample by about {MOVE:g} there, and it passes"
    )


def put_back(targets, values, gradients):
    """Leave parameters and their gradients as they were found."""
    for target, value, gradient in zip(targets, values, gradients, strict=True):
        target.array[...] = value
        found = target.gradient() if target.gradient else None
        if isinstance(found, np.ndarray) and found.shape == np.shape(gradient):
            found[...] = gradient


def only_float32(y):
    """Whether every number of y is a float32, though they are not all whole."""
    return is_float(y) and same(y, y.astype(np.float32).astype(np.float64)) and (y % 1 != 0).any()


def close(a, b):
    """Equal to within a few roundings of the largest number."""
    if a.shape != b.shape:
        return False
    return bool(a.size == 0 or np.abs(a - b).max() <= 1e-12 * np.abs(a).max())


def apart(a, b):
    """Two values of a and b where they differ most, as text."""
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    index = np.unravel_index(np.abs(a - b).argmax(), a.shape)
    return f"{a[index]:.6g} and {b[index]:.6g}"


def join(*notes):
    return "; ".join(note for note in notes if note)
