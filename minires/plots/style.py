"""How every plot looks: the style of a label, its text, axes and legend, and what is refused.

Lines differ in style and marker as well as in colour, so that they can be told apart when printed
grey; colour maps are monotone in lightness.
"""

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

STYLES = {
    "plain": {"color": "#c0392b", "linestyle": "--", "marker": "s"},
    "residual": {"color": "#1f5fa8", "linestyle": "-", "marker": "o"},
    "preactivation": {"color": "#1b7a3d", "linestyle": "-.", "marker": "D"},
}
BARE = {"plain": "v", "residual": "^", "preactivation": "<"}
START = {"plain": "x", "residual": "+", "preactivation": "1"}
KIND_OF = {
    "preact": "preactivation",  # before "resnet": preact_resnet20
    "plain": "plain",
    "residual": "residual",
    "resnet": "residual",
}
OTHER_MARKERS = ".sD^vph*<>dP"
OTHER_LINES = "-", "--", "-.", ":"

COLORMAP = "viridis"
GUIDE = {"color": "0.35", "linewidth": 1, "linestyle": (0, (1, 1.5))}
HATCH = {"hatch": "xxx", "facecolor": "white", "edgecolor": "0.7"}
SMALLEST, LARGEST = 1e-100, 1e100  # log axes add margins, which overflow near the ends of float64
LEGEND_BELOW = 40  # points: tick labels and the label of the axis


def new_axes(width=6.4, height=4.4):
    """Axes on a figure of their own, which needs no display."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def kind_of(label):
    """ "plain", "residual", "preactivation" or None, from a label such as "preact_resnet20"."""
    return next((kind for word, kind in KIND_OF.items() if word in label), None)


def depth_of(label):
    """The number in a label such as "plain-56 start" or "plain, depth 56", or None."""
    found = re.search(r"(?:plain|residual|resnet|preact[a-z]*|depth)[-_ ]?(\d+)", label)
    return int(found[1]) if found else None


def style_of(label, depths=()):
    """Line style of a label such as "plain-56", "resnet20 without norm" or "plain20 start".

    Parameters
    ----------
    label : str
        The kind of network gives colour, line and marker, its depth the width and the filling.
        "without norm" dots the line; "start" or "initial" makes the marker a cross.
    depths : sequence of int, optional
        Of all networks in the plot, in order: the first is drawn thin with white markers, the last
        solid. Without several, 20 layers or less are thin.

    Returns
    -------
    style : dict
        Arguments of `Axes.plot`.
    """
    kind = kind_of(label)
    if kind is None:
        return {"marker": "."}
    style = STYLES[kind] | depth_style(STYLES[kind]["color"], depth_of(label), depths)
    if "without norm" in label:
        style |= {"linestyle": ":", "marker": BARE[kind]}
    if re.search(r"\b(start|initial|initiali[sz]ation|untrained)\b", label):
        style |= {"marker": START[kind]}
    return style


def depth_style(color, depth, depths):
    """Thin and white where shallow, wide and full where deep, in steps between."""
    if depth in depths and len(depths) > 1:
        weight = depths.index(depth) / (len(depths) - 1)
    else:
        weight = 0 if depth is not None and depth <= 20 else 1
    fill = tuple(1 - weight * (1 - part) for part in to_rgb(color))
    return {"markerfacecolor": fill, "linewidth": 1 + 0.8 * weight, "alpha": 0.7 + 0.3 * weight}


def styles_of(labels):
    """{label: line style} of the series of one plot, no two alike."""
    depths = sorted({depth_of(label) for label in labels} - {None})
    styles = {}
    for label in sorted(
        labels, key=lambda label: kind_of(label) is None
    ):  # others can change the line too
        style = style_of(label, depths)
        others = other_styles(named=kind_of(label) is not None)
        while any(alike(style, known) for known in styles.values()) and (
            other := next(others, None)
        ):
            style = style | other
        styles[label] = style
    return styles


def alike(one, other):
    """Whether two styles cannot be told apart in grey; networks of one kind may differ in width."""
    line, marker = (one.get(key, "-") == other.get(key, "-") for key in ("linestyle", "marker"))
    same_kind = one.get("color") == other.get("color")
    return line and marker and not (same_kind and one.get("linewidth") != other.get("linewidth"))


def other_styles(named):
    """Ways out where two labels would look alike; the line tells the kind, if there is one."""
    for line in ((),) if named else OTHER_LINES[1:]:
        for marker in OTHER_MARKERS:
            yield {"marker": marker} | ({"linestyle": line} if line else {})


def plain(text):
    r"""Names of runs, files and layers as they are: a dollar begins no formula.

    Examples
    --------
    >>> plain("a$b$")
    'a\\$b\\$'
    """
    return str(text).replace("$", r"\$")


def in_legend(text):
    """The same for a legend, which leaves out what begins with an underscore.

    Examples
    --------
    >>> in_legend("_run")
    ' _run'
    """
    return plain(f" {text}" if str(text).startswith("_") else text)


def positive(values):
    """As floats, with NaN, a gap, for what cannot stand on a log scale."""
    values = np.asarray(values, float)
    return np.where((values > SMALLEST) & (values < LARGEST), values, np.nan)


def finite(values):
    """As floats, with NaN, a gap, for None and infinity."""
    values = np.array([np.nan if value is None else value for value in values], float)
    return np.where(np.isfinite(values), values, np.nan)


def finish(ax, title, xlabel, ylabel, *, integers=True, legend=True):
    """Title, labels, a faint grid, whole numbers on the x axis and the legend below it."""
    ax.set_title(plain(title))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(True, which="major", alpha=0.3)
    if integers:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if legend:
        legend_below(ax)
    return ax


def legend_below(ax, handles=None, *, ncols=2):
    """A legend under the label of the x axis, where it hides nothing."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    below = ScaledTranslation(0, -LEGEND_BELOW / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + below,
        ncols=min(ncols, len(handles)),
        fontsize="small",
        columnspacing=1.2,
    )


def expect_series(owner, series, what):
    """Refuse what is no dict, an empty dict, and a series with nothing in it."""
    if not isinstance(series, Mapping):
        raise TypeError(f"{owner} expects {{label: {what}}}, got {type(series).__name__}")
    if not series:
        raise ValueError(f"{owner} expects {{label: {what}}}, got an empty dict")
    for label, values in series.items():
        if not len(values):
            raise ValueError(f"{owner} expects {what} for {label!r}, got an empty one")


def expect_some(owner, records, what, given):
    """Refuse to draw no records."""
    if not records:
        raise ValueError(f"{owner} expects {what}, got {given!r}")
    return records
