"""Exact properties instead of tolerances: adjoints, and roundings counted in their own unit."""

import numpy as np


def assert_adjoint(forward, transpose, x, g, rtol=1e-13):
    """<A x, g> = <x, A^T g> for a linear `forward` A and its `transpose`, without differences.

    Parameters
    ----------
    forward, transpose : callable
        Array to array.
    x, g : float64 arrays
        Inputs of the one and of the other.
    rtol : float
        Relative to the sum of the absolute values of all products.
    """
    y, dx = forward(x), transpose(g)
    left, right = float((y * g).sum()), float((x * dx).sum())
    terms = max(float(np.abs(y * g).sum()), float(np.abs(x * dx).sum()))
    assert abs(left - right) <= rtol * terms, f"<A x, g> is {left!r}, <x, A^T g> is {right!r}"


def assert_within_rounding(actual, desired, terms, units=8):
    """Each number is within `units` roundings of the sum of the absolute values that made it.

    Parameters
    ----------
    actual : float32 or float64 array
        Its dtype gives the size of a rounding.
    desired : array
        The truth, in float64.
    terms : array
        For each number, the sum of the absolute values of the terms it is a sum of.
    units : float
    """
    bound = units * np.finfo(actual.dtype).eps * np.broadcast_to(terms, actual.shape)
    off = np.abs(actual - desired)
    assert actual.shape == np.shape(desired), f"shapes {actual.shape} and {np.shape(desired)}"
    assert (off <= bound).all(), (
        f"off by up to {np.max(off / np.where(bound > 0, bound, 1)) * units:.1f} roundings of the "
        f"sum of absolute terms, {units} allowed"
    )
