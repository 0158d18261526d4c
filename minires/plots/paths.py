"""Which share of the gradient comes by paths of which length."""

import numpy as np

from minires.plots.style import expect_some, finish, finite, legend_below, new_axes

BARS = {"facecolor": "#9db8d9", "edgecolor": "#1f3f66", "linewidth": 0.5}
SIGNED = {"color": "#c0392b", "linestyle": "none", "marker": "x", "zorder": 4}
PATHS = {"color": "0.1", "linestyle": "--", "marker": "s", "markerfacecolor": "white"}
LOWEST, HIGHEST = -1.0, 2.0  # signed shares beyond are cut


def path_spectrum(paths, *, ax=None, title="Gradient by path length"):
    """The share of the gradient, and of the paths, that has each length.

    Parameters
    ----------
    paths : PathGradients
    ax : matplotlib Axes, optional
        A new figure if left out.
    title : str

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no path.

    Notes
    -----
    Bars are the norm of each part over the sum of all norms: parts that cancel count in full.
    Crosses are `PathGradients.shares`, <part, total> / ||total||^2, which may be negative; they
    are cut at -1 and 2.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, figure 6.
    """
    expect_some("path_spectrum", list(paths.counts), "PathGradients with paths", paths)
    ax = new_axes() if ax is None else ax
    lengths, style = paths.lengths, {"markersize": 5, "markevery": max(1, len(paths.counts) // 28)}
    norms, signed = norm_shares(paths), finite(paths.shares)
    bars = ax.bar(lengths, norms, 0.8, label="gradient, norm of the part", **BARS)
    (points,) = ax.plot(lengths, signed, label="gradient, along the total", **SIGNED | style)
    (line,) = ax.plot(lengths, finite(paths.path_shares), label="paths", **PATHS | style)
    low, high = ax.get_ylim()
    negative = (signed < -0.005).any()
    ax.set_ylim(max(LOWEST, low) if negative else 0, min(HIGHEST, high))
    finish(ax, title, "path length, branches passed", "share of all lengths", legend=False)
    legend_below(ax, [bars, points, line], ncols=3)
    return ax


def norm_shares(paths):
    """The norm of each part over the sum of all, NaN where it is not finite or all are 0."""
    norms = finite(paths.norms)
    whole = norms[np.isfinite(norms)].sum()
    return norms / whole if whole else np.full(len(norms), np.nan)
