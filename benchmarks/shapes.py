"""time random convolutions on the fast ops and on the reference, to see where which is faster

All of them are timed once, then all of them again, and so on: a core of a virtual machine may be
half as fast for some seconds, and the rounds of one convolution had better not all fall into these.
"""

import sys

import numpy as np
from tqdm import tqdm

from benchmarks.checks import truth
from benchmarks.command import add_contenders, add_timing, command, positive_int
from benchmarks.contenders import ONE_OP
from benchmarks.field import Field, compare, take_turns
from benchmarks.harness import Worker, environment
from benchmarks.ops import checked_op
from benchmarks.report import Report, error_pair, milliseconds
from minires.cli.arguments import seed

EXAMPLE = "--count 20 --seed 3"
CONTENDERS = ("minires-reference", "minires-fast")
IMAGES = (1, 1, 2, 3, 8, 16, 32, 64, 128, 256)
SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 14, 15, 17, 23, 28, 32, 33, 56, 57)
CHANNELS = (1, 2, 3, 5, 8, 10, 16, 17, 24, 31, 32, 48, 64, 100, 128, 256, 511, 512)
KERNELS = (1, 1, 2, 3, 3, 3, 4, 5, 7, 11)
STRIDES = (1, 1, 1, 2, 2, 3, 4)
MOST = {"operations": 6e9, "columns": 1.5e8, "numbers": 3e7}  # of one convolution
SECONDS = 0.02  # of a turn at least: threads have woken up by then
QUICK = {"OPENBLAS_THREAD_TIMEOUT": "4"}  # BLAS's threads sleep when they have nothing to do


def add_arguments(parser):
    add = parser.add_argument
    add("--count", type=positive_int, default=60, metavar="N", help="convolutions, default 60")
    add("--seed", type=seed, default=0, metavar="S", help="default 0")
    add_timing(parser, rounds=5, burst=10)
    add_contenders(parser, CONTENDERS, ONE_OP)


def run(options):
    report = Report(
        title=f"shapes: {options.count} convolutions, seed {options.seed}, "
        f"threads {options.threads}, float32",
        header=("convolution", "pass", "contender", "median ms", "times as fast", "error"),
        body=[],
        records=[],
        left=3,
    )
    rng, env = np.random.default_rng(options.seed), environment(options.threads, **QUICK)
    with Field(options.contenders, lambda name: Worker(name, env)) as field:
        field.each(lambda worker: worker.ask("load", contender=worker.name))
        timed = [Timed(random_case(rng)) for _ in range(options.count)]
        rounds = [(turn, one) for turn in range(options.rounds) for one in timed]
        for turn, one in tqdm(rounds, desc="shapes", disable=None, leave=False):
            one.measure(field, turn, options)
        for one in timed:
            one.write(options.contenders[0], report)
        for found in field.each(lambda worker: worker.ask("versions")).values():
            report.versions |= found  # Numba too, which the first op has imported
    report.notes += notes(report.records)
    report.join(field)
    return report


def notes(rows):
    """One line a contender and what it was compared with: another, once the first has failed."""
    pairs = dict.fromkeys((row["name"], row["measure"]) for row in rows)
    lines = []
    for name, measure in pairs:
        ratios = [row["ratio"] for row in rows if (row["name"], row["measure"]) == (name, measure)]
        if name != measure:
            lines.append(
                f"{name}: {np.median(ratios):.2f} times as fast as {measure} in the "
                f"median; of {len(ratios)} passes {sum(r < 1 / 1.1 for r in ratios)} are slower by "
                f"more than 10 %, the slowest {min(ratios):.2f}"
            )
    return lines


PASSES = "forward", "backward"


class Timed:
    """One convolution, and what has been found about it."""

    def __init__(self, case):
        self.case, self.errors, self.bursts = case, {}, {}
        self.seconds = {what: {} for what in PASSES}

    def measure(self, field, turn, options):
        """A turn of each contender, which is checked before its first."""
        if not field.workers:
            return
        field.each(lambda worker: worker.ask("op", case=self.case))
        if turn == 0:
            self.check(field, options)
        for what in PASSES:
            for name, times in take_turns(field, what, turn, self.bursts[what]).items():
                self.seconds[what].setdefault(name, []).extend(times)

    def check(self, field, options):
        """Who is wrong drops out; how often an op runs in a turn depends on how long it takes."""
        expected = truth({"case": self.case}, threads=options.threads, do="op")
        self.errors = field.each(lambda worker: checked_op(worker, expected, self.case))
        for what in PASSES:
            probe = field.each(lambda worker, what=what: worker.ask(what, times=3))
            least = [min(times) for times in probe.values()]  # the first may have compiled
            self.bursts[what] = max(options.burst, int(SECONDS / max(least, default=SECONDS)))

    def write(self, peer, report):
        """A line for each pass and contender that was timed, if only until it failed."""
        for what, times in self.seconds.items():
            rows, measured = compare(times, peer=peer)
            for row in rows:
                name, error = row["name"], self.errors[row["name"]]
                more = {"op": self.case["label"], "pass": what, "seconds": times[name]}
                report.records.append(row | more | {"error": error, "measure": measured})
                shown = milliseconds(row["median"]), f"{row['ratio']:.2f}", error_pair(error)
                report.body.append((self.case["label"], what, name, *shown))


def random_case(rng):
    """A convolution of odd and even sizes that is neither huge nor impossible."""
    while True:
        N, H, W, C, F, KH, KW, SH, SW = (
            int(rng.choice(choices))
            for choices in (
                *(IMAGES, SIDES, SIDES, CHANNELS, CHANNELS),
                *(KERNELS, KERNELS, STRIDES, STRIDES),
            )
        )
        KW = KH if rng.random() < 0.8 else KW
        SW = SH if rng.random() < 0.7 else SW
        padding = [[int(rng.integers(0, K)), int(rng.integers(0, K))] for K in (KH, KW)]
        OH, OW = (H + sum(padding[0]) - KH) // SH + 1, (W + sum(padding[1]) - KW) // SW + 1
        columns = N * OH * OW * KH * KW * C
        small = 2 * columns * F < MOST["operations"] and columns < MOST["columns"]
        if OH > 0 and OW > 0 and small and N * H * W * max(C, F) < MOST["numbers"]:
            label = f"{N}x{H}x{W}, {C}->{F}, {KH}x{KW}/{SH}x{SW}, padding {padding}"
            given = {"x": [N, H, W, C], "weight": [KH, KW, C, F]}
            return {"label": label, "op": "conv2d", **given, "stride": [SH, SW], "padding": padding}


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
