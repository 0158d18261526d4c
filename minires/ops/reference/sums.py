"""Sums over everything but the channels, exact enough for float32."""

import numpy as np


def channel_sum(x):
    """Sum over every axis but the last: (..., C) -> (C,), dtype of `x`.

    Notes
    -----
    Added in float64, because 10^5 numbers added one after the other in float32 lose digits. The
    images are added first: that loop is long and contiguous, where adding the rows of a (10^5, 16)
    array takes 10^5 short ones.
    """
    total = x.sum(axis=0, dtype=np.float64)  # (H, W, C) or (C,)
    return total.reshape(-1, x.shape[-1]).sum(axis=0).astype(x.dtype)


def channel_mean(x):
    """Mean over every axis but the last: (..., C) -> (C,), dtype of `x`."""
    return channel_sum(x) / (x.size // x.shape[-1])
