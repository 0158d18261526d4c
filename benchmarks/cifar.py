"""train CIFAR-10 with one recipe in minires and in PyTorch: the same weights, batches, rates"""

import dataclasses
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from threadpoolctl import threadpool_limits

from benchmarks.command import command
from benchmarks.report import Report
from minires.cli.arguments import positive_int, seed
from minires.data import load_cifar10
from minires.models import build
from minires.runs import RECIPES, Trainer

EXAMPLE = "--recipe fast20 --seeds 3"
CONTENDERS = "minires", "torch-eager", "torch-channels-last"


def add_arguments(parser):
    add = parser.add_argument
    add("--model", default="resnet20", metavar="M", help="default resnet20")
    add("--recipe", choices=RECIPES, default="fast20", help="default fast20")
    add("--epochs", type=positive_int, metavar="E", help="other than the recipe's")
    add("--seeds", type=positive_int, default=3, metavar="S", help="how many; default 3")
    add("--first-seed", type=seed, default=0, metavar="S", help="default 0")
    add("--contenders", default="minires,torch-eager", metavar="A,B", help=", ".join(CONTENDERS))
    add("--images", type=positive_int, metavar="N", help="train and test on the first N only")
    add("--data-root", metavar="DIR", help="default $MINIRES_DATA, then the cache")


def run(options):
    """The contenders take turns, seed by seed, each in a process of its own."""
    contenders = options.contenders.split(",")
    for name in contenders:
        if name not in CONTENDERS:
            raise ValueError(f"expected --contenders out of {', '.join(CONTENDERS)}, got {name!r}")
    data, recipe = first_images(load_cifar10(options.data_root), options.images), recipe_of(options)
    spawn = multiprocessing.get_context("spawn")
    runs = {name: [] for name in contenders}
    for number in range(options.first_seed, options.first_seed + options.seeds):
        for name in contenders:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                future = pool.submit(train, name, options.model, recipe, data, number)
                runs[name].append(future.result())
            last = runs[name][-1]
            print(f"{name}, seed {number}: {last['test_error']:.2%}, {last['seconds']:.0f} s")
    return summary(options, recipe, data, runs)


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


def summary(options, recipe, data, runs):
    """One row a contender."""
    ours = statistics.median(r["seconds"] for r in next(iter(runs.values())))
    count = len(data.x_train)
    report = Report(
        title=f"{options.model} on {data.name}, {count:,} training images, recipe {recipe.name}, "
        f"{options.seeds} seeds from {options.first_seed}",
        header=("contender", "mean test error", "median", "median s", "against the first"),
        body=[],
        records=[],
        notes=["times include evaluation and exclude reading the images"],
    )
    for name, rows in runs.items():
        errors = [row["test_error"] for row in rows]
        seconds = statistics.median(row["seconds"] for row in rows)
        mean, middle = statistics.mean(errors), statistics.median(errors)
        report.body.append(
            (name, f"{mean:.2%}", f"{middle:.2%}", f"{seconds:.0f}", f"{seconds / ours:.2f}")
        )
        report.records += [{"contender": name, **row} for row in rows]
    return report


def train(name, model, recipe, data, number):
    """One run of a contender: {"seed", "test_error", "seconds"}."""
    start = time.perf_counter()
    with threadpool_limits(limits=1, user_api="blas"):  # of NumPy, as `minires train` has it
        if name == "minires":
            error = train_ours(model, recipe, data, number)
        else:
            from benchmarks.their_training import train_theirs  # PyTorch, in a worker only

            error = train_theirs(model, recipe, data, number, name == "torch-channels-last")
    return {"seed": number, "test_error": error, "seconds": time.perf_counter() - start}


def train_ours(model, recipe, data, number):
    """What `minires train` does, without its files."""
    trainer = Trainer(build(model, rng=number), data, recipe, seed=number)
    while not trainer.finished:
        for _ in trainer.steps():
            pass
        trainer.end_epoch()
    return 1 - trainer.history[-1].test_accuracy


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
