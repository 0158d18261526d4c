"""time what comes before the second step: the import, and the first step with and without caches"""

import statistics
import sys
import tempfile

from benchmarks.checks import recheck, truth
from benchmarks.command import add_contenders, add_task, command, positive_int, task
from benchmarks.field import Field
from benchmarks.harness import Seat, Worker, environment
from benchmarks.report import Report

EXAMPLE = "--model resnet20 --batch 32"
COLUMNS = ("import", "first step cold", "first step warm", "later step")
CACHES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def add_arguments(parser):
    add = parser.add_argument
    add_task(parser)
    add("--threads", type=positive_int, default=2, metavar="T", help="default 2")
    add("--rounds", type=positive_int, default=3, metavar="R", help="warm starts, default 3")
    add_contenders(parser)


def run(options):
    given = task(options)
    expected, env = truth(given, "train", options.threads), environment(options.threads)
    versions = {}
    with Field(options.contenders, Seat) as field, tempfile.TemporaryDirectory() as folder:
        field.each(lambda seat: recheck(seat.name, env, given, expected))

        def start(seat):
            """Seconds of one start, with caches in a folder that is empty at first."""
            caches = {name: f"{folder}/{seat.name}/{name}" for name in CACHES}
            with Worker(seat.name, environment(options.threads, **caches)) as worker:
                return first_step(worker, given, versions)

        cold = field.each(start)
        warm = [field.each(start) for _ in range(options.rounds)]
    rows = [
        summary(name, cold[name], [turn[name] for turn in warm if name in turn])
        for name in field.workers
    ]
    return table(options, given, rows, versions, field)


def first_step(worker, given, versions):
    """Seconds of the import, of building and the first step, and of a later one."""
    imported = worker.ask("load", contender=worker.name)
    built = worker.ask("build", **given, own_weights=True)
    first, *later = worker.ask("train", times=4)
    versions.update(worker.ask("versions"))
    return {"import": imported, "first": built + first, "later": min(later)}


def summary(name, cold, warm):
    """One row: the one cold start, and medians of the warm ones."""
    middle = {key: statistics.median(start[key] for start in warm) for key in cold}
    return {
        "name": name,
        "import": middle["import"],
        "first step cold": cold["first"],
        "first step warm": middle["first"],
        "later step": middle["later"],
        "cold": cold,
        "warm": warm,
    }


def table(options, given, rows, versions, field):
    report = Report(
        title=f"startup: {given['model']}, batch {given['batch']}, threads {options.threads}, "
        "float32, seconds",
        header=("contender", *COLUMNS),
        body=[(row["name"], *(f"{row[column]:.2f}" for column in COLUMNS)) for row in rows],
        records=rows,
        notes=[
            "first step: building the network included; cold: no kernel compiled yet; "
            f"warm: medians of {options.rounds} new processes"
        ],
        versions=versions,
    )
    report.join(field)
    return report


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
