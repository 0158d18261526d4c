"""measure the peak memory of a process that trains (or infers)"""

import sys

from benchmarks.checks import recheck, truth
from benchmarks.command import add_contenders, add_task, command, positive_int, task
from benchmarks.field import Field
from benchmarks.harness import Seat, Worker, environment
from benchmarks.report import Report, megabytes

EXAMPLE = "--model resnet20 --batch 128 --steps 5"


def add_arguments(parser):
    add = parser.add_argument
    add_task(parser)
    add("--what", choices=("train", "infer"), default="train", help="default train")
    add("--steps", type=positive_int, default=3, metavar="S", help="default 3")
    add("--threads", type=positive_int, default=2, metavar="T", help="default 2")
    add_contenders(parser)


def run(options):
    """One process checks the results, a fresh one is measured, with malloc as it is."""
    given, env = task(options), environment(options.threads, keep_memory=False)
    expected = truth(given, options.what, options.threads)
    versions = {}

    def measure(seat):
        recheck(seat.name, env, given, expected, options.what)
        with Worker(seat.name, env) as worker:
            worker.ask("load", contender=worker.name)
            imported = worker.ask("memory")
            worker.ask("build", **given, own_weights=True)
            worker.ask(options.what, times=options.steps)
            versions.update(worker.ask("versions"))
            return {"imported": imported, "peak": worker.ask("memory")}

    with Field(options.contenders, Seat) as field:
        found = field.each(measure)
    return table(options, given, found, versions, field)


def table(options, given, found, versions, field):
    """The report, with the least of PyTorch's peaks as the measure."""
    peers = [name for name in found if name.startswith("torch")] or list(found)[:1]
    least = min((found[name]["peak"] for name in peers), default=0)
    rows = [{"name": name, "ratio": row["peak"] / least, **row} for name, row in found.items()]
    report = Report(
        title=f"memory: {options.what}, {given['model']}, batch {given['batch']}, float32",
        header=("contender", "peak MB", "after import MB", "of the least peer"),
        body=[
            (
                row["name"],
                megabytes(row["peak"]),
                megabytes(row["imported"]),
                f"{row['ratio']:.2f}",
            )
            for row in rows
        ],
        records=rows,
        notes=[f"peak resident memory after {options.steps} steps, MB of 10^6 bytes"],
        versions=versions,
    )
    report.join(field)
    return report


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
