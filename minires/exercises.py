"""Checks for exercises: is an answer right, and if not, which mistake does it look like?

    expect("dense_backward", dense_backward(dy, x, w), {"dx": dx, "dw": dw, "db": db})

The tutorials' check cells call `expect` and `expect_gradients`; so may a teacher's.
"""

import numpy as np

from minires.gradcheck import check_gradients

RTOL = 1e-6  # of the largest expected number


class ExerciseError(AssertionError):
    """An answer is missing or wrong. In a notebook the message stands without a stack trace."""

    def _render_traceback_(self, *_):
        """What IPython shows in place of the stack trace."""
        return [str(self)]


def expect(name, got, expected, *, mistakes=None, sizes=None, rtol=RTOL):
    """Compare an answer with what is right; say what is wrong in words.

    Parameters
    ----------
    name : str
        What the learner wrote, such as "dense_backward".
    got : object
        The answer: an array or number, a tuple of them, or None or ... where nothing was written.
    expected : array, number, str, bool, or dict of them
        What is right. A dict {"dx": ..., "dw": ...} names the members of a tuple.
    mistakes : dict, optional
        {description: what comes out if one makes that mistake}, in the form of `expected`; a
        description completes the sentence "it looks as if ...".
    sizes : dict, optional
        {"N": 8, ...}: an answer that is right but for such a factor is told its name.
    rtol : float
        Largest difference that passes, as a share of the largest expected number.

    Raises
    ------
    ExerciseError
        If the answer is missing or wrong.

    Examples
    --------
    >>> expect("dx", 2.0, 2.0)
    dx: right.
    >>> expect("dx", None, 2.0)
    Traceback (most recent call last):
    minires.exercises.ExerciseError: dx: not yet. Got None: write the answer where the dots are.
    """
    parts = expected if isinstance(expected, dict) else {None: expected}
    answers = members(name, got, parts)
    for part, right in parts.items():
        wrong = {
            said: value[part] if isinstance(value, dict) else value
            for said, value in (mistakes or {}).items()
            if not isinstance(value, dict) or part in value
        }
        fault = find_fault(answers[part], right, wrong, sizes or {}, rtol)
        if fault:
            refuse(name, fault if part is None else f"{part}: {fault}")
    print(f"{name}: right.")


def expect_gradients(name, layer, x, hint="", **options):
    """Check the gradients of a learner's layer, or (forward, backward) pair, by finite differences.

    Parameters
    ----------
    name : str
    layer : Layer, or pair of functions
        See `minires.check_gradients`.
    x : array of float64
    hint : str
        What to look at if the check fails.
    **options
        For `check_gradients`.

    Raises
    ------
    ExerciseError
        With the first lines of the checker's report.
    """
    for half in layer if isinstance(layer, tuple) else (layer,):
        if unsolved(half):
            refuse(name, f"Got {half!r}: write the answer where the dots are.")
    try:
        report = check_gradients(layer, x, **options)
        fault = f"The backward pass differs from finite differences. {hint}\n{report}"
    except Exception as error:
        report, fault = None, f"The check ended with {type(error).__name__}: {error}. {hint}"
    if "NoneType" in fault:
        what = (
            "write what the functions return, and what the backward pass reads, where the dots are"
        )
        refuse(name, f"Got None: {what}. {hint}")
    if not (report and report.ok):
        refuse(name, fault)
    print(f"{name}: right.")


def refuse(name, fault):
    """Raise what the learner reads."""
    raise ExerciseError(f"{name}: not yet. {fault}".rstrip())


def unsolved(got):
    """Whether nothing was written in the place of an answer."""
    return got is None or got is Ellipsis


def members(name, got, parts):
    """{part: answer}, once the answer has as many members as it should."""
    if unsolved(got):
        what = "the answer" if None in parts else ", ".join(parts)
        refuse(name, f"Got {got!r}: write {what} where the dots are.")
    if None in parts:
        return {None: got}
    wanted = ", ".join(parts)
    if isinstance(got, np.ndarray) and got.ndim == 1:
        got = tuple(got)
    if not isinstance(got, tuple | list) or len(got) != len(parts):
        count = f"{len(got)} values" if isinstance(got, tuple | list) else describe(got)
        refuse(name, f"Expected {len(parts)} values, ({wanted}), got {count}.")
    for part, answer in zip(parts, got, strict=True):
        if unsolved(answer):
            refuse(name, f"{part} is {answer!r}: write it where its dots are.")
    return dict(zip(parts, got, strict=True))


