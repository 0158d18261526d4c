"""What the activations and their gradients look like: dead ReLUs, and how numbers spread."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from minires.checks import expect_choice
from minires.plots.gradients import DEPTH, layer_of, weights_of
from minires.plots.heatmaps import NAMED_ROWS, by_step, name_rows, short_names, step_map
from minires.plots.style import expect_some, finish, in_legend, legend_below, new_axes

MOST_LINES = 8
LINES = "-", "--", "-.", ":"
MARKERS = "osD^vx*p"
WIDE = 20  # times the spread of the narrowest layer: the axis of values becomes logarithmic
DECADES = 8  # at most, below the widest
NAMES = {"y": "Output y", "dy": "Upstream gradient dL/dy", "dx": "Gradient dL/dx"}
BANDS = {  # percentiles from and to, and a blue that is darker further in
    "all": (0, 100, "#dbe7f3"),
    "98 %": (1, 99, "#a9c6e3"),
    "80 %": (10, 90, "#5f93c4"),
    "half": (25, 75, "#1f4e85"),
}
MEDIAN = {"color": "white", "marker": "|", "linestyle": "none", "markeredgewidth": 1.2}


def dead_units(flow, *, ax=None):
    """The share of units that a ReLU keeps at 0 for the whole batch, over the recorded steps.

    Parameters
    ----------
    flow : FlowLog
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no record of a ReLU.

    Notes
    -----
    Up to 8 ReLUs get a line each, more are drawn as a map.
    """
    found = [record for record in flow.layers if record.dead is not None]
    expect_some("dead_units", found, "a FlowLog with records of ReLUs", flow)
    ax = new_axes() if ax is None else ax
    names, steps, table = by_step(found, lambda record: 100 * record.dead)
    title = "Dead units of each ReLU"
    if len(names) > MOST_LINES:
        return dead_map(ax, title, names, steps, table)
    for i, (name, values) in enumerate(zip(short_names(names), table, strict=True)):
        style = {"linestyle": LINES[i % 4], "marker": MARKERS[i], "markersize": 4}
        ax.plot(steps, values, label=in_legend(name), **style)
    top = max(1, np.nanmax(table, initial=0))
    ax.set_ylim(-0.04 * top, 1.04 * top)
    return finish(ax, title, "step", "dead units, percent")


def dead_map(ax, title, names, steps, table):
    """The same as colours."""
    norm = Normalize(0, max(1, np.nanmax(table, initial=0)))
    mesh = step_map(ax, steps, np.arange(1, len(names) + 1), table, norm)
    ax.set_title(title)
    ax.set_ylabel("ReLU, 1 = next to the input")
    ax.figure.colorbar(mesh, ax=ax, label="dead units, percent")
    return ax


def histograms(flow, *, array="y", step=None, paths=None, ax=None):
    """How the numbers of each layer spread: nested bars, a row a layer.

    Parameters
    ----------
    flow : FlowLog
        Recorded with `histograms=True`, or with paths.
    array : {"y", "dy", "dx"}
        Outputs, or gradients.
    step : int, optional
        The last one with finite numbers if left out.
    paths : list of str, optional
        Of layers; those with weights outside shortcuts if left out, or all there are.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no such histogram.

    Notes
    -----
    The bars hold all numbers, and the middle 98 %, 80 % and 50 % of them. Unlike a density they
    stay true when the axis is stretched: where layers differ much in size, it is logarithmic on
    both sides of a linear middle. On a linear axis a white tick is the median. Inside a bin of the
    records numbers count as evenly spread.
    """
    expect_choice("histograms", "array", array, list(NAMES))
    found = chosen_histograms(flow, array, step, paths)
    ax = new_axes(height=5.2) if ax is None else ax
    scale_values(ax, found)
    rows = np.arange(1, len(found) + 1)
    for name, (low, high, color) in BANDS.items():
        left, right = percentiles(found, low), percentiles(found, high)
        label = name if name == "all" else f"middle {name}"
        ax.barh(rows, right - left, 0.86, left=left, color=color, label=label)
    if ax.get_xscale() == "linear":  # a log scale makes much of the sign of a median near 0
        ax.plot(percentiles(found, 50), rows, markersize=min(7, 160 / len(found)), **MEDIAN)
    ax.use_sticky_edges = False
    ax.margins(x=0.03)
    ax.set_ylim(0.4, len(found) + 0.6)
    finish_histograms(ax, found, NAMES[array], "layer" if paths else DEPTH)
    return ax


def finish_histograms(ax, records, name, ylabel):
    """Names of rows and axes, and the legend."""
    scale = "" if ax.get_xscale() == "linear" else " (symmetric log scale)"
    title = f"{name} of each layer, step {records[0].step}"
    finish(ax, title, f"{name}{scale}", ylabel, integers=False, legend=False)
    ax.set_axisbelow(True)
    name_rows(ax, [record.path for record in records])
    if len(records) > NAMED_ROWS:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(ax, ncols=4)


def chosen_histograms(flow, array, step, paths):
    """The HistogramRecords of one array at one step, those with numbers in them."""
    found = [record for record in flow.histograms if record.array == array]
    expect_some("histograms", found, f"a FlowLog with histograms of {array!r}", flow)
    steps = sorted({record.step for record in found})
    if step is None:
        step = max((record.step for record in found if record.counts), default=steps[-1])
    expect_choice("histograms", "step", step, steps)
    found = {record.path: record for record in found if record.step == step}
    if paths is None:
        layers = dict.fromkeys(layer_of(record.path) for record in weights_of(flow))
        paths = [path for path in layers if path in found] or list(found)
    for path in paths:
        expect_choice("histograms", "paths", path, list(found))
    shown = [found[path] for path in paths if found[path].counts]
    return expect_some("histograms", shown, "layers with finite numbers", list(paths))


def scale_values(ax, records):
    """Make the axis of values logarithmic on both sides if the layers differ much in size."""
    size = np.array([max(abs(record.low), abs(record.high)) for record in records])
    if not size.any() or size.max() <= WIDE * size[size > 0].min():
        ax.xaxis.set_major_locator(MaxNLocator(6))
        return
    last = int(np.floor(np.log10(size.max())))
    first = max(int(np.floor(np.log10(size[size > 0].min() / 4))), last - DECADES)
    ax.set_xscale("symlog", linthresh=10.0**first)
    powers = 10.0 ** np.arange(last, first - 1, -max(1, (last - first + 1) // 2))
    ax.set_xticks([*-powers, 0, *powers])


def percentiles(records, percent):
    """One percentile of each record's numbers."""
    return np.array([percentile(record, percent) for record in records])


def percentile(record, percent):
    """Of the numbers in a histogram, evenly spread inside its bins.

    Examples
    --------
    >>> from minires.flow import HistogramRecord
    >>> percentile(HistogramRecord(1, "relu", "y", 0.0, 4.0, (2, 0, 0, 2)), 25)
    0.5
    """
    if percent == 100:
        return record.high  # whatever empty bins there are below it
    borders = np.linspace(record.low, record.high, len(record.counts) + 1)
    filled = np.cumsum([0, *record.counts])
    return float(np.interp(percent / 100 * filled[-1], filled, borders))
