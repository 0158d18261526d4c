"""Muon's update: the step is the nearest orthogonal matrix to the momentum.

An ordinary gradient of a convolution is dominated by a few directions; after orthogonalisation all
directions of the weight matrix move by the same amount.
"""

import math

import numpy as np

from minires.ops.reference.optimizer import sgd_step

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of s, s^3 and s^5


def orthogonalize(g, iterations=5):
    """A matrix with the singular vectors of `g` and all singular values near 1.

    Parameters
    ----------
    g : (A, B) float
    iterations : int

    Returns
    -------
    x : (A, B)

    Notes
    -----
    Newton-Schulz: with x = U S V^T, x x^T x = U S^3 V^T, so one round of

        x <- a x + b (x x^T) x + c (x x^T)^2 x

    takes each singular value s to a s + b s^3 + c s^5, without any decomposition. The coefficients
    are steep at 0 rather than exact at 1: after five rounds, values that were 0.003 of the norm or
    more lie between 0.68 and 1.21.

    References
    ----------
    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; Bernstein and
    Newhouse (2024), arXiv:2409.20325.
    """
    a, b, c = COEFFICIENTS
    wide = g if len(g) <= g.shape[1] else g.T  # the smaller product of the two
    x = wide / (np.linalg.norm(wide) + 1e-7)
    for _ in range(iterations):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return x if wide is g else x.T


def muon_steps(w, g, v, *, lr, momentum, nesterov, iterations):
    """v = momentum v + g, w -= lr scale orthogonalize(v), in place, for several convolutions.

    Parameters
    ----------
    w, g, v : list of (KH, KW, C, F) arrays
        Values, gradients and velocities.
    lr, momentum : float
    nesterov : bool
        Orthogonalise g + momentum v instead of v.
    iterations : int

    Notes
    -----
    A kernel is the matrix that takes the KH KW C numbers under a window to F, and scale is
    sqrt(max(1, F / (KH KW C))): a step changes an output by about as much as the input is long.
    """
    for wi, gi, vi in zip(w, g, v, strict=True):
        direction = np.zeros_like(gi)
        sgd_step(direction, gi, vi, lr=-1.0, momentum=momentum, nesterov=nesterov)
        F = gi.shape[-1]
        matrix = direction.reshape(-1, F).T  # (F, KH KW C)
        step = orthogonalize(matrix, iterations).T.reshape(wi.shape)
        wi -= lr * math.sqrt(max(1, F / matrix.shape[1])) * step
