"""The contenders of one run: who takes part, who does not and why, and taking turns."""

import statistics
import sys

from tqdm import tqdm

from benchmarks.harness import MissingContenderError, WorkerError


class Field:
    """Workers by name. One that is missing or fails drops out with a word, the others go on.

    Parameters
    ----------
    names : sequence of str
    start : callable
        name -> Worker, or Seat.

    Attributes
    ----------
    workers : dict
        Those that still take part.
    skipped, failed : dict
        name -> why, for those that are not installed, and for those that went wrong.
    """

    def __init__(self, names, start):
        self.skipped, self.failed, self.workers = {}, {}, {}
        for name in names:
            self.workers[name] = start(name)

    def each(self, act, order=None):
        """{name: act(worker)} of all that could, one after the other."""
        answers = {}
        for name in order or list(self.workers):
            try:
                answers[name] = act(self.workers[name])
            except MissingContenderError as missing:
                self.drop(name, self.skipped, "skipped", missing)
            except WorkerError as error:
                self.drop(name, self.failed, "failed", error)
        return answers

    def drop(self, name, why, word, error):
        why[name] = " ".join(str(error).split())
        print(f"{name}: {word}, {why[name]}", file=sys.stderr)
        self.workers.pop(name).close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for worker in self.workers.values():
            worker.close()


def alternate(field, do, *, rounds, burst, warmup=2, label="", **arguments):
    """Time a request in turns, each round led by another contender.

    Parameters
    ----------
    field : Field
    do : str
        A request that takes `times` and answers with as many seconds.
    rounds, burst : int
        Turns of each contender, and timings kept of each turn. One more is made and dropped
        first: it pays for waking up.
    warmup : int
        Untimed repetitions before the first round.

    Returns
    -------
    seconds : dict
        name -> list of rounds * burst floats.
    """
    field.each(lambda worker: worker.ask(do, times=warmup, **arguments))
    seconds = {name: [] for name in field.workers}
    for turn in tqdm(range(rounds), desc=label or do, unit="round", disable=None, leave=False):
        for name, times in take_turns(field, do, turn, burst, **arguments).items():
            seconds[name] += times
    return {name: seconds[name] for name in field.workers}


def take_turns(field, do, turn, burst, **arguments):
    """{name: seconds} of one round, number `turn`, as `alternate` times it."""
    names = list(field.workers)
    first = turn % max(1, len(names))
    answers = field.each(
        lambda worker: worker.ask(do, times=burst + 1, **arguments),
        order=names[first:] + names[:first],
    )
    return {name: times[1:] for name, times in answers.items()}


def compare(seconds, peer="torch"):
    """Medians, and how many times as fast each contender is as the best peer.

    Parameters
    ----------
    seconds : dict
        name -> list of float.
    peer : str
        How the peers' names begin. Without any, the first contender is the measure.

    Returns
    -------
    rows : list of dict
        name, median, least (seconds), ratio (more than 1 is faster than the measure).
    measure : str
        Who was the measure; "" if there are no timings.
    """
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peers = [name for name in medians if name.startswith(peer)] or list(medians)[:1]
    measure = min(peers, key=medians.get, default="")
    rows = [
        {
            "name": name,
            "median": median,
            "least": min(seconds[name]),
            "ratio": medians[measure] / median,
        }
        for name, median in medians.items()
    ]
    return rows, measure
