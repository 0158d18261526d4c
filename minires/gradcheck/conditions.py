"""What has to hold before a slope means anything; each condition has a row of its own if broken."""

import numpy as np

from minires.checks import format_shape
from minires.gradcheck.report import GradientRow
from minires.gradcheck.subject import is_float, same


class RefusedError(Exception):
    """A finding that makes slopes meaningless; carries the rows of the report."""

    def __init__(self, *rows):
        super().__init__(*rows)
        self.rows = list(rows)


def refuse(name, verdict, note):
    """End the check with one row."""
    raise RefusedError(GradientRow(name, verdict, note=note))


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
    first = as_output(subject.forward())
    if subject.wrote_to_input():
        refuse("y", "fail", "forward wrote to its input")
    other = output_elsewhere(subject, rng)  # what the subject keeps from it must not show in y
    second = as_output(subject.forward())
    if first.dtype != np.float64:
        refuse(
            "y", "not float64", f"expected a float64 output for float64 input, got {first.dtype}"
        )
    if not np.isfinite(first).all():
        refuse("y", "fail", "forward returned NaN or infinity")
    if other is not None and only_float32(other, first):
        note = "the output has no more digits than float32: something inside is not float64"
        refuse("y", "not float64", note)
    if not close(first, second):
        refuse("y", "random", f"forward returned {apart(first, second)} for the same input")
    refuse_first_call_memory(subject, rng, second)
    return second


def refuse_first_call_memory(subject, rng, y):
    """A copy that sees another sample first has to give the same y afterwards."""
    with subject.bystander() as fresh:
        if not fresh or output_elsewhere(subject, rng) is None:
            return
        later = as_output(subject.forward())
    if not close(later, y):
        note = (
            f"forward returned {apart(y, later)} for the same input, before and after it had seen "
            f"another one: it keeps something from earlier calls"
        )
        refuse("y", "random", note)


def as_output(y):
    """y as an array, if it is one."""
    if not isinstance(y, np.ndarray | np.floating | float):
        refuse("y", "fail", f"expected forward to return one array, got {type(y).__name__}")
    return np.array(y)


def output_elsewhere(subject, rng):
    """y at another sample, random in its last digits, or None if none was accepted.

    Tried are the same numbers in another order and with other signs, and then only other rows:
    some functions take positive numbers or rows that sum to 1.
    """
    before = [target.array.copy() for target in subject.input_targets]
    for shuffle in (turn_around, swap_rows):
        for target, old in zip(subject.input_targets, before, strict=True):
            target.array[...] = shuffle(old, rng)
        try:
            with np.errstate(all="ignore"):
                y = np.array(subject.forward(), dtype=np.float64)
        except Exception:
            y = None
        for target, old in zip(subject.input_targets, before, strict=True):
            target.array[...] = old
        if y is not None and np.isfinite(y).all():
            return y
    return None


def turn_around(a, rng):
    """The numbers of `a` in reverse, with random signs and random last digits."""
    signs = rng.choice((-1, 1), a.shape)
    return signs * a.ravel()[::-1].reshape(a.shape) * digits(a, rng) + 1e-6 * rng.random(a.shape)


def swap_rows(a, rng):
    """The rows of `a` in reverse, with random last digits."""
    return (a[::-1] if a.ndim else a) * digits(a, rng)


def digits(a, rng):
    return 1 + 1e-5 * rng.random(a.shape)


