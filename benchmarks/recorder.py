"""time a training step with a recorder, between recorded steps, and without one"""

import sys
import time

import numpy as np

from benchmarks.command import add_task, add_timing, command
from benchmarks.report import Report, milliseconds
from minires import FlowRecorder
from minires.cli.arguments import OPS, add_ops
from minires.losses import SoftmaxCrossEntropy
from minires.models import build
from minires.optimizers import Adam
from minires.training import train_step

EXAMPLE = "--ops reference --batch 128"
NEVER = 2**31  # every so many steps: only the first is recorded
WAYS = ("no recorder", "recorder, step not recorded", "recorder, step recorded")


def add_arguments(parser):
    add_task(parser)
    add_ops(parser)
    add_timing(parser, rounds=5, burst=1)


def run(options):
    """The three ways take turns in one process; the recorder adds its numbers with the fast ops."""
    from benchmarks.roofline import expect_numba, use_threads

    if options.ops == "fast":
        expect_numba()
    use_threads(options.threads)
    step = Step(options)
    for way in WAYS:
        step.run(way)  # compile
    taken = {way: [] for way in WAYS}
    for turn in range(options.rounds):
        first = turn % len(WAYS)  # a step also feels what the one before left in the caches
        for way in WAYS[first:] + WAYS[:first]:
            taken[way] += [step.run(way) for _ in range(options.burst)]
    without = np.median(taken[WAYS[0]])
    report = Report(
        title=f"recorder: {options.model}, batch {options.batch}, {options.ops} ops, "
        f"threads {options.threads}, float32",
        header=("training step", "median ms", "more than without"),
        body=[],
        records=[],
    )
    for way, times in taken.items():
        more = float(np.median(np.array(times) / taken[WAYS[0]]) - 1)
        report.body.append((way, milliseconds(np.median(times)), f"{more:+.1%}"))
        report.records.append({"way": way, "seconds": times, "more": more, "without": without})
    report.versions |= versions(options.ops)
    return report


def versions(ops):
    """Of what computes."""
    found = {"numpy": np.__version__}
    return found | ({"numba": sys.modules["numba"].__version__} if ops == "fast" else {})


class Step:
    """One training step of a network, with a recorder or without."""

    def __init__(self, options):
        kit = OPS[options.ops]
        chosen = {} if options.input_shape is None else {"input_shape": options.input_shape}
        self.model = build(options.model, rng=0, ops=kit, **chosen)
        rng = np.random.default_rng(0)
        shape = options.batch, *self.model.input_shape
        self.x = rng.standard_normal(shape).astype(np.float32)
        self.labels = rng.integers(0, self.model.num_classes, options.batch)
        self.optimizer = Adam(self.model.parameters(), 1e-3, ops=kit)
        self.loss = SoftmaxCrossEntropy(ops=kit)

    def run(self, way):
        """Seconds of a step; attaching and detaching, writing the records, all of it."""
        if way == WAYS[0]:
            return self.timed()
        start = time.perf_counter()
        with FlowRecorder(self.model, every=NEVER):
            self.timed()
            if way == WAYS[1]:
                return self.timed()
        return time.perf_counter() - start

    def timed(self):
        start = time.perf_counter()
        train_step(self.model, self.loss, self.optimizer, self.x, self.labels)
        return time.perf_counter() - start


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
