"""time one step while one size grows: cost per image against the work that is in it"""

import os
import sys

from benchmarks.command import add_contenders, add_timing, command, numbers, positive_int
from benchmarks.report import Report, milliseconds
from benchmarks.steps import measure
from benchmarks.tasks import network
from minires.models.summary import summarize

EXAMPLE = "--axis batch --values 1,8,64 --contenders minires-fast,torch-channels-last"
CONTENDERS = ("minires-reference", "minires-fast", "minires-fused", "torch-channels-last")
CORES = os.cpu_count() or 1
DEPTHS = (8, 20, 32, 44, 56, 110)
AXES = {
    "threads": sorted({1, max(1, CORES // 2), CORES}),
    "batch": [1, 4, 16, 64, 128],
    "depth": [8, 20, 32, 56],
    "size": [16, 32, 64],
    "channels": [16, 32, 64, 128],
}


def add_arguments(parser):
    add = parser.add_argument
    axes = "; ".join(f"{axis} {','.join(map(str, values))}" for axis, values in AXES.items())
    add("--axis", choices=AXES, default="batch", help="default batch")
    add("--values", type=numbers, metavar="V,...", help=f"of the axis: {axes}")
    add("--what", choices=("train", "infer"), default="train", help="default train")
    add("--batch", type=positive_int, metavar="N", help="default 32")
    add_timing(parser, rounds=3, burst=3)
    parser.set_defaults(threads=None)  # so that we see whether it was given
    add_contenders(parser, CONTENDERS)


def point(axis, value, batch, threads):
    """The task and the threads at one value of an axis.

    The network is a ResNet-20 at 32x32, and for channels the article's with 4 blocks, as all its
    convolutions have the same number of filters.
    """
    given = {"model": "resnet20", "options": {}, "batch": batch}
    if axis == "threads":
        threads = value
    elif axis == "batch":
        given["batch"] = value
    elif axis == "depth":
        given["model"] = f"resnet{value}"
        if value not in DEPTHS:
            raise ValueError(f"scaling expects a depth in {DEPTHS}, got {value}")
    elif axis == "size":
        given["options"] = {"input_shape": [value, value, 3]}
    else:
        given |= {"model": "article_resnet", "options": {"filters": value, "num_blocks": 4}}
    return given, threads


def operations(given, what):
    """Of one image: two a multiply-add, and backward twice as many as forward."""
    model = network(given["model"], given["options"])
    passes = 3 if what == "train" else 1
    return 2 * passes * summarize(model, model.input_shape).multiply_adds


def expect_one(options):
    """Refuse the option of the axis itself, which has `--values`."""
    given = getattr(options, options.axis, None)
    if given is not None:
        raise ValueError(
            f"expected --values V,... with --axis {options.axis}, got --{options.axis} {given}"
        )


def run(options):
    axis = options.axis
    expect_one(options)
    points = []
    for value in options.values or AXES[axis]:
        given, threads = point(axis, value, options.batch or 32, options.threads or CORES)
        points.append((value, given, threads, operations(given, options.what)))
    report = Report(
        title=f"scaling with {axis}: {options.what}, float32",
        header=("contender", axis, "median ms", "us/image", "MF/image", "GF/s", "times as fast"),
        body=[],
        records=[],
        notes=["MF/image: operations as in direct convolution; times as fast: as the best peer"],
    )
    for value, given, threads, work in points:
        rows, _, versions, field = measure(
            options.contenders,
            given,
            options.what,
            threads=threads,
            rounds=options.rounds,
            burst=options.burst,
            label=f"{axis} {value}",
        )
        report.versions |= versions
        report.join(field)
        for row in rows:
            add_row(report, row, axis, value, given["batch"], work)
    report.body.sort(key=lambda line: options.contenders.index(line[0]))
    return report


def add_row(report, row, axis, value, batch, work):
    """One line of the table."""
    each = row["median"] / batch
    report.records.append(row | {axis: value, "seconds_per_image": each, "operations": work})
    report.body.append(
        (
            row["name"],
            str(value),
            milliseconds(row["median"]),
            f"{each * 1e6:.1f}",
            f"{work / 1e6:.1f}",
            f"{work / each / 1e9:.1f}",
            f"{row['ratio']:.2f}",
        )
    )


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
