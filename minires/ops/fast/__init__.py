"""The ops in Numba, to run: the same functions, arguments and results as `minires.ops.reference`.

Numba is imported, and a kernel compiled, when the first op is called. If compiling is switched off
by then (NUMBA_DISABLE_JIT=1, or `disable_jit` in Numba's file or in `numba.config`), or where Numba
cannot be imported, every op is the reference's. `covers` says which calls have a kernel. Start with
`simd`, then `conv`, then `winograd`.
"""

import functools
import importlib
import os
import sys
import warnings

import minires.ops.fast.forks  # noqa: F401  it listens from now on
from minires.ops import reference


@functools.cache
def compiles():
    """Whether there is a Numba that compiles; it is imported to find out."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        numba = importlib.import_module("numba")
        if numba.config.DISABLE_JIT:  # by a file, or by a program
            return False
        importlib.import_module(f"{__name__}.progress")  # which listens to it
    except ImportError as error:  # absent, or one that refuses this NumPy
        warnings.warn(
            f"Numba cannot be imported ({error}): every op runs on minires.ops.reference, slowly",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


expected = {"training": False, "fused": False}  # what the program is about to do


def expect(what):
    """Say that a network is going to be trained, or that it is "fused"; `ahead` makes use of it."""
    expected[what] = True


def step_taken():
    """Say that a training step is over, and compiled what it calls: no more is expected."""
    if expected["training"]:
        expected["training"] = False
        if compiles():
            importlib.import_module(f"{__name__}.ahead").ahead.end()


@functools.cache
def implementation(name):
    """The function `name` of this package, or the reference's if there is none to run."""
    read = getattr(reference, name)
    module = read.__module__.replace(reference.__name__, __name__)
    if module not in MODULES or not compiles():
        return read
    return getattr(importlib.import_module(module), name)


OURS = (
    "add",
    "batchnorm",
    "conv",
    "dense",
    "fused",
    "measure",
    "muon",
    "optimizer",
    "pool",
    "relu",
    "shortcut",
)
MODULES = [f"{__name__}.{name}" for name in OURS]


def covers(name, *args, **options):
    """Whether a kernel computes the op `name` on these arguments, or the reference does.

    A module here that leaves some calls of an op to the reference says which in its `COVERS`.
    """
    module = implementation(name).__module__
    if module not in MODULES:
        return False
    covered = getattr(sys.modules[module], "COVERS", {}).get(name)
    return covered is None or covered(*args, **options)


def late(name):
    """A function with the reference's signature and docstring that looks ours up when called."""

    @functools.wraps(getattr(reference, name))
    def op(*args, **options):
        return implementation(name)(*args, **options)

    op.__module__ = __name__
    return op


__all__ = list(reference.__all__)
globals().update({name: late(name) for name in __all__})
