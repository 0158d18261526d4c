"""Curves of an experiment with their spread: autocorrelation of gradients, growth of variance."""

import numpy as np

from minires.plots.style import (
    GUIDE,
    expect_series,
    finish,
    finite,
    in_legend,
    new_axes,
    positive,
    styles_of,
)


def autocorrelation(curves, *, ax=None):
    """How much the gradient at one input says about the gradient at another, by their distance.

    Parameters
    ----------
    curves : {label: (lags, mean, standard error or None)}
        Arrays of one length; one line each, with a bar of one standard error up and down. Labels
        that name a kind of network get its style; see `style_of`.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no curve, or an empty one.

    References
    ----------
    Balduzzi et al. (2017), arXiv:1702.08591, figure 1.
    """
    expect_series("autocorrelation", curves, "(lags, mean, standard error or None)")
    ax = new_axes() if ax is None else ax
    styles = styles_of(curves)
    for label, (lags, mean, error) in curves.items():
        expect_numbers("autocorrelation", label, lags)
        error = None if error is None else finite(error)
        errorbar(ax, lags, finite(mean), error, label, styles[label])
    ax.axhline(0, **GUIDE)
    ax.set_ylim(-0.2, 1.03)  # and a little, for the marker at 1
    title = "Autocorrelation of the gradient at the input"
    return finish(ax, title, "lag, points on the line of inputs", "autocorrelation")


def variance_growth(curves, *, ax=None):
    """The variance of the signal behind each block, on a log scale of base 2.

    Parameters
    ----------
    curves : {label: (blocks, variance) or (blocks, variance, low, high)}
        Arrays of one length: the number of the block, the geometric mean of the variance and the
        ends of its error bar. Labels that name a kind of network get its style; see `style_of`.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no curve, or an empty one.

    Notes
    -----
    A variance that doubles at each block, as without a norm, is a straight line here; one that
    grows by the same amount, as with batch norm in the branch, a logarithm.
    """
    expect_series("variance_growth", curves, "(blocks, variance[, low, high])")
    ax = new_axes() if ax is None else ax
    styles = styles_of(curves)
    for label, (blocks, variance, *ends) in curves.items():
        expect_numbers("variance_growth", label, blocks)
        values = positive(variance)
        error = [values - positive(ends[0]), positive(ends[1]) - values] if ends else None
        errorbar(ax, blocks, values, error, label, styles[label])
    ax.set_yscale("log", base=2)
    title = "Variance of the signal by depth"
    return finish(ax, title, "residual block, 0 = before the first", "variance (log scale, base 2)")


def errorbar(ax, x, values, error, label, style):
    """A line with thin error bars behind it."""
    every = max(1, len(values) // 12)
    if error is not None:
        error = np.where(np.asarray(error) >= 0, error, np.nan)
    bars = {"elinewidth": 0.8, "capsize": 2, "errorevery": every, "markevery": every}
    ax.errorbar(x, values, error, label=in_legend(label), markersize=4, **bars, **style)


def expect_numbers(owner, label, x):
    """Refuse a curve without points."""
    if not len(x):
        raise ValueError(f"{owner} expects points for {label!r}, got none")
