"""Test error without one block, without several, and with blocks in another order."""

import numpy as np

from minires.plots.style import (
    depth_of,
    expect_series,
    finish,
    finite,
    in_legend,
    new_axes,
    styles_of,
)

ERROR = "test error, percent"


def lesions(studies, *, ax=None):
    """Test error without each block in turn, and of the model as it is.

    Parameters
    ----------
    studies : {label: list of Lesion}
        From `lesion_study`: first the model as it is, drawn as a horizontal line. Labels that name
        a kind of network get its style; see `style_of`.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no study, or an empty one, or no block was dropped.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, figure 3.
    """
    expect_series("lesions", studies, "list of Lesion")
    if not any(lesion.path for study in studies.values() for lesion in study):
        raise ValueError("lesions expects blocks that were dropped, got only the model as it is")
    ax = new_axes() if ax is None else ax
    styles = styles_of(studies)
    for label, study in studies.items():
        error = dict(zip(map(name_of, study), percent(study), strict=True))
        intact = error.pop("", np.nan)
        blocks = blocks_like(label, studies)
        values = [error.get(name, np.nan) for name in blocks]
        style = styles[label] | {"markersize": 4}
        ax.plot(range(1, len(blocks) + 1), values, label=in_legend(label), **style)
        ax.axhline(intact, label=in_legend(f"{label}, intact"), **line_only(style))
    ax.set_ylim(bottom=0)
    return finish(ax, "Test error without one block", "block dropped, 1 = next to the input", ERROR)


def multi_lesions(studies, *, ax=None):
    """Test error against how many blocks were dropped: the median of the repeats, and their range.

    Parameters
    ----------
    studies : {label: list of MultiLesion}
        From `multi_lesion_study`.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no study, or an empty one.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, figure 5 (a).
    """
    expect_series("multi_lesions", studies, "list of MultiLesion")
    ax = new_axes() if ax is None else ax
    draw_ranges(ax, studies, "count")
    return finish(ax, "Test error without several blocks", "blocks dropped, at random", ERROR)


def shuffles(studies, *, ax=None):
    """Test error against how many pairs of blocks traded places; median and range.

    Parameters
    ----------
    studies : {label: list of Shuffle}
        From `shuffle_study`.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no study, or an empty one.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, figure 5 (b), which has Kendall's tau on the x axis.
    """
    expect_series("shuffles", studies, "list of Shuffle")
    ax = new_axes() if ax is None else ax
    draw_ranges(ax, studies, "swaps")
    return finish(ax, "Test error with blocks in another order", "pairs of blocks swapped", ERROR)


def name_of(lesion):
    """Of the block, the same for a residual network and its plain twin."""
    return lesion.path.removesuffix(".sum")


def blocks_like(label, studies):
    """The names of the blocks of a network, or of a twin of its depth that has more of them.

    Of a plain network the blocks that change the shape cannot be dropped. They leave a gap, so
    that the same block stands at the same place for both.
    """
    names = {k: [name_of(lesion) for lesion in v if lesion.path] for k, v in studies.items()}
    twins = [names[k] for k in studies if depth_of(k) == depth_of(label) is not None]
    fitting = [twin for twin in twins if set(names[label]) <= set(twin)]
    return max(fitting, key=len, default=names[label])


def draw_ranges(ax, studies, column):
    """Median of the error at each count, with a bar from the lowest to the highest."""
    styles = styles_of(studies)
    for label, study in studies.items():
        error, x = percent(study), np.array([getattr(record, column) for record in study])
        places = np.unique(x)
        spread = np.array([median_and_range(error[x == place]) for place in places])
        middle = spread[:, 0]
        style = styles[label] | {"markersize": 4, "capsize": 2, "elinewidth": 0.8}
        name = in_legend(f"{label}, median and range")
        ax.errorbar(places, middle, spread[:, 1:].T, label=name, **style)
    ax.set_ylim(bottom=0)


def median_and_range(values):
    """The median, and how far it is down to the lowest and up to the highest; NaN without any."""
    values = values[np.isfinite(values)]
    if not values.size:
        return [np.nan] * 3
    middle = np.median(values)
    return [middle, middle - values.min(), values.max() - middle]


def percent(study):
    """The error of each record."""
    return 100 * (1 - finite([record.accuracy for record in study]))


def line_only(style):
    """The line of a style, thin and without markers."""
    kept = {name: style[name] for name in ("color", "linestyle") if name in style}
    return kept | {"linewidth": 0.8}
