"""The grid of networks: which gradient vanishes, explodes or shatters, in one picture."""

import math

from matplotlib.patches import Patch, Rectangle

from minires.plots.style import new_axes

# light when healthy; what is wrong is told by grey level, hatch and word
LOOKS = {
    (): {"facecolor": "white"},
    ("vanishing",): {"facecolor": "#d7e3f4", "hatch": "...."},
    ("exploding",): {"facecolor": "#f6d9a8", "hatch": "////"},
    ("shattering",): {"facecolor": "#e3d3ea", "hatch": "xxxx"},
    ("exploding", "shattering"): {"facecolor": "#d98880", "hatch": "////xxxx"},
    ("vanishing", "shattering"): {"facecolor": "#9fb3cf", "hatch": "....xxxx"},
}
OTHER = {"facecolor": "0.8"}
EDGE = "0.75"


def gradient_grid(grid, *, ax=None):
    """One cell a network: what its gradient suffers from, by how much, and what it learns.

    Parameters
    ----------
    grid : experiments.grid.Grid
        Its cells have kind, depth, norm, initializer, growth, autocorrelation, accuracy, symptoms.
    ax : matplotlib Axes, optional
        A new figure if left out.

    Returns
    -------
    ax : matplotlib Axes
        Columns are kinds and depths, rows norms and first weights.

    Raises
    ------
    ValueError
        If the grid has no cell.
    """
    if not grid.cells:
        raise ValueError("gradient_grid expects a grid with cells, got one without")
    ax = new_axes(12, 7.2) if ax is None else ax
    columns = list(dict.fromkeys((cell.kind, cell.depth) for cell in grid.cells))
    rows = list(dict.fromkeys((cell.norm, cell.initializer) for cell in grid.cells))
    for cell in grid.cells:
        x, y = columns.index((cell.kind, cell.depth)), rows.index((cell.norm, cell.initializer))
        draw_cell(ax, cell, x, y)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    ax.set_xticks([i + 0.5 for i in range(len(columns))], [f"{k}-{d}" for k, d in columns])
    ax.set_yticks([i + 0.5 for i in range(len(rows))], [row_name(*row) for row in rows])
    ax.tick_params(length=0)
    draw_borders(ax, [kind for kind, _ in columns], [norm for norm, _ in rows])
    ax.set_title("Which gradients vanish, explode or shatter, at initialisation")
    ax.set_xlabel(
        f"growth: ||dL/dx|| after the stem / after the last block;   R: autocorrelation of the "
        f"input gradient, lag 1;   test accuracy after {grid.steps} steps of Adam",
        fontsize="small",
        labelpad=8,
    )
    draw_legend(ax, grid.cells)
    return ax


def draw_cell(ax, cell, x, y):
    """Colour and hatch, the verdict, and the three numbers behind it."""
    look = LOOKS.get(tuple(cell.symptoms), OTHER)
    ax.add_patch(Rectangle((x, y), 1, 1, edgecolor=EDGE, linewidth=0.8, **look))
    words = "\n".join(cell.symptoms) or "healthy"
    ordinary = cell.growth == 0 or 0.01 <= cell.growth < 1000
    growth = f"{cell.growth:.3g}" if ordinary else f"{cell.growth:.1e}"
    R = "-" if math.isnan(cell.autocorrelation) else f"{round(cell.autocorrelation, 2) + 0.0:.2f}"
    numbers = f"growth {growth}\nR {R}   test {cell.accuracy:.0%}"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    style = {"ha": "center", "va": "center", "bbox": box}
    ax.text(x + 0.5, y + 0.3, words, weight="bold" if cell.symptoms else None, size=9, **style)
    ax.text(x + 0.5, y + 0.73, numbers, size=8, **style)


def row_name(norm, initializer):
    return f"{'batch norm' if norm else 'no norm'}\n{initializer}"


def draw_borders(ax, kinds, norms):
    """Thick lines between the kinds and between norm and none."""
    for i in range(1, len(kinds)):
        if kinds[i] != kinds[i - 1]:
            ax.axvline(i, color="black", linewidth=2)
    for i in range(1, len(norms)):
        if norms[i] != norms[i - 1]:
            ax.axhline(i, color="black", linewidth=2)


def draw_legend(ax, cells):
    """The looks that occur."""
    seen = [symptoms for symptoms in LOOKS if any(tuple(c.symptoms) == symptoms for c in cells)]
    handles = [
        Patch(edgecolor="0.5", label=" and ".join(symptoms) or "healthy", **LOOKS[symptoms])
        for symptoms in seen
    ]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=len(handles))
