"""check gradients: of every layer of minires, or of your own FILE.py:CLASS"""

import dataclasses
import importlib.util
import sys
import traceback
from pathlib import Path

import numpy as np

from minires.cli.arguments import OPS, add_ops, seed, shape
from minires.core import Layer
from minires.gradcheck import GradientReport, check_gradients
from minires.samples import layer_samples, loss_samples

EXAMPLE = "minires check my_layers.py:Scale --input-shape 4,8,8,3"


def add_arguments(parser):
    """The options of the command."""
    parser.add_argument(
        "target",
        nargs="?",
        metavar="FILE.py:NAME",
        help="a class, or a function that makes the layer, to be called without arguments; "
        "needs forward(x) and backward(dy)",
    )
    parser.add_argument(
        "--input-shape",
        type=shape,
        default=(3, 5, 6, 4),
        metavar="N,...",
        help="shape of the random input, batch first (default 3,5,6,4)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default 0")
    add_ops(parser)


def run(options):
    """Print the report; 1 if a gradient was not shown to be right."""
    if options.target is None:
        report = check_samples(options.seed, OPS[options.ops])
    else:
        report = check_target(options.target, options.input_shape, options.seed)
    print(report)
    return 0 if report.ok else 1


def check_samples(seed, ops):
    """One report over all layers, in both modes where they differ, and all losses, on `ops`."""
    rows = []
    for training in (True, False):
        for name, (layer, size) in layer_samples(ops=ops).items():
            if training or layer.snapshot():
                x = np.random.default_rng(seed).standard_normal(size)
                report = check_gradients(layer, x, training=training, rng=seed)
                rows += named(report, name if training else f"{name}, inference")
    for name, (loss, prediction, labels) in loss_samples(ops=ops).items():
        rows += named(check_gradients(loss, prediction, labels, rng=seed), name)
    return GradientReport("every layer of minires", rows, 1e-7)


def named(report, name):
    """The rows of a report with the layer's name in front."""
    return [dataclasses.replace(row, name=f"{name}: {row.name}") for row in report.rows]


def check_target(target, input_shape, seed):
    """The report on a user's own layer."""
    file, colon, name = target.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise ValueError(f"expected FILE.py:NAME, got {target!r}")
    make = getattr(load(Path(file)), name, None)
    if not callable(make):
        raise ValueError(f"expected a class or function {name!r} in {file}, got {make!r}")
    x = np.random.default_rng(seed).standard_normal(input_shape)
    try:
        layer = make()
        if isinstance(layer, Layer):
            layer = layer.astype(np.float64)
        return check_gradients(layer, x, rng=seed)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{target} raised {describe(error, file)}") from error


def describe(error, file):
    """An error of the user's code with the last line of the user's file that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(file).name]
    where = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def load(path):
    """The user's file as a module."""
    if not path.is_file():
        raise ValueError(f"expected a Python file, got {str(path)!r}, which is none")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} raised {describe(error, path)}") from error
    return module
