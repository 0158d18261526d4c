"""Errors that teach: every check says who expected what, and what came instead."""

import numbers
from itertools import repeat

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def expect_array(owner, name, array, *shapes, dtype=None, like="its parameters"):
    """Refuse `array` unless it is float32 or float64, non-empty and of one of `shapes`.

    Parameters
    ----------
    owner, name : str
        Who asks, and what the array is called there.
    array : object
        What came.
    *shapes : tuple of int or str
        Accepted shapes; a letter stands for any size.
    dtype : numpy.dtype, optional
        The one dtype that fits, because `like` has it.

    Raises
    ------
    TypeError
        If it is no NumPy array.
    ValueError
        If shape or dtype differ.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{owner} expects {name} to be a NumPy array, got {type(array).__name__}")
    found = array.shape
    if shapes and found not in shapes and not any(map(fits, repeat(found), shapes)):
        wanted = " or ".join(format_shape(shape) for shape in shapes)
        raise ValueError(f"{owner} expects {name} of shape {wanted}, got {format_shape(found)}")
    if array.dtype not in FLOATS:
        raise ValueError(
            f"{owner} expects {name} of dtype float32 or float64, got {array.dtype}: "
            f"convert it, as in {name}.astype(np.float32)"
        )
    if dtype is not None and array.dtype != dtype:
        raise ValueError(
            f"{owner} expects {name} of dtype {dtype}, like {like}, got {array.dtype}: convert "
            f"{name} with {name}.astype(np.{dtype}), or the model with model.astype"
        )
    if array.size == 0:
        raise ValueError(
            f"{owner} expects at least one number in {name}, "
            f"got an empty array of shape {format_shape(array.shape)}"
        )


def expect_int(owner, name, value, at_least=1):
    """Return `value` as an int, or raise ValueError if it is not a whole number >= `at_least`."""
    if type(value) is int and value >= at_least:
        return value  # as nearly always, and the test below takes a microsecond
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
    if not whole or value < at_least:
        raise ValueError(f"{owner} expects {name} to be an integer >= {at_least}, got {value!r}")
    return int(value)


def expect_number(owner, name, value, at_least=None, at_most=None, below=None, above=None):
    """Return `value` as a float, or raise ValueError if it lies outside the bounds."""
    bounds = {">=": at_least, "<=": at_most, "<": below, ">": above}
    wanted = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    inside = (
        number
        and np.isfinite(value)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
        and (above is None or value > above)
    )
    if not inside:
        wanted = f"a number {wanted}" if wanted else "a finite number"
        raise ValueError(f"{owner} expects {name} to be {wanted}, got {value!r}")
    return float(value)


def expect_bool(owner, name, value):
    """Return `value` as a bool, or raise ValueError if it is something else."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{owner} expects {name} to be True or False, got {value!r}")
    return bool(value)


def expect_choice(owner, name, value, choices):
    """Return `value`, or raise ValueError if it is not among `choices`."""
    if not any(value is choice or (value == choice) is True for choice in choices):
        wanted = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{owner} expects {name} to be one of {wanted}, got {value!r}")
    return value


def expect_dtype(owner, dtype):
    """Return `dtype` as a numpy.dtype, or raise ValueError if it is not float32 or float64."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if dtype is None or found not in FLOATS:
        raise ValueError(f"{owner} expects dtype float32 or float64, got {dtype!r}")
    return found


def as_rng(owner, rng):
    """`rng` as a numpy.random.Generator, or ValueError if it is no seed."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise ValueError(
            f"{owner} expects rng to be None, an integer >= 0 or a Generator, got {rng!r}"
        ) from None


def expect_callable(owner, name, value):
    """Return `value`, or raise TypeError if it cannot be called."""
    if not callable(value):
        raise TypeError(f"{owner} expects {name} to be a function, got {value!r}")
    return value


def format_shape(shape):
    """(N, H, W, 3) as text, letters without quotes."""
    inside = ", ".join(str(size) for size in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def fits(shape, pattern):
    """Whether `shape` has the rank of `pattern` and its sizes wherever they are numbers."""
    if len(shape) != len(pattern):
        return False
    for size, wanted in zip(shape, pattern, strict=True):  # a loop: `all` takes a microsecond more
        if size != wanted and not isinstance(wanted, str):
            return False
    return True
