"""Batch normalisation, with the statistics of the batch (training) or with given ones (inference).

In training the mean and the variance depend on x, so the gradient has three paths: straight
through, through the mean and through the variance. In inference they are constants.
"""

from typing import NamedTuple

import numpy as np

from minires.ops.reference.sums import channel_mean, channel_sum


class BatchNormCache(NamedTuple):
    """What both backward passes need; `var` is for the layer's running statistics."""

    x: np.ndarray  # (..., C)
    gamma: np.ndarray  # (C,)
    mean: np.ndarray  # (C,)
    var: np.ndarray  # (C,), biased: divided by the number of values
    rstd: np.ndarray  # (C,), 1 / sqrt(var + eps)


def batchnorm_forward(x, gamma, beta, *, eps, moments=None):
    """y = gamma * xhat + beta with xhat = (x - mean) / sqrt(var + eps), statistics of the batch.

    Parameters
    ----------
    x : (N, H, W, C) or (N, C) float
    gamma, beta : (C,) float
    eps : float
        Added to the variance.
    moments : (mean, var), (C,) each, optional
        Mean and biased variance of x, if `conv2d_moments_forward` has computed them already.

    Returns
    -------
    y : like x
    cache : BatchNormCache
        Holds the mean and the biased variance of the batch.

    Notes
    -----
    The variance takes a second pass over x: E[x^2] - E[x]^2 in float32 is 0 for data near 10^4.

    References
    ----------
    Ioffe and Szegedy (2015), arXiv:1502.03167, algorithm 1.
    """
    mean, var = channel_moments(x) if moments is None else moments
    rstd = 1 / np.sqrt(var + eps)
    y = (x - mean) * (gamma * rstd) + beta
    return y, BatchNormCache(x, gamma, mean, var, rstd)


def channel_moments(x):
    """Mean and biased variance over every axis but the last."""
    mean = channel_mean(x)
    centred = x - mean
    return mean, channel_mean(centred * centred)


def batchnorm_backward(dy, cache):
    """Gradients of batch normalisation with batch statistics.

    Parameters
    ----------
    dy : (N, H, W, C) or (N, C) float
        Gradient of the loss with respect to the output.
    cache : BatchNormCache
        What `batchnorm_forward` returned.

    Returns
    -------
    dx : like dy, dgamma : (C,), dbeta : (C,)
        Same dtype as `dy`. No argument is written to.

    Notes
    -----
    With dxhat = dy * gamma and means over every axis but the last,

        dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).

    The two subtracted terms are the paths through the mean and the variance. gamma is one number
    per channel and leaves the means, so they are dbeta / M and dgamma / M for M values a channel.

    References
    ----------
    Ioffe and Szegedy (2015), arXiv:1502.03167, section 3.
    """
    x, gamma, mean, _, rstd = cache
    M = x.size // x.shape[-1]
    xhat = (x - mean) * rstd  # recomputed: cheaper than keeping it
    dgamma = channel_sum(dy * xhat)
    dbeta = channel_sum(dy)
    dx = (gamma * rstd) * (dy - dbeta / M - xhat * (dgamma / M))
    return dx, dgamma, dbeta


def batchnorm_inference_forward(x, gamma, beta, mean, var, *, eps):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta for given statistics.

    Parameters
    ----------
    x : (N, H, W, C) or (N, C) float
    gamma, beta, mean, var : (C,) float
    eps : float

    Returns
    -------
    y : like x
    cache : BatchNormCache
    """
    rstd = 1 / np.sqrt(var + eps)
    y = (x - mean) * (gamma * rstd) + beta
    return y, BatchNormCache(x, gamma, mean, var, rstd)


def batchnorm_inference_backward(dy, cache):
    """Gradients of `batchnorm_inference_forward`: an affine map, so only the straight path is left.

    Parameters
    ----------
    dy : (N, H, W, C) or (N, C) float
    cache : BatchNormCache

    Returns
    -------
    dx : like dy, dgamma : (C,), dbeta : (C,)
    """
    x, gamma, mean, _, rstd = cache
    dgamma = channel_sum(dy * (x - mean)) * rstd
    dbeta = channel_sum(dy)
    return dy * (gamma * rstd), dgamma, dbeta
