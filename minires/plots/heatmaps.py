"""Maps of a number over layers and steps, or over layers and values; missing cells are hatched."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from minires.plots.style import COLORMAP, HATCH, plain

NAMED_ROWS = 16  # more names than this do not fit beside a map
MOST_TICKS, DIGITS = 6, 24  # numbers below a map, and the digits of all of them


def by_step(records, value, key=lambda record: record.path):
    """Records of some layers at some steps as a table.

    Parameters
    ----------
    records : list of records
    value : callable
        Record -> number.
    key : callable
        Record -> what tells the rows apart.

    Returns
    -------
    keys : list
        One a row, in the order of the records.
    steps : list of int
        One a column, ascending.
    table : (len(keys), len(steps)) float64
        NaN where there is no record.
    """
    keys = list(dict.fromkeys(key(record) for record in records))
    steps = sorted({record.step for record in records})
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (keys, steps))
    table = np.full((len(keys), len(steps)), np.nan)
    for record in records:
        table[rows[key(record)], columns[record.step]] = value(record)
    return keys, steps, table


def edges(centres):
    """Borders of cells around ascending numbers, one more than there are."""
    centres = np.asarray(centres, float)
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]])


def log_norm(*tables):
    """A log scale of colours that covers all positive numbers of some tables."""
    values = np.concatenate([np.ravel(table) for table in tables])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if values.size else (1, 1)
    return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)


def heatmap(ax, x_edges, rows, table, norm):
    """Draw cells; NaN shows the hatched ground."""
    ax.patch.set(**HATCH)
    cells = np.ma.masked_invalid(table)
    mesh = ax.pcolormesh(x_edges, edges(rows), cells, norm=norm, cmap=COLORMAP)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return mesh


def step_map(ax, steps, rows, table, norm):
    """`heatmap` over steps; says what the hatching means, if there is any."""
    mesh = heatmap(ax, edges(steps), rows, table, norm)
    ax.set_xticks(some_steps(steps))
    gaps = " (hatched: 0, NaN or infinite)" if np.isnan(table).any() else ""
    ax.set_xlabel(f"recorded step{gaps}")
    return mesh


def some_steps(steps):
    """Those of the recorded steps that get a tick: round numbers if they were recorded.

    Examples
    --------
    >>> some_steps([1, 4, 7]), some_steps(range(1, 101)), some_steps(range(1, 97, 5))
    ([1, 4, 7], [20, 40, 60, 80, 100], [1, 21, 41, 61, 81])
    """
    most = max(1, min(MOST_TICKS, DIGITS // len(str(steps[-1]))))
    gap = (steps[-1] - steps[0]) / most
    spread = [steps[0]]
    for step in steps:
        if step - spread[-1] >= max(gap, 1):
            spread.append(step)
    ticks = {int(tick) for tick in MaxNLocator(most, integer=True).tick_values(steps[0], steps[-1])}
    round_ones = sorted(ticks.intersection(steps))
    return round_ones if len(round_ones) > len(spread) / 2 else spread


def name_rows(ax, names):
    """Names of layers at the rows 1, 2, ...; numbers if they are many."""
    if len(names) <= NAMED_ROWS:
        ax.set_yticks(range(1, len(names) + 1), map(plain, short_names(names)))
        ax.tick_params(axis="y", labelsize="small")


def short_names(paths, length=28):
    """Paths without what every block has in it, and cut in front if still long.

    Examples
    --------
    >>> short_names(["fc.weight", "stage1.block0.sum.branch.conv1.weight"])
    ['fc', 'stage1.block0.conv1']
    >>> short_names(["block0.sum.branch.relu", "block0.relu"])  # would be the same
    ['block0.branch.relu', 'block0.relu']
    >>> short_names(["weight"]), short_names([""])  # a model that is one layer
    (['weight'], ['the model'])
    """
    for left_out in (("sum", "branch", "weight"), ("sum", "weight"), ()):
        names = [".".join(p for p in path.split(".") if p not in left_out) for path in paths]
        if len(set(names)) == len(names) and all(names):
            break
    names = [name or "the model" for name in names]
    return [name if len(name) <= length else "..." + name[3 - length :] for name in names]
