"""compare with PyTorch on this machine: check results, then time them"""

import argparse
import importlib
import sys
from pathlib import Path

import minires

EXAMPLE = "minires bench train_step --model resnet20 --batch 32"


def add_arguments(parser):
    """The name of a benchmark; what follows is its own."""
    parser.add_argument(
        "benchmark",
        metavar="NAME",
        help="train_step, inference, ops, shapes, roofline, memory, startup, scaling, recorder "
        "or cifar; each has a --help",
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own"
    )


def run(options):
    """Run the benchmark with its own arguments."""
    names = find().NAMES
    name = options.benchmark
    if name not in names:
        raise ValueError(f"bench expects one of {', '.join(names)}, got {name!r}")
    benchmark = importlib.import_module(f"benchmarks.{name}")
    return benchmark.main(options.arguments, prog=f"minires bench {name}")


def find():
    """The package `benchmarks`, which is in the repository and not in the installed package.

    Raises
    ------
    ValueError
        If neither the current folder nor the one that minires comes from is a checkout.
    """
    for folder in (Path.cwd(), Path(minires.__file__).parents[1]):
        if (folder / "benchmarks" / "train_step.py").is_file():
            sys.path.insert(0, str(folder))
            return importlib.import_module("benchmarks")
    raise ValueError(
        "bench expects the folder benchmarks of minires' repository, which the installed package "
        "does not have: run it inside a checkout"
    )
