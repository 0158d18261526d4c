"""Records to figures. Every plot takes `ax=None` and returns the Axes; none calls `show`.

The only importer of matplotlib. Lines differ in style and marker as well as in colour, so that
they can be told apart when printed grey.
"""

import re

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLES = {
    "plain": {"color": "#c0392b", "linestyle": "--", "marker": "s"},
    "residual": {"color": "#1f5fa8", "linestyle": "-", "marker": "o"},
}


def new_axes(width=6.4, height=4.0):
    """Axes on a figure of their own, which needs no display."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def gradient_norms(series, *, ax=None, title="Gradient norm of each layer"):
    """Gradient norm against depth, on a log scale.

    Parameters
    ----------
    series : {label: list of GradientNorm}
        One line each. Labels that contain "plain" or "residual" get the style of that kind.
    ax : matplotlib Axes, optional
        A new figure if left out.
    title : str

    Returns
    -------
    ax : matplotlib Axes

    Notes
    -----
    Norms that are 0 or not finite cannot stand on a log scale and leave a gap.
    """
    ax = new_axes() if ax is None else ax
    for label, norms in series.items():
        depth = [norm.depth for norm in norms]
        values = np.array([norm.norm for norm in norms])
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        every = max(1, len(depth) // 8)
        ax.plot(depth, values, label=label, markevery=every, markersize=4, **style_of(label))
    ax.set_yscale("log")
    ax.set_xlabel("layer with weights, 1 = next to the input")
    ax.set_ylabel("||dL/dw|| (log scale)")
    ax.set_title(title)
    ax.grid(True, which="major", alpha=0.3)
    ax.legend()
    return ax


def training_curves(histories, *, ax=None, column="loss", title=None):
    """One number of each epoch against the epoch.

    Parameters
    ----------
    histories : {label: History}
        One line each. Labels that contain "plain" or "residual" get the style of that kind.
    ax : matplotlib Axes, optional
        A new figure if left out.
    column : str
        Of `History`: "loss", "accuracy", "test_loss", "test_accuracy", "lr" or "seconds".
    title : str, optional

    Returns
    -------
    ax : matplotlib Axes
    """
    ax = new_axes() if ax is None else ax
    for label, history in histories.items():
        values = [np.nan if v is None else v for v in history.column(column)]
        ax.plot(history.column("epoch"), values, label=label, markersize=4, **style_of(label))
    name = column.replace("_", " ")
    if "loss" in column:
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{name} (log scale)" if "loss" in column else name)
    ax.set_title(title or name.capitalize())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(True, which="major", alpha=0.3)
    ax.legend()
    return ax


def gradient_norm_figure(panels):
    """One panel of `gradient_norms` beside the other, on one scale.

    Parameters
    ----------
    panels : {title: {label: list of GradientNorm}}

    Returns
    -------
    figure : matplotlib Figure
    """
    figure = Figure(figsize=(5.6 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, series) in zip(axes, panels.items(), strict=True):
        gradient_norms(series, ax=ax, title=title)
        ax.get_legend().remove()
    axes[0].figure.suptitle("Gradient norm of each layer")
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def training_figure(histories):
    """Training loss and test accuracy of some runs, side by side.

    Parameters
    ----------
    histories : {label: History}

    Returns
    -------
    figure : matplotlib Figure
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    training_curves(histories, ax=left, column="loss", title="Training loss")
    training_curves(histories, ax=right, column="test_accuracy", title="Test accuracy")
    right.set_ylim(0, 1.02)
    return figure


def style_of(label):
    """Line style of a label such as "plain-56": colour by kind, lighter where shallow or bare."""
    kind = next((kind for kind in STYLES if kind in label), None)
    if kind is None:
        return {"marker": "."}
    depth = int((re.findall(r"\d+", label) or ["0"])[0])
    style = dict(STYLES[kind])
    if depth <= 20:
        style |= {"markerfacecolor": "white", "linewidth": 1, "alpha": 0.7}
    if "without norm" in label:
        style |= {"linestyle": ":", "marker": {"plain": "v", "residual": "^"}[kind]}
    return style
