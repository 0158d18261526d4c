"""How far each step moves the weights."""

import numpy as np
from matplotlib import colormaps

from minires.plots.gradients import weights_of
from minires.plots.heatmaps import by_step, short_names
from minires.plots.style import COLORMAP, GUIDE, expect_some, finish, in_legend, new_axes, positive

RATIO, GUIDE_LABEL = 1e-3, "guide: 1e-3"  # update to weights
MOST_LINES = 12
LINES = "-", "--", "-.", ":"
MARKERS = "osD^vx"
FIRST = {"color": "#1f5fa8", "linestyle": "-.", "marker": "o"}
LAST = {"color": "#c0392b", "linestyle": "--", "marker": "s"}
MEDIAN = {"color": "0.1", "linestyle": "-", "linewidth": 2}
BAND = {"facecolor": "0.85", "edgecolor": "0.55", "hatch": "....", "linewidth": 0}


def update_ratios(flow, *, ax=None, paths=None):
    """The norm of each update over that of the weights, step by step, on a log scale.

    Parameters
    ----------
    flow : FlowLog
    ax : matplotlib Axes, optional
        A new figure if left out.
    paths : list of str, optional
        Of Parameters; the weights of all layers outside shortcuts if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no such record; the message says which Parameters there are.

    Notes
    -----
    Up to 12 layers get a line each, lighter with depth. Of more, the median and the middle half
    are drawn, and the first and the last layer.
    """
    found = chosen_parameters(flow, paths)
    ax = new_axes() if ax is None else ax
    names, steps, table = by_step(found, lambda record: record.update_ratio)
    draw = draw_each if len(names) <= MOST_LINES else draw_spread
    draw(ax, names, steps, positive(table))
    draw_guide(ax)
    title = "Size of the updates, relative to the weights"
    return finish(ax, title, "step", "||update|| / ||w|| (log scale)")


def draw_guide(ax):
    """A log scale and a line at 1e-3, which stays in the view however far off the updates are."""
    ax.set_yscale("log")
    ax.update_datalim([(0, RATIO)], updatex=False)
    ax.autoscale_view()
    ax.axhline(RATIO, label=GUIDE_LABEL, **GUIDE)


def chosen_parameters(flow, paths):
    """The ParameterRecords of the weights with a depth, or of `paths` in their order."""
    if paths is None:
        found = sorted(weights_of(flow), key=lambda record: record.depth)
        return expect_some("update_ratios", found, "a FlowLog with records of weights", flow)
    known = list(dict.fromkeys(record.path for record in flow.parameters))
    for path in paths:
        if path not in known:
            raise ValueError(f"update_ratios expects paths out of {known}, got {path!r}")
    expect_some("update_ratios", paths, "at least one path", paths)
    place = {path: i for i, path in enumerate(paths)}
    found = [record for record in flow.parameters if record.path in place]
    return sorted(found, key=lambda record: place[record.path])


def draw_each(ax, names, steps, table):
    """A line for each layer."""
    colors = colormaps[COLORMAP](np.linspace(0, 0.85, len(names)))
    for i, (name, values) in enumerate(zip(short_names(names), table, strict=True)):
        style = {"linestyle": LINES[i % 4], "marker": MARKERS[i % 6], "color": colors[i]}
        every = max(1, len(steps) // 8)
        ax.plot(steps, values, label=in_legend(name), markersize=4, markevery=every, **style)


def draw_spread(ax, names, steps, table):
    """Median and quartiles of all layers, the first and the last one."""
    low, middle, high = quartiles(table)
    ax.fill_between(steps, low, high, label="middle half of the layers", **BAND)
    ax.plot(steps, middle, label=f"median of {len(names)} layers", **MEDIAN)
    every = max(1, len(steps) // 8)
    for which, i, style in (("first", 0, FIRST), ("last", -1, LAST)):
        label = in_legend(f"{which}: {short_names(names)[i]}")
        ax.plot(steps, table[i], label=label, markersize=4, markevery=every, **style)


def quartiles(table):
    """(rows, columns) -> (3, columns), over the rows that are not NaN; NaN if there are none."""
    found = [column[np.isfinite(column)] for column in table.T]
    return np.array([np.percentile(c, [25, 50, 75]) if c.size else [np.nan] * 3 for c in found]).T
