"""The norm of each layer's gradient: against depth at one step, and as a map over the steps."""

from matplotlib.figure import Figure

from minires.plots.style import expect_series, finish, new_axes, positive, styles_of

DEPTH = "layer with weights, 1 = next to the input"


def gradient_norms(series, *, ax=None, title="Gradient norm of each layer"):
    """Gradient norm against depth, on a log scale.

    Parameters
    ----------
    series : {label: list of GradientNorm}
        One line each. Labels that name a kind of network get its style; see `style_of`.
    ax : matplotlib Axes, optional
        A new figure if left out.
    title : str

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no series, or an empty one.

    Notes
    -----
    Norms that are 0 or not finite cannot stand on a log scale and leave a gap.
    """
    expect_series("gradient_norms", series, "list of GradientNorm")
    ax = new_axes() if ax is None else ax
    styles = styles_of(series)
    for label, norms in series.items():
        depth = [norm.depth for norm in norms]
        values = positive([norm.norm for norm in norms])
        every = max(1, len(depth) // 8)
        ax.plot(depth, values, label=label, markevery=every, markersize=4, **styles[label])
    ax.set_yscale("log")
    return finish(ax, title, DEPTH, "||dL/dw|| (log scale)")


def gradient_norm_figure(panels):
    """One panel of `gradient_norms` beside the other, on one scale.

    Parameters
    ----------
    panels : {title: {label: list of GradientNorm}}

    Returns
    -------
    figure : matplotlib Figure
    """
    expect_series("gradient_norm_figure", panels, "{label: list of GradientNorm}")
    figure = Figure(figsize=(5.6 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, series) in zip(axes, panels.items(), strict=True):
        gradient_norms(series, ax=ax, title=title)
    figure.suptitle("Gradient norm of each layer")
    share_legend(figure, axes)
    return figure


def share_legend(figure, axes):
    """One legend under panels on one scale, with every label once."""
    handles = {}
    for ax in axes:
        ax.get_legend().remove()
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3)
