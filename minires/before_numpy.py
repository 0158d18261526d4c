"""What has to be said before NumPy is loaded; `minires/__init__.py` imports this first.

NumPy's OpenBLAS keeps its threads awake for 2^28 ticks of the processor's clock (0.1 s) after a
product, in case another follows. What follows here is as often a kernel of `ops/fast`, which needs
their cores. OpenBLAS reads how long once, when it is loaded. So where minires is imported before
NumPy, and nobody has set OPENBLAS_THREAD_TIMEOUT, they fall asleep after 2^18 ticks, 0.1 ms.

Waking them again costs the reference ops next to nothing: a step of 228 and 234 ms with 2^18 ticks,
of 237 and 230 with 2^28 (`OPENBLAS_THREAD_TIMEOUT=18 python -m benchmarks.train_step --batch 32
--rounds 3 --burst 3 --contenders minires-reference`, in turns with 28; AMD EPYC, Zen 4, 2 cores,
2026-11-30).
"""

import os
import sys

NAME, TICKS = "OPENBLAS_THREAD_TIMEOUT", "18"  # 2^18


def load_numpy():
    """Import NumPy, if nobody has yet, with a BLAS whose threads soon sleep."""
    if "numpy" in sys.modules or NAME in os.environ:
        return
    os.environ[NAME] = TICKS
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[NAME]  # not for other programs that this one may start


load_numpy()
