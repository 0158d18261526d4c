"""Who takes part, and what each needs. Nothing is imported until a worker asks for it."""

import importlib
import importlib.util
import os
import shutil

from benchmarks.harness import MissingContenderError

MINIRES = ("minires-reference", "minires-fast", "minires-fused")
TORCH = ("torch-eager", "torch-channels-last", "torch-compile")
NAMES = MINIRES + TORCH
ONE_OP = ("minires-reference", "minires-fast", "torch-eager", "torch-channels-last")
COMPILERS = ("c++", "g++", "clang++")


def import_library(name):
    """Import what the contender `name` needs, and nothing else.

    Raises
    ------
    MissingContenderError
        If it is not there.
    """
    if name in TORCH:
        require("torch", "PyTorch is not installed")
        if name == "torch-compile" and not any(map(shutil.which, COMPILERS)):
            raise MissingContenderError("torch.compile needs a C++ compiler")
        torch = importlib.import_module("torch")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return
    importlib.import_module("minires")
    if name != "minires-reference":
        require("minires.ops.fast", "this minires has no minires.ops.fast")
    if name == "minires-fused":
        fuse()


def fuse():
    """minires' function that fuses neighbouring layers."""
    found = getattr(importlib.import_module("minires"), "fuse", None)
    if found is None:
        raise MissingContenderError("this minires has no minires.fuse")
    return found


def require(module, otherwise):
    """Complain with `otherwise` unless `module` is there; an error inside it is an error."""
    if importlib.util.find_spec(module) is None:
        raise MissingContenderError(otherwise)
    importlib.import_module(module)


def expect_compiler(name):
    """Complain if the fast ops would run on the reference under their own name; imports Numba.

    Raises
    ------
    MissingContenderError
        If Numba is not there, or does not compile.
    """
    if name in TORCH or name == "minires-reference":
        return
    if not importlib.import_module("minires.ops.fast").compiles():
        raise MissingContenderError("Numba is not installed, or told not to compile")


def side(name):
    """The module that runs the contender: `ours` or `theirs`."""
    return importlib.import_module("benchmarks.theirs" if name in TORCH else "benchmarks.ours")


def training_side(name):
    """The module that trains as the contender does: `our_training` or `their_training`."""
    return importlib.import_module(
        "benchmarks.their_training" if name in TORCH else "benchmarks.our_training"
    )
