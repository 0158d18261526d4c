"""Softmax along the last axis."""

import numpy as np


def softmax_forward(x):
    """p = exp(x) / sum exp(x); the largest x of each row is taken off, so nothing overflows.

    Parameters
    ----------
    x : (N, K) float

    Returns
    -------
    p : (N, K)
    cache : (N, K)
        p itself.
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def softmax_backward(dy, p):
    """dx = p * (dy - sum(dy * p)), from dp_i/dx_j = p_i (1[i = j] - p_j).

    Parameters
    ----------
    dy, p : (N, K) float

    Returns
    -------
    dx : (N, K)
    """
    return p * (dy - (dy * p).sum(axis=-1, keepdims=True))
