"""The loss around the weights of a model, as contours."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minires.plots.style import (
    COLORMAP,
    HATCH,
    expect_some,
    legend_below,
    new_axes,
    plain,
    positive,
)

LEVELS = 13
CENTRE = {
    "marker": "*",
    "markersize": 11,
    "linestyle": "none",
    "color": "white",
    "markeredgecolor": "black",
}
LEGIBLE = 4  # every fourth contour is labelled


def loss_surface(surface, *, ax=None, title="Loss around the weights of the model"):
    """Contours of the loss on a plane through the weights, on a log scale.

    Parameters
    ----------
    surface : LossSurface
    ax : matplotlib Axes, optional
        A new figure if left out.
    title : str

    Returns
    -------
    ax : matplotlib Axes
        The colour bar stands beside it.

    Raises
    ------
    ValueError
        If the surface has no points.

    Notes
    -----
    Where the loss is 0 or not finite, the ground is hatched.

    References
    ----------
    Li et al. (2018), arXiv:1712.09913, figure 1.
    """
    expect_points("loss_surface", surface)
    ax = new_axes(5.8, 5.0) if ax is None else ax
    filled = draw_surface(ax, surface, levels_of(surface))
    ax.set_title(plain(title))
    color_bar(ax.figure, filled, ax)
    legend_below(ax)
    return ax


def loss_surface_figure(surfaces):
    """Loss surfaces side by side, on one scale of colours.

    Parameters
    ----------
    surfaces : {title: LossSurface}

    Returns
    -------
    figure : matplotlib Figure
    """
    if not surfaces:
        raise ValueError(f"loss_surface_figure expects {{title: LossSurface}}, got {surfaces!r}")
    for surface in surfaces.values():
        expect_points("loss_surface_figure", surface)
    figure = Figure(figsize=(4.4 * len(surfaces) + 0.9, 4.8), layout="constrained")
    axes = figure.subplots(1, len(surfaces), squeeze=False)[0]
    levels = levels_of(*surfaces.values())
    for ax, (title, surface) in zip(axes, surfaces.items(), strict=True):
        filled = draw_surface(ax, surface, levels)
        ax.set_title(plain(title))
    for ax in axes[1:]:
        ax.set_ylabel("")
    figure.suptitle("Loss around the weights of each model")
    color_bar(figure, filled, list(axes))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def draw_surface(ax, surface, levels):
    """Filled contours with lines, some labelled, and a mark on the model itself."""
    ax.patch.set(**HATCH)
    loss = np.ma.masked_invalid(positive(surface.loss)).T  # rows are beta, the y axis
    grid = surface.alphas, surface.betas, loss
    filled = ax.contourf(*grid, levels, norm=LogNorm(levels[0], levels[-1]), cmap=COLORMAP)
    lines = ax.contour(*grid, levels[1:-1], colors="white", linewidths=0.6)
    ax.clabel(lines, levels=lines.levels[::LEGIBLE], fmt="%.2g", fontsize=7)
    ax.plot(0, 0, label="the model itself", **CENTRE)
    ax.set(aspect="equal", xlabel="alpha, along direction 1", ylabel="beta, along direction 2")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    return filled


def levels_of(*surfaces):
    """Ascending levels, equally far apart on a log scale, that cover what is positive."""
    values = np.concatenate([positive(surface.loss).ravel() for surface in surfaces])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (1, 1)
    if high < low * 1.01:
        low, high = low / 1.1, high * 1.1
    return np.geomspace(low * (1 - 1e-9), high * (1 + 1e-9), LEVELS)


def color_bar(figure, filled, axes):
    """The colours, with the numbers of every other level."""
    bar = figure.colorbar(filled, ax=axes, label="loss (log scale)", pad=0.02)
    ticks = filled.levels[::2]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()


def expect_points(owner, surface):
    """Refuse a surface without points."""
    expect_some(owner, list(surface.alphas), "a LossSurface with points", surface)
