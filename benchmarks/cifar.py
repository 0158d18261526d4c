"""train CIFAR-10 with one recipe in minires and in PyTorch: the same weights, batches, rates"""

import dataclasses
import statistics
import sys
import tempfile
from functools import partial

from benchmarks import tasks
from benchmarks.command import add_contenders, command
from benchmarks.field import Field, compare
from benchmarks.harness import Seat, Worker, environment
from benchmarks.report import Report
from minires.cli.arguments import positive_int, seed
from minires.data import load_cifar10
from minires.models import build
from minires.ops import reference
from minires.runs import RECIPES, Trainer

EXAMPLE = "--recipe fast20 --seeds 3"
CONTENDERS = ("minires", "torch-channels-last", "torch-eager")
MODELS = tuple(name for name in tasks.MODELS if name not in ("resnet18", "resnet34"))  # of 32x32
COSTS = "a seed of fast20 takes two cores about 20, 35 and 45 minutes (calculated)"

LEGEND = (
    "times as fast: as {}; seconds: of training and evaluation, and of what the first step "
    "compiles or loads; not of imports, reading the images, building the network"
)


def add_arguments(parser):
    add = parser.add_argument
    add("--model", choices=MODELS, default="resnet20", metavar="M", help=", ".join(MODELS))
    add("--recipe", choices=RECIPES, default="fast20", help="default fast20")
    add("--epochs", type=positive_int, metavar="E", help="other than the recipe's")
    add("--seeds", type=positive_int, default=3, metavar="S", help="how many; default 3")
    add("--first-seed", type=seed, default=0, metavar="S", help="default 0")
    add("--threads", type=positive_int, default=2, metavar="T", help="default 2")
    add("--images", type=positive_int, metavar="N", help="train and test on the first N only")
    add("--data-root", metavar="DIR", help="default $MINIRES_DATA, then the cache")
    add_contenders(parser, CONTENDERS, CONTENDERS, more=COSTS)


def run(options):
    """The contenders take turns, seed by seed, each in a process of its own.

    Yields
    ------
    report : Report
        After each run: what is done by then.
    """
    data, recipe = first_images(load(options.data_root), options.images), recipe_of(options)
    # refuses what does not fit together, hours before a contender would
    Trainer(build(options.model, rng=0, ops=reference), data, recipe, ops=reference)
    runs, versions = {name: [] for name in options.contenders}, {}
    with tempfile.TemporaryDirectory() as folder, Field(options.contenders, Seat) as field:
        images = f"{folder}/images.npz"
        tasks.write_images(data, images)
        given = {"model": options.model, "recipe": recipe.as_dict(), "images": images}
        env = environment(options.threads)
        field.each(partial(course, env=env, given=given, number=options.first_seed, trial=True))
        for number in range(options.first_seed, options.first_seed + options.seeds):
            for name in list(field.workers):
                done = field.each(partial(course, env=env, given=given, number=number), [name])
                if name in done:
                    versions |= done[name].pop("versions")
                    runs[name].append(done[name])
                    tell(name, done[name])
                    yield summary(options, recipe, data, runs, versions, field)
    yield summary(options, recipe, data, runs, versions, field)


def load(root):
    """CIFAR-10, or an error that says what to do about it here."""
    try:
        return load_cifar10(root)
    except FileNotFoundError as error:
        error.add_note("(on this command line: --data-root DIR)")
        raise


def recipe_of(options):
    """The recipe, with another number of epochs if that was asked for."""
    recipe = RECIPES[options.recipe]
    return recipe if options.epochs is None else recipe.changed(epochs=options.epochs)


def first_images(data, count):
    """A Dataset of the first images of both parts, for a trial."""
    if count is None:
        return data
    parts = {name: getattr(data, name)[:count] for name in ("x_train", "y_train")}
    parts |= {name: getattr(data, name)[:count] for name in ("x_test", "y_test")}
    return dataclasses.replace(data, **parts)


def course(seat, env, given, number, trial=False):
    """One training in a process of its own: {"seed", "test_error", "seconds", "versions"}.

    A `trial` ends before the first step: it finds out what is missing, or does not fit.
    """
    with Worker(seat.name, env) as worker:
        worker.ask("load", contender=seat.name)
        worker.ask("compiler")
        worker.ask("prepare", **given, seed=number)
        if trial:
            return None
        return {"seed": number, **worker.ask("course"), "versions": worker.ask("versions")}


def tell(name, run):
    """One line on a run that is done; the next may take an hour."""
    error, seconds = run["test_error"], run["seconds"]
    print(f"{name}, seed {run['seed']}: {error:.2%}, {seconds:.0f} s", flush=True)


def summary(options, recipe, data, runs, versions, field):
    """One row a contender that has finished a run."""
    rows, best = compare({n: [r["seconds"] for r in found] for n, found in runs.items() if found})
    report = Report(
        title=f"{options.model} on {data.name}, {len(data.x_train):,} training images, recipe "
        f"{recipe.name}, {options.seeds} seeds from {options.first_seed}, "
        f"threads {options.threads}",
        header=("contender", "mean test error", "median", "median s", "times as fast"),
        body=[],
        records=[{"contender": name, **run} for name, found in runs.items() for run in found],
        notes=[LEGEND.format(best)] if best else [],
        versions=dict(versions),
    )
    for row in rows:
        errors = [run["test_error"] for run in runs[row["name"]]]
        mean, middle = statistics.mean(errors), statistics.median(errors)
        shown = f"{mean:.2%}", f"{middle:.2%}", f"{row['median']:.0f}", f"{row['ratio']:.2f}"
        report.body.append((row["name"], *shown))
    report.join(field)
    return report


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