def describe(value):
    """An object in a few words."""
    shape = np.shape(value) if isinstance(value, np.ndarray) else None
    return f"{type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")


# ---- the question, in the order in which it helps


def find_fault(got, right, mistakes, sizes, rtol):
    """What is wrong with an answer, in a sentence; None if nothing is."""
    if isinstance(right, str | bool):
        return choice_fault(got, right, mistakes)
    if isinstance(got, str):
        return f"Expected numbers, got {describe(got)}."
    try:
        got, right = np.asarray(got, float), np.asarray(right, float)
    except (TypeError, ValueError):
        return f"Expected numbers, got {describe(got)}."
    if got.shape == right.shape and close(got, right, rtol):
        return None
    for said, value in mistakes.items():
        value = np.asarray(value, float)
        if got.shape == value.shape and close(got, value, rtol):
            return f"It looks as if {said}."
    if got.shape != right.shape:
        return shape_fault(got, right, rtol)
    return number_fault(got, right, sizes, rtol)


def choice_fault(got, right, mistakes):
    """The fault of an answer to a question with words for answers."""
    got = bool(got) if isinstance(got, np.bool_) else got
    if type(got) is type(right) and got == right:
        return None
    for said, value in mistakes.items():
        if type(got) is type(value) and got == value:
            return f"It looks as if {said}."
    return f"{got!r} is not the answer."


def shape_fault(got, right, rtol):
    """The fault of an array of another shape."""
    shapes = f"expected shape {right.shape}, got {got.shape}"
    if got.T.shape == right.shape and close(got.T, right, rtol):
        return f"The numbers are right, transposed: {shapes}."
    if got.shape[1:] == right.shape and close(got.sum(0), right, rtol):
        return f"The sum over the first axis is missing: {shapes}."
    return f"The shape is wrong: {shapes}."


def number_fault(got, right, sizes, rtol):
    """The fault of an array of the right shape."""
    if not np.isfinite(got).all():
        return f"{np.count_nonzero(~np.isfinite(got))} of {got.size} numbers are NaN or infinite."
    if not got.any():
        return "Every number is zero."
    if close(-got, right, rtol):
        return f"The sign is the wrong way round: {pair(got, right, rtol)}."
    if got.ndim == 2 and got.shape[0] == got.shape[1] and close(got.T, right, rtol):
        return "The numbers are right, transposed."
    factor = factor_between(got, right, rtol)
    if factor is not None:
        return f"It is {factor:.6g} times what it should be{named(factor, sizes)}."
    return f"{pair(got, right, rtol)}."


def close(a, b, rtol):
    """Whether two arrays agree within a share of the largest number expected."""
    return bool(np.allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(initial=1e-300)))


def factor_between(got, right, rtol):
    """c if got = c * right, else None."""
    norm = np.vdot(right, right)
    factor = np.vdot(right, got) / norm if norm else 0
    return factor if factor and close(got / factor, right, rtol) else None


def named(factor, sizes):
    """The words for a factor that is a size of the arrays, or one over it."""
    turned = ", and the sign is the wrong way round" if factor < 0 else ""
    for name, size in sizes.items():
        if np.isclose(abs(factor), size, rtol=1e-5):
            return f": a division by {name} = {size} is missing{turned}"
        if np.isclose(abs(factor), 1 / size, rtol=1e-5):
            return f": one division by {name} = {size} too many{turned}"
    return ""


def pair(got, right, rtol):
    """The place where two arrays differ most, and both numbers there."""
    if got.ndim == 0:
        return f"expected {right:.6g}, got {got:.6g}"
    away = np.abs(got - right)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(away), away.shape))
    many = np.count_nonzero(away > rtol * np.abs(right).max(initial=1e-300))
    return (
        f"{many} of {got.size} numbers differ, most at {list(at)}: "
        f"expected {right[at]:.6g}, got {got[at]:.6g}"
    )
