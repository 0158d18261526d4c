"""What `fit` measured, epoch by epoch."""

import textwrap

from matplotlib.figure import Figure

from minires.plots.style import (
    expect_series,
    finish,
    finite,
    in_legend,
    new_axes,
    plain,
    positive,
    styles_of,
)


def training_curves(histories, *, ax=None, column="loss", title=None):
    """One number of each epoch against the epoch.

    Parameters
    ----------
    histories : {label: History}
        One line each. Labels that name a kind of network get its style; see `style_of`.
    ax : matplotlib Axes, optional
        A new figure if left out.
    column : str
        Of `History`: "loss", "accuracy", "test_loss", "test_accuracy", "lr" or "seconds".
    title : str, optional

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no history, or an empty one.
    """
    expect_series("training_curves", histories, "History")
    ax = new_axes() if ax is None else ax
    styles = styles_of(histories)
    for label, history in histories.items():
        values = finite(history.column(column))
        style = styles[label] | {"markersize": 4}
        ax.plot(history.column("epoch"), values, label=in_legend(label), **style)
    name = column.replace("_", " ")
    if "loss" in column:
        ax.set_yscale("log")
    units = {"loss": " (log scale)", "test_loss": " (log scale)", "seconds": " of the epoch"}
    return finish(ax, title or name.capitalize(), "epoch", name + units.get(column, ""))


def training_figure(histories):
    """Training loss and test accuracy of some runs, side by side.

    Parameters
    ----------
    histories : {label: History}

    Returns
    -------
    figure : matplotlib Figure
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    training_curves(histories, ax=left, column="loss", title="Training loss")
    training_curves(histories, ax=right, column="test_accuracy", title="Test accuracy")
    right.set_ylim(0, 1.02)
    return figure


def run_figure(name, history):
    """Loss and error of one run, in training and on the test images, side by side.

    Parameters
    ----------
    name : str
        Of the run.
    history : History
        Epochs without a test are passed over in the lines of the test.

    Returns
    -------
    figure : matplotlib Figure

    Raises
    ------
    ValueError
        If the history is empty.
    """
    expect_series("run_figure", {name: history}, "History")
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part, look in RUN_LINES.items():
        loss, accuracy = part_names(part)
        draw_measured(left, history, loss, positive, part, look)
        draw_measured(right, history, accuracy, percent_wrong, part, look)
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    finish(left, "Loss", "epoch", "mean cross-entropy (log scale)")
    finish(right, "Error", "epoch", "images classified wrongly, %")
    figure.suptitle(plain(textwrap.fill(name, 90)))
    return figure


RUN_LINES = {
    "training": {"color": "#1f5fa8", "linestyle": "--", "marker": "o", "markersize": 3},
    "test": {"color": "#c0392b", "linestyle": "-", "marker": "s", "markersize": 4},
}


def part_names(part):
    """Which columns of the History: loss and accuracy."""
    return ("loss", "accuracy") if part == "training" else ("test_loss", "test_accuracy")


def percent_wrong(accuracy):
    """The error in %, of shares that are right."""
    return 100 * (1 - finite(accuracy))


def draw_measured(ax, history, column, values_of, label, look):
    """A line through the epochs in which the number was measured, if there are any."""
    pairs = zip(history.column("epoch"), history.column(column), strict=True)
    points = [(epoch, value) for epoch, value in pairs if value is not None]
    if points:
        epochs, values = zip(*points, strict=True)
        ax.plot(epochs, values_of(values), label=label, **look)
