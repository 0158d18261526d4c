"""Before anything is timed: does each contender compute what float64 says?"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import Worker, WorkerError, environment

TRUTH = "minires-reference"
TOLERANCE = 1e-3  # of logits and loss
# One pre-activation that is so close to 0 that rounding decides which side of its ReLU it is on
# moves the gradients of a small batch by up to a hundredth of their norm, see
# `tests/test_rounding.py`. `ops`, where each op stands alone, holds them to 1e-4.
GRADIENT_TOLERANCE = 5e-2
FLOOR = 1e-3


def truth(task, what="train", threads=1, do="build"):
    """What the reference computes in float64, as {name: array}.

    Parameters
    ----------
    task : dict
        Arguments of the request `do`, which makes a network or an op.
    what : {"train", "infer"}
    threads : int
    do : {"build", "op"}
    """
    with Worker(TRUTH, environment(threads)) as worker:
        worker.ask("load", contender=TRUTH)
        worker.ask(do, **task, dtype="float64")
        return results(worker, what)


def results(worker, what):
    """What a worker computes, as {name: array}."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "results.npz")
        worker.ask("check", what=what, file=file)
        with np.load(file) as arrays:
            return dict(arrays)


def checked(worker, expected, what="train", tolerance=TOLERANCE, gradients=GRADIENT_TOLERANCE):
    """The worker's largest relative errors: of outputs, and of gradients or None without any.

    Raises
    ------
    WorkerError
        If one is larger than its tolerance, or NaN.
    """
    errors = compare(results(worker, what), expected)
    allowed = {name: gradients if is_gradient(name) else tolerance for name in errors}
    for name, error in errors.items():
        if not error <= allowed[name]:
            raise WorkerError(f"a wrong result: {name} is off by {error:.1e} of its norm")
    return [
        max((error for name, error in errors.items() if is_gradient(name) == wanted), default=None)
        for wanted in (False, True)
    ]


def is_gradient(name):
    return name.startswith("grad:")


def recheck(name, env, task, expected, what="train"):
    """The error of a contender, found in a process of its own that ends with it."""
    with Worker(name, env) as worker:
        worker.ask("load", contender=name)
        worker.ask("build", **task)
        return checked(worker, expected, what)


def compare(got, expected):
    """The relative error of each array.

    Parameters
    ----------
    got, expected : dict of arrays

    Returns
    -------
    errors : dict of float
        Norm of the difference over the norm of what is expected; infinite where a name or a shape
        differs. Gradients that are nothing but rounding, such as those of a bias in front of a
        batch norm, are measured against a thousandth of the largest gradient.
    """
    norms = {name: np.linalg.norm(array) for name, array in expected.items()}
    largest = max((norm for name, norm in norms.items() if is_gradient(name)), default=0)
    errors = dict.fromkeys(sorted(set(got) | set(expected)), np.inf)
    for name in set(got) & set(expected):
        scale = max(norms[name], FLOOR * largest if is_gradient(name) else 0) or 1
        if got[name].shape == expected[name].shape:
            errors[name] = float(np.linalg.norm(got[name] - expected[name]) / scale)
    return errors
