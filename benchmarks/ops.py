"""time single ops, forward and backward, beside the machine's ceiling"""

import sys

from benchmarks.cases import cases, work
from benchmarks.checks import checked, truth
from benchmarks.command import add_contenders, add_timing, command, positive_int
from benchmarks.contenders import ONE_OP
from benchmarks.field import Field, alternate, compare
from benchmarks.harness import Worker, WorkerError, environment
from benchmarks.report import Report, error_pair, milliseconds

EXAMPLE = "--only conv --batch 32 --threads 1"
SIZE = 2048  # of the matrices whose product is the ceiling


def add_arguments(parser):
    add = parser.add_argument
    add("--only", default="", metavar="TEXT", help="ops whose line holds this text")
    add("--batch", type=positive_int, default=128, metavar="N", help="images of 32x32, default 128")
    add_timing(parser, rounds=3, burst=4)
    add_contenders(parser, ONE_OP, ONE_OP)


def run(options):
    chosen = [case for case in cases(options.batch) if options.only in case["label"]]
    if not chosen:
        labels = "; ".join(case["label"] for case in cases(options.batch))
        raise ValueError(f"expected --only to be part of one of: {labels}; got {options.only!r}")
    report = Report(
        title=f"ops: batch {options.batch}, threads {options.threads}, float32",
        header=("op", "pass", "contender", "median ms", "rate", "unit", "of ceiling", "error"),
        body=[],
        records=[],
        left=3,
    )
    env = environment(options.threads)
    with Field(options.contenders, lambda name: Worker(name, env)) as field:
        field.each(lambda worker: worker.ask("load", contender=worker.name))
        rows, ceilings = [], {}
        for case in chosen:
            # measured again and again, as other programs may take the cores for a while
            for name, rate in field.each(lambda worker: worker.ask("ceiling", size=SIZE)).items():
                ceilings[name] = max(rate, ceilings.get(name, 0))
            rows += measure(field, case, options)
        for found in field.each(lambda worker: worker.ask("versions")).values():
            report.versions |= found  # Numba too, which the first op has imported
    for row in rows:
        add_row(report, row, max(ceilings.values()))
    report.notes += [
        f"{name}: {rate / 1e9:.0f} GF/s in a product of {SIZE}x{SIZE} matrices"
        for name, rate in ceilings.items()
    ] + ["ceiling: the largest of these; operations are counted as in direct convolution"]
    report.join(field)
    return report


def measure(field, case, options):
    """Check, then time one op of all contenders; one row a pass and contender."""
    if not field.workers:
        return []
    expected = truth({"case": case}, threads=options.threads, do="op")
    field.each(lambda worker: worker.ask("op", case=case))
    errors = field.each(lambda worker: checked_op(worker, expected, case))
    unit, *amounts = work(case)
    rows = []
    for what, amount in zip(("forward", "backward"), amounts, strict=True):
        label = f"{case['label']} {what}"
        times = alternate(field, what, rounds=options.rounds, burst=options.burst, label=label)
        for row in compare(times)[0]:
            name = row["name"]
            more = {"op": case["label"], "pass": what, "unit": unit, "seconds": times[name]}
            rows.append(row | more | {"rate": amount / row["median"] / 1e9, "error": errors[name]})
    return rows


def checked_op(worker, expected, case):
    """The error of an op, or a WorkerError that names it."""
    try:
        return checked(worker, expected, tolerance=1e-4, gradients=1e-4)
    except WorkerError as error:
        raise WorkerError(f"{case['label']}: {error}") from None


def add_row(report, row, ceiling):
    """One line of the table."""
    share = f"{row['rate'] * 1e9 / ceiling:.0%}" if row["unit"] == "GF/s" else "-"
    report.records.append(row | {"ceiling": ceiling / 1e9})
    report.body.append(
        (
            row["op"],
            row["pass"],
            row["name"],
            milliseconds(row["median"]),
            f"{row['rate']:.1f}",
            row["unit"],
            share,
            error_pair(row["error"]),
        )
    )


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
