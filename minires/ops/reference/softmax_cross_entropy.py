"""Softmax and cross-entropy in one op: together they are stabler and simpler than apart."""

from typing import NamedTuple

import numpy as np


class SoftmaxCrossEntropyCache(NamedTuple):
    """What the backward pass needs."""

    probs: np.ndarray  # (N, K)
    targets: np.ndarray  # (N, K), rows sum to 1


def softmax_cross_entropy_forward(logits, targets):
    """Mean over the batch of -sum_k targets[n, k] log softmax(logits)[n, k].

    Parameters
    ----------
    logits : (N, K) float
    targets : (N, K) float
        A distribution in each row: one-hot or soft.

    Returns
    -------
    loss : float
    cache : SoftmaxCrossEntropyCache

    Notes
    -----
    log softmax(z) = z - max(z) - log(sum exp(z - max(z))) is finite however far the logits are
    apart, where log(softmax(z)) is log(0) as soon as they differ by 104 in float32.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -(targets * log_probs).sum(axis=1).mean(dtype=np.float64)
    return float(loss), SoftmaxCrossEntropyCache(np.exp(log_probs), targets)


def softmax_cross_entropy_backward(cache):
    """dlogits = (probs - targets) / N; each row sums to 0.

    Parameters
    ----------
    cache : SoftmaxCrossEntropyCache

    Returns
    -------
    dlogits : (N, K)
    """
    return (cache.probs - cache.targets) / len(cache.probs)
