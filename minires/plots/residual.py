"""The residual ledger: how the gradient splits between shortcut and branch at each block."""

import math

import numpy as np

from minires.flow.records import ResidualRecord
from minires.plots.style import (
    GUIDE,
    expect_some,
    finish,
    finite,
    legend_below,
    new_axes,
    positive,
)

BLOCK = "residual block, 1 = next to the input"
SHORTCUT = {"facecolor": "#9db8d9", "edgecolor": "#1f3f66", "linewidth": 0.5}
BRANCH = {"facecolor": "#fdf3e1", "edgecolor": "#b9770e", "linewidth": 0.5, "hatch": "////"}
LOWEST, HIGHEST = -1.0, 2.0  # shares beyond are cut: one block must not flatten the others
NORMS = {
    "dy_norm": ("dy, comes in", {"color": "0.7", "linestyle": "-", "linewidth": 4}),
    "dx_norm": ("dx, goes out", {"color": "0.1", "linestyle": "--", "marker": "x"}),
    "shortcut_norm": ("shortcut part", {"color": "#1f5fa8", "linestyle": "-.", "marker": "o"}),
    "branch_norm": ("branch part", {"color": "#b9770e", "linestyle": ":", "marker": "^"}),
}


def ledger(records, *, step=None, ax=None):
    """The two parts of the gradient at each residual block: their shares, and their angle.

    Parameters
    ----------
    records : list of ResidualRecord, or FlowLog
        Such as from `residual_ledger` or a FlowRecorder.
    step : int, optional
        The last one with finite shares if left out.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes
        Of the bars; the axis of the angle is its twin.

    Raises
    ------
    ValueError
        If there is no record of a residual block, or not of the step.
    TypeError
        If there is something else among the records.

    Notes
    -----
    The shares add up to 1. Where one is above 1 the other is negative: it works against the sum.
    Bars are cut at -1 and 2. A share of one half stands as high as a right angle.
    """
    records = residual_records("ledger", records, step)
    ax = new_axes() if ax is None else ax
    block = np.arange(1, len(records) + 1)
    share = finite([record.shortcut_share for record in records])
    inside = np.clip(share, 0, 1) == share
    ax.bar(block, share, 0.9, label="share of the shortcut", **SHORTCUT)
    bottom = np.where(inside, share, 0)
    ax.bar(block, 1 - share, 0.9, bottom=bottom, label="share of the branch", **BRANCH)
    known = share[np.isfinite(share)]
    low = max(LOWEST, min(0, *known, *(1 - known))) if known.size else 0
    high = min(HIGHEST, max(1, *known, *(1 - known))) if known.size else 1
    ax.set(ylim=(low, high), xlim=(0.4, len(records) + 0.6))
    angles = draw_angles(ax, block, finite([record.cosine for record in records]))
    handles = [*ax.get_legend_handles_labels()[0], angles]
    finish(ax, f"Gradient at each block{at(records)}", BLOCK, "share of dL/dx", legend=False)
    legend_below(ax, handles, ncols=3)
    return ax


def draw_angles(ax, block, cosine):
    """Angles in degrees on a twin axis, of which 0 to 180 stands beside 0 to 1."""
    twin = ax.twinx()
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    style = {"color": "black", "markerfacecolor": "white", "marker": "o", "markersize": 4}
    (line,) = twin.plot(block, angle, linestyle="none", label="angle between them", **style)
    twin.axhline(90, **GUIDE)
    twin.set_ylim(*(180 * limit for limit in ax.get_ylim()))
    twin.set_yticks([0, 45, 90, 135, 180])
    twin.set_ylabel("angle between the parts, degrees")
    return line


def ledger_norms(records, *, step=None, ax=None):
    """The norms of the gradient before and behind each residual block, and of its two parts.

    Parameters
    ----------
    records, step, ax
        As in `ledger`.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If there is no record of a residual block, or not of the step.
    """
    records = residual_records("ledger_norms", records, step)
    ax = new_axes() if ax is None else ax
    block = np.arange(1, len(records) + 1)
    for name, (label, style) in NORMS.items():
        values = positive([getattr(record, name) for record in records])
        ax.plot(block, values, label=label, markersize=4, **style)
    ax.set_yscale("log")
    finish(ax, f"Gradient norms at each block{at(records)}", BLOCK, "norm (log scale)")
    return ax


def residual_records(owner, given, step):
    """The ResidualRecords of one step, from the input to the output."""
    records = getattr(given, "residuals", given)
    expect_some(owner, records, "records of residual blocks", given)
    expect_records(owner, records)
    steps = sorted({record.step for record in records})
    if step is None:
        shares = ((record.step, record.shortcut_share) for record in records)
        step = max((step for step, share in shares if math.isfinite(share)), default=steps[-1])
    if step not in steps:
        shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
        raise ValueError(f"{owner} expects a recorded step ({shown}), got {step!r}")
    return [record for record in records if record.step == step]


def expect_records(owner, records):
    """Refuse what is no ResidualRecord; `residual_ledger` may have returned a pair."""
    other = next((r for r in records if not isinstance(r, ResidualRecord)), None)
    if isinstance(records, tuple) and other is not None:
        raise TypeError(
            f"{owner} expects a list of ResidualRecord or a FlowLog, got a tuple: of the records "
            f"and arrays of residual_ledger(..., keep_arrays=True), pass the first"
        )
    if other is not None:
        raise TypeError(f"{owner} expects ResidualRecords, got a {type(other).__name__}")


def at(records):
    """The step for a title; `residual_ledger` calls its one step 0."""
    return f", step {records[0].step}" if records[0].step else ""
