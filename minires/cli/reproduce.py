"""measure published figures about gradients again, expected beside got"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass

from minires.cli import drawings
from minires.cli.arguments import OPS, add_ops, make_folder, positive_int
from minires.experiments import (
    Row,
    explosion,
    grid,
    growth,
    identity,
    jacobian,
    lesions,
    path_lengths,
    shattering,
    surface,
)
from minires.experiments.trained import TRAINED
from minires.models.summary import align

EXAMPLE = "minires reproduce shattering"


@dataclass(frozen=True)
class Experiment:
    """What the command needs to know of an experiment.

    Attributes
    ----------
    source : str
        The article.
    measure : callable
        Options of the command line -> result; `options.seeds` is at most `most_seeds`.
    rows : callable
        result -> list of Row.
    draw : callable, optional
        (result, folder) -> list of the files it has written into the folder.
    details : callable, optional
        result -> text to print before the table.
    most_seeds : int, optional
        However many are asked for: each takes long, and few are enough. No limit if left out.
    """

    source: str
    measure: Callable
    rows: Callable
    draw: Callable | None = None
    details: Callable | None = None
    most_seeds: int | None = None


def seeded(source, module, draw=None, **others):
    """The Experiment of a module whose `measure` takes `seeds` and `ops`."""

    def measure(options):
        return module.measure(seeds=options.seeds, ops=OPS[options.ops])

    return Experiment(source, measure, module.rows, draw, **others)


GRID_SEEDS = 3  # a minute for 36 networks each

EXPERIMENTS = {
    "shattering": seeded(
        "Balduzzi et al. (2017), arXiv:1702.08591", shattering, drawings.shattering
    ),
    "growth": seeded("De and Smith (2020), arXiv:2002.10444", growth, drawings.growth),
    "explosion": seeded("Yang et al. (2019), arXiv:1902.08129", explosion, drawings.explosion),
    "grid": Experiment(
        "He et al. (2015), arXiv:1512.03385, and others",
        lambda options: grid.measure(options.seeds, OPS[options.ops]),
        grid.rows,
        drawings.grid,
        grid.details,
        most_seeds=GRID_SEEDS,
    ),
    "ledger": seeded("He et al. (2016), arXiv:1603.05027", identity, drawings.ledger),
    "paths": seeded(
        "Veit et al. (2016), arXiv:1605.06431", path_lengths, drawings.paths, most_seeds=TRAINED
    ),
    "lesions": seeded(
        "Veit et al. (2016), arXiv:1605.06431", lesions, drawings.lesions, most_seeds=TRAINED
    ),
    "surface": seeded(
        "Li et al. (2018), arXiv:1712.09913", surface, drawings.surface, most_seeds=TRAINED
    ),
    "jacobian": seeded("He et al. (2016), arXiv:1603.05027", jacobian),
}


def add_arguments(parser):
    """The options of the command."""
    add = parser.add_argument
    add("name", choices=EXPERIMENTS, metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}")
    add("--out", metavar="DIR", help="also write the table as NAME.csv, and figures if it has any")
    add("--seeds", type=positive_int, default=10, metavar="N", help="nets of each kind, default 10")
    add_ops(parser)


def run(options):
    """Measure, print, write; exit code 1 if a figure is not within its tolerance."""
    folder = make_folder(options.out) if options.out else None
    experiment = EXPERIMENTS[options.name]
    seeds = min(options.seeds, experiment.most_seeds or options.seeds)
    options = argparse.Namespace(**vars(options) | {"seeds": seeds})
    print(f"{options.name}: {experiment.source}; {seeds} seeds", flush=True)
    start = time.perf_counter()
    result = experiment.measure(options)
    rows = experiment.rows(result)
    if experiment.details:
        print(experiment.details(result), end="\n\n")
    print(table(rows))
    agree = sum(row.agrees for row in rows)
    seconds = time.perf_counter() - start
    print(f"{agree} of {len(rows)} within tolerance, in {seconds:.0f} s")
    if folder:
        print(f"wrote {', '.join(write(options.name, result, rows, folder))} into {folder}")
    return 0 if agree == len(rows) else 1


def table(rows):
    """The rows as text; `spread` is the standard error over the seeds."""
    head = ("quantity", "expected", "got", "spread", "within tolerance")
    return align([head, *map(cells, rows)], left=1)


def cells(row):
    """One row as text."""
    expected = f"{row.expected:.3f} +- {row.tolerance:.3f}"
    spread = f"{row.spread:.3f}" if row.spread == row.spread else "-"
    return row.quantity, expected, f"{row.got:.3f}", spread, "yes" if row.agrees else "no"


def write(name, result, rows, folder):
    """The table as CSV, and the figures of the experiment; returns the names of the files."""
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*Row._fields, "agrees"])
        writer.writerows([*row, row.agrees] for row in rows)
    draw = EXPERIMENTS[name].draw
    return [f"{name}.csv", *(draw(result, folder) if draw else ())]