def steady_gradients(subject, y, dy, rng):
    """What backward claims, once it is known to be repeatable, linear in dy and well-formed."""
    claimed = claim(subject, dy)
    output_elsewhere(subject, rng)  # to be the forward before the one that counts
    compare_claims(subject, claimed, claim(subject, dy, rng), SAME)
    if subject.must_accumulate():
        subject.forward()
        doubled = [np.array(g) for g in subject.backward(dy.copy(), zero_first=False)]
        inputs = len(subject.input_targets)
        twice = claimed[:inputs] + [2 * g for g in claimed[inputs:]]
        compare_claims(subject, twice, doubled, "backward did not add to the gradient")
    if subject.takes_dy:
        for factor in (-1024.0, 2.0**-20):
            expected = [factor * g for g in claimed]
            note = f"backward is not linear in dy: {factor:g} dy did not give as much gradient"
            compare_claims(subject, expected, claim(subject, factor * dy), note)
        note = "backward is not linear in dy: that of a sum is not the sum of those of its terms"
        for _ in range(4):
            other = rng.standard_normal(dy.shape)
            parts = [a + b for a, b in zip(claimed, claim(subject, other), strict=True)]
            compare_claims(subject, parts, claim(subject, dy + other), note)
        largest = max(np.abs(gradient).max() for gradient in claimed)
        for target, gradient in zip(subject.targets, claimed, strict=True):
            rounding = np.abs(gradient).max() < 1e-10 * largest
            if not rounding and only_float32(gradient, np.full_like(gradient, np.nan)):
                note = "the gradient has no more digits than float32: backward is not float64"
                refuse(target.name, "not float64", note)
    return claimed


SAME = "backward returned different values for the same x and dy"


def compare_claims(subject, expected, found, note):
    """Refuse gradients that differ by more than rounding, of their own or of the largest one."""
    largest = max(np.abs(a).max() for a in expected)
    for target, a, b in zip(subject.targets, expected, found, strict=True):
        if not np.abs(a - b).max() <= 1e-11 * np.abs(a).max() + 1e-13 * largest:
            refuse(target.name, "fail", note)


def claim(subject, dy, rng=None):
    """The gradients of one forward and backward pass, copied, with shape and dtype checked.

    With `rng`, something else of the same kind runs forward in between; what one object keeps must
    not show in another.
    """
    values = [target.array.copy() for target in subject.parameters]
    subject.forward()
    if rng is not None:
        with subject.bystander() as fresh:
            if fresh:
                output_elsewhere(subject, rng)
    given = dy.copy()
    found = subject.backward(given)
    if not same(given, dy):
        refuse("dy", "fail", "backward wrote to dy")
    if subject.wrote_to_input():
        refuse("x", "fail", "backward wrote to the input that forward was given")
    for target, value in zip(subject.parameters, values, strict=True):
        if not same(target.array, value):
            refuse(target.name, "fail", "forward or backward changed this parameter")
    if len(found) != len(subject.targets):
        names = ", ".join(target.name for target in subject.targets)
        wanted = f"expected {len(subject.targets)} gradients ({names})"
        refuse(names, "fail", f"{wanted}, got {len(found)}")
    return [well_formed(t, g) for t, g in zip(subject.targets, found, strict=True)]


def well_formed(target, gradient):
    """A copy of the gradient, if it has the shape and dtype of its array and no NaN."""
    wanted = f"expected a gradient of shape {format_shape(target.array.shape)} and dtype float64"
    if not isinstance(gradient, np.ndarray | np.floating | float):
        refuse(target.name, "fail", f"{wanted}, got {type(gradient).__name__}")
    gradient = np.array(gradient)
    if gradient.shape != target.array.shape:
        refuse(target.name, "fail", f"{wanted}, got {format_shape(gradient.shape)}")
    if gradient.dtype != np.float64:
        refuse(target.name, "not float64", f"{wanted}, got {gradient.dtype}")
    if not np.isfinite(gradient).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
        refuse(target.name, "fail", f"backward returned NaN or infinity, first at {index}")
    return gradient


def only_float32(a, before):
    """Whether all numbers of `a` that differ from `before` are float32, and do not just look so.

    Whole numbers do, and those of few digits, such as 1/2 and what rounding leaves of 1 - 1.
    """
    if not is_float(a) or a.shape != before.shape:
        return False
    a = a[a != before]
    with np.errstate(over="ignore"):
        float32 = a.size > 0 and same(a, a.astype(np.float32).astype(float))
        return float32 and ((a % 1 != 0) & (np.frexp(a)[0] * 2**12 % 1 != 0)).any()


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
