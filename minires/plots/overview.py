"""Several recorded runs on one figure: gradient norms, updates, maps, and the residual ledger."""

import math

from matplotlib.figure import Figure

from minires.plots.gradients import DEPTH, gradient_norms, heat_table, share_legend, weights_of
from minires.plots.heatmaps import by_step, log_norm, step_map
from minires.plots.residual import ledger, ledger_norms
from minires.plots.style import expect_series, finish, in_legend, plain, positive, styles_of
from minires.plots.updates import GUIDE_LABEL, RATIO, draw_guide, quartiles

MAPS = 4  # in a row
WIDTH, HEIGHT = 14, 4.4  # inches, of a row of panels


def flow_figure(logs):
    """An overview of some recorded runs; what was not recorded is left out.

    Parameters
    ----------
    logs : {label: FlowLog}
        Labels that name a kind of network get its style; see `style_of`.

    Returns
    -------
    figure : matplotlib Figure
        Rows of panels: gradient norms at the first and at the last recorded step with finite ones
        and the updates, the gradient norms of each model over the steps on one scale of colours,
        and the ledger of the model with most residual blocks.

    Raises
    ------
    ValueError
        If there is no log, or nothing in them to draw.
    """
    expect_series("flow_figure", logs, "FlowLog")
    weights = {label: log for label, log in logs.items() if weights_of(log)}
    maps = {label: log for label, log in weights.items() if len(weight_steps(log)) > 1}
    rows = [(draw_weights, weights)] if weights else []
    names = list(maps)
    rows += [
        (draw_maps(maps), {name: maps[name] for name in names[i : i + MAPS]})
        for i in range(0, len(names), MAPS)
    ]
    blocks = {label: log for label, log in logs.items() if log.residuals}
    rows += [(draw_ledger, blocks)] if blocks else []
    if not rows:
        raise ValueError(f"flow_figure expects records of weights or residual blocks, got {logs!r}")
    figure = Figure(figsize=(WIDTH, HEIGHT * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (draw, chosen) in zip(parts, rows, strict=True):
        draw(part, chosen)
    return figure


def draw_weights(figure, logs):
    """Gradient norms at the first and the last step, and the updates; one legend."""
    several = any(len(weight_steps(log)) > 1 for log in logs.values())
    axes = figure.subplots(1, 3 if several else 2)
    norms = axes[:-1]
    for ax in norms[1:]:
        ax.sharey(norms[0])
    for ax, name, i in zip(norms, ("first", "last"), (0, -1), strict=False):
        draw_norms(ax, logs, name, i)
    median_updates(logs, axes[-1])
    axes[-1].get_legend().remove()
    share_legend(figure, norms)


def draw_norms(ax, logs, name, i):
    """Gradient norms of each model at the `i`-th of its steps with finite ones, if it has any."""
    recorded = {label: weight_steps(log)[i] for label, log in logs.items()}
    chosen = {
        label: (weight_steps(log, only_finite=True) or [recorded[label]])[i]
        for label, log in logs.items()
    }
    low, high = min(chosen.values()), max(chosen.values())
    which = "recorded" if chosen == recorded else "finite"
    steps = low if low == high else f"{low} to {high}"
    series = {label: log.gradient_norms(chosen[label]) for label, log in logs.items()}
    gradient_norms(series, ax=ax, title=f"Gradient norms, {name} {which} step ({steps})")


def weight_steps(log, *, only_finite=False):
    """The steps with records of weights, or only those where some gradient norm is finite."""
    found = weights_of(log)
    return sorted({r.step for r in found if not only_finite or math.isfinite(r.grad_norm)})


def median_updates(logs, ax):
    """The median over the layers of the size of the updates, a line each model."""
    styles = styles_of(logs)
    for label, log in logs.items():
        _, steps, table = by_step(weights_of(log), lambda record: record.update_ratio)
        median = quartiles(positive(table))[1]
        every = max(1, len(steps) // 8)
        style = styles[label] | {"markevery": every, "markersize": 4}
        ax.plot(steps, median, label=in_legend(label), **style)
    draw_guide(ax)
    place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    ax.annotate(GUIDE_LABEL, (0.99, RATIO), **place)
    finish(ax, "Updates, median of the layers", "step", "||update|| / ||w|| (log scale)")


def draw_maps(logs):
    """A function that draws maps of gradient norms, on one scale of colours for all `logs`."""
    tables = {label: heat_table(log, "grad_norm") for label, log in logs.items()}
    norm = log_norm(*(table for _, _, table in tables.values()))

    def draw(figure, chosen):
        axes = figure.subplots(1, min(MAPS, len(logs)), squeeze=False)[0]
        for ax, label in zip(axes, chosen, strict=False):
            depths, steps, table = tables[label]
            mesh = step_map(ax, steps, depths, table, norm)
            ax.set_title(plain(f"Gradient norms, {label}"))
        for ax in axes[len(chosen) :]:
            ax.set_axis_off()
        axes[0].set_ylabel(DEPTH)
        figure.colorbar(mesh, ax=list(axes), label="||dL/dw||", pad=0.01)

    return draw


def draw_ledger(figure, logs):
    """The ledger of the model with most residual blocks, at its last finite step."""
    label = max(logs, key=lambda name: len({record.path for record in logs[name].residuals}))
    left, right = figure.subplots(1, 2)
    ledger(logs[label], ax=left)
    ledger_norms(logs[label], ax=right)
    for ax in (left, right):
        ax.set_title(f"{ax.get_title()}, {plain(label)}")
