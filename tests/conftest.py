"""Hypothesis: 200 examples a test, the same in every run, and no deadline on a busy machine."""

import os
import sys

# one BLAS thread: the arrays of the tests are small, and two pools on two cores only get in the way
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# tests count what is compiled, and need the other core themselves
os.environ.setdefault("MINIRES_COMPILE_AHEAD", "0")

import hypothesis
import numpy as np
import pytest

collect_ignore = ["oracles"]  # the scripts there need PyTorch and scikit-learn

hypothesis.settings.register_profile(
    "minires",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("minires")


def pytest_runtest_teardown():
    """All threads again for the next test, whatever this one ran on."""
    if "minires.ops.fast.jit" in sys.modules:
        import numba

        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@pytest.fixture
def rng():
    """A generator that starts the same in every test."""
    return np.random.default_rng(0)
