"""Muon's update: the reference's matrix products, on one thread, which leave the kernels alone."""

from minires.ops import reference
from minires.ops.fast.blas import one_thread


def orthogonalize(g, iterations=5):
    """All singular values near 1; see `reference`."""
    with one_thread:
        return reference.orthogonalize(g, iterations)


def muon_steps(w, g, v, *, lr, momentum, nesterov, iterations):
    """Muon's update of several convolutions; see `reference`."""
    settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "iterations": iterations}
    with one_thread:
        reference.muon_steps(w, g, v, **settings)
