"""The norm of each layer's gradient: against depth at one step, and as a map over the steps."""

from matplotlib.figure import Figure

from minires.checks import expect_choice
from minires.plots.heatmaps import by_step, log_norm, step_map
from minires.plots.style import (
    expect_series,
    expect_some,
    finish,
    in_legend,
    new_axes,
    positive,
    styles_of,
)

DEPTH = "layer with weights, 1 = next to the input"
HEAT = {  # title, label of the colours
    "grad_norm": ("Gradient norm of each layer", "||dL/dw||"),
    "update_ratio": ("Update of each layer, relative to its weights", "||update|| / ||w||"),
    "dy_norm": ("Upstream gradient of each layer", "||dL/dy||"),
}


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
        style = styles[label] | {"markevery": every, "markersize": 4}
        ax.plot(depth, values, label=in_legend(label), **style)
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
        ax.tick_params(labelleft=False, which="both")
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=4)


def gradient_heatmap(flow, *, what="grad_norm", ax=None):
    """A number of each layer over the recorded steps, as colours on a log scale.

    Parameters
    ----------
    flow : FlowLog
    what : {"grad_norm", "update_ratio", "dy_norm"}
        Of the weights: the norm of the gradient, or of the update over that of the weights. Or of
        the upstream gradient of the layers with weights.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes
        The colour bar stands beside it.

    Raises
    ------
    ValueError
        If `what` is something else, or there is no record of it.

    Notes
    -----
    Row 1, the layer next to the input, is at the bottom: the gradient comes from above. What is 0
    or not finite is hatched.
    """
    depths, steps, table = heat_table(flow, what)
    ax = new_axes() if ax is None else ax
    mesh = step_map(ax, steps, depths, table, log_norm(table))
    ax.set_title(HEAT[what][0])
    ax.set_ylabel(DEPTH)
    ax.figure.colorbar(mesh, ax=ax, label=HEAT[what][1])
    return ax


def heat_table(flow, what):
    """(depths, steps, table) for a map of `what`, NaN where no log can be taken."""
    expect_choice("gradient_heatmap", "what", what, list(HEAT))
    found = weights_of(flow)
    depths = {record.path: record.depth for record in found}
    if what == "dy_norm":
        depths = {layer_of(path): depth for path, depth in depths.items()}
        found = [record for record in flow.layers if record.path in depths]
    expect_some("gradient_heatmap", found, f"a FlowLog with {what} of weights", flow)
    found = sorted(found, key=lambda record: depths[record.path])
    paths, steps, table = by_step(found, lambda record: getattr(record, what))
    return [depths[path] for path in paths], steps, positive(table)


def weights_of(flow):
    """The ParameterRecords of weights that have a depth."""
    return [record for record in flow.parameters if record.depth is not None]


def layer_of(path):
    """The path of a Parameter's layer; "" is the model itself."""
    return path.rpartition(".")[0]
