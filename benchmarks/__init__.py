"""minires beside PyTorch on this machine: every result is checked, then timed.

`python -m benchmarks.NAME` or `minires bench NAME`, from a checkout of the repository, with NAME
one of `NAMES`. How it measures: `docs/benchmarks.md`. Read `harness.py` first.
"""

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
