"""Time whole networks: what `train_step`, `inference` and `scaling` have in common."""

from benchmarks.checks import checked, truth
from benchmarks.field import Field, alternate, compare
from benchmarks.harness import Worker, environment
from benchmarks.report import Report, error_pair, milliseconds


def measure(names, task, what, *, threads, rounds, burst, label=""):
    """Check and time a network with each contender.

    Parameters
    ----------
    names : sequence of str
        Of `contenders.NAMES`.
    task : dict
        Arguments of `ours.Network`.
    what : {"train", "infer"}
    threads, rounds, burst : int

    Returns
    -------
    rows : list of dict
        As from `field.compare`, with `error` and `seconds`.
    best : str
        The contender that ratios refer to.
    versions : dict
    field : Field
        Closed; says who dropped out.
    """
    versions, env = {}, environment(threads)
    with Field(names, lambda name: Worker(name, env)) as field:
        field.each(lambda worker: worker.ask("load", contender=worker.name))
        expected = truth(task, what, threads) if field.workers else None
        field.each(lambda worker: worker.ask("build", **task))
        errors = field.each(lambda worker: checked(worker, expected, what))
        for found in field.each(lambda worker: worker.ask("versions")).values():
            versions |= found
        seconds = alternate(field, what, rounds=rounds, burst=burst, label=label)
    rows, best = compare(seconds)
    rows = [row | {"error": errors[row["name"]], "seconds": seconds[row["name"]]} for row in rows]
    return rows, best, versions, field


def report(options, task, what):
    """The report on one network."""
    rows, best, versions, field = measure(
        options.contenders,
        task,
        what,
        threads=options.threads,
        rounds=options.rounds,
        burst=options.burst,
    )
    N = task["batch"]
    made = Report(
        title=f"{what}: {task['model']}, batch {N}, threads {options.threads}, float32",
        header=("contender", "median ms", "least ms", "us/image", "times as fast", "error"),
        body=[
            (
                row["name"],
                milliseconds(row["median"]),
                milliseconds(row["least"]),
                f"{row['median'] / N * 1e6:.1f}",
                f"{row['ratio']:.2f}",
                error_pair(row["error"]),
            )
            for row in rows
        ],
        records=rows,
        notes=[legend(best)] if best else [],
        versions=versions,
    )
    made.join(field)
    return made


def legend(best):
    """What the last columns mean."""
    return f"times as fast: as {best}; error: of logits / gradients, relative, against float64"
