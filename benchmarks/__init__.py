"""minires beside PyTorch on this machine: every result is checked, then timed.

`python -m benchmarks.NAME` or `minires bench NAME`, from a checkout of the repository, with NAME
one of `NAMES`. How it measures: `docs/benchmarks.md`. Read `harness.py` first.
"""

import os
import sys

NAMES = (
    "train_step",
    "inference",
    "ops",
    "shapes",
    "roofline",
    "memory",
    "startup",
    "scaling",
    "recorder",
    "cifar",
)


def end(kind, error, trace):
    """What Python does about an error that nobody caught; Ctrl-C gets one line and code 130."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("python -m benchmarks: error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if sys.argv[0] == "-m":  # `python -m benchmarks.NAME`, whose imports take a second
    sys.excepthook = end
