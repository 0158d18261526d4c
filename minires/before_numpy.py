"""What NumPy's BLAS must hear before it is used; `minires/__init__.py` imports this first.

NumPy's OpenBLAS keeps its threads awake for 2^28 ticks of the processor's clock (0.1 s) after a
product, in case another follows. What follows here is as often a kernel of `ops/fast`, which needs
their cores. So unless somebody has set OPENBLAS_THREAD_TIMEOUT they fall asleep after 2^18 ticks,
0.1 ms. OpenBLAS reads that when it is loaded. Where NumPy has been imported before minires it is
made to read again, and to start its threads anew, for each keeps the number that it began with.

Waking them again costs the reference ops next to nothing: a step of 228 and 234 ms with 2^18 ticks,
of 237 and 230 with 2^28 (`OPENBLAS_THREAD_TIMEOUT=18 python -m benchmarks.train_step --batch 32
--rounds 3 --burst 3 --contenders minires-reference`, in turns with 28; AMD EPYC, Zen 4, 2 cores,
2026-11-30).
"""

import contextlib
import os
import sys

NAME, TICKS = "OPENBLAS_THREAD_TIMEOUT", "18"  # 2^18
FORCED = "KMP_DUPLICATE_LIB_OK"  # a variable that threadpoolctl sets when it is imported


def let_threads_sleep():
    """Import NumPy, if nobody has yet, with a BLAS whose threads soon sleep."""
    if NAME in os.environ:
        return
    with unset_after(NAME):
        os.environ[NAME] = TICKS
        if "numpy" in sys.modules:
            tell_openblas()
        import numpy  # noqa: F401


@contextlib.contextmanager
def unset_after(variable):
    """A context after which a variable that was not set is not set: no program is to inherit it."""
    missing = variable not in os.environ
    try:
        yield
    finally:
        if missing:
            os.environ.pop(variable, None)


def tell_openblas():
    """Let each OpenBLAS that is loaded read its variables, and end its threads.

    The next product starts them again, as after a fork. Another thread might be in a product and
    would wait for ever, so nothing is done where another one runs Python, whoever has started it.
    """
    if len(sys._current_frames()) > 1 or os.name != "posix":
        return
    with contextlib.suppress(Exception):  # only speed is at stake
        for library in find_libraries():
            own = getattr(library, "threading_layer", None) == "pthreads" and library.dynlib
            if own and hasattr(own, "openblas_read_env") and hasattr(own, "blas_thread_shutdown_"):
                own.openblas_read_env()
                own.blas_thread_shutdown_()


def find_libraries():
    """The BLAS libraries of this process."""
    with unset_after(FORCED):
        from threadpoolctl import ThreadpoolController
    return ThreadpoolController().select(user_api="blas").lib_controllers


let_threads_sleep()
