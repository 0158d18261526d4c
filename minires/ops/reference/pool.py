"""Pooling: the largest or the mean of each window. Windows and their transpose are `conv`'s."""

from typing import NamedTuple

import numpy as np

from minires.ops.reference.conv import col2im, im2col, pad, windows
from minires.ops.window import Window, resolve_window


class MaxPoolCache(NamedTuple):
    """Which cell of each window won."""

    winner: np.ndarray  # (N, OH, OW, C), index into the KH*KW cells of the window
    shape: tuple  # (N, H, W, C)
    window: Window


class AvgPoolCache(NamedTuple):
    """The number of cells each window is divided by."""

    count: np.ndarray  # (1, OH, OW, 1)
    shape: tuple  # (N, H, W, C)
    window: Window


def maxpool2d_forward(x, *, kernel_size, stride, padding=0):
    """The largest number of each window and channel.

    Parameters
    ----------
    x : (N, H, W, C) float
    kernel_size, stride : int or pair of int
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Filled with -inf, so that padding never wins. Less than the kernel on each side.

    Returns
    -------
    y : (N, OH, OW, C)
    cache : MaxPoolCache
        Ties go to the first cell in reading order.
    """
    _, H, W, _ = x.shape
    window = pool_window("maxpool2d", (H, W), kernel_size, stride, padding)
    cells = flat_cells(windows(pad(x, window.padding, -np.inf), window))  # (N, OH, OW, KH*KW, C)
    winner = cells.argmax(axis=3)
    y = np.take_along_axis(cells, winner[:, :, :, None], axis=3)[:, :, :, 0]
    return y, MaxPoolCache(winner, x.shape, window)


def maxpool2d_backward(dy, cache):
    """Each window sends its gradient to the pixel that won; pixels of several windows get the sum.

    Parameters
    ----------
    dy : (N, OH, OW, C) float
    cache : MaxPoolCache

    Returns
    -------
    dx : (N, H, W, C)
    """
    winner, shape, window = cache
    KH, KW = window.kernel
    N, OH, OW, C = dy.shape
    dcells = np.zeros((N, OH, OW, KH * KW, C), dy.dtype)
    np.put_along_axis(dcells, winner[:, :, :, None], dy[:, :, :, None], axis=3)
    return col2im(dcells.reshape(N, OH, OW, KH, KW, C), shape, window)


def avgpool2d_forward(x, *, kernel_size, stride, padding=0, count_include_pad=True):
    """The mean of each window and channel.

    Parameters
    ----------
    x : (N, H, W, C) float
    kernel_size, stride : int or pair of int
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Filled with zeros. Less than the kernel on each side.
    count_include_pad : bool
        Divide by KH*KW everywhere (PyTorch's default), or only by the number of real pixels
        (Keras).

    Returns
    -------
    y : (N, OH, OW, C)
    cache : AvgPoolCache
    """
    _, H, W, _ = x.shape
    window = pool_window("avgpool2d", (H, W), kernel_size, stride, padding)
    ones = pad(np.ones((1, H, W, 1), x.dtype), window.padding, int(count_include_pad))
    count = windows(ones, window).sum(axis=(3, 4))  # (1, OH, OW, 1)
    total = flat_cells(im2col(x, window)).sum(axis=3, dtype=np.float64)  # (N, OH, OW, C)
    return (total / count).astype(x.dtype), AvgPoolCache(count, x.shape, window)


def avgpool2d_backward(dy, cache):
    """Each window sends dy / count to all of its pixels.

    Parameters
    ----------
    dy : (N, OH, OW, C) float
    cache : AvgPoolCache

    Returns
    -------
    dx : (N, H, W, C)
    """
    count, shape, window = cache
    share = (dy / count)[:, :, :, None, None]  # (N, OH, OW, 1, 1, C)
    N, OH, OW, C = dy.shape
    return col2im(np.broadcast_to(share, (N, OH, OW, *window.kernel, C)), shape, window)


def global_avgpool2d_forward(x):
    """The mean of each image and channel: (N, H, W, C) -> (N, C).

    Parameters
    ----------
    x : (N, H, W, C) float

    Returns
    -------
    y : (N, C)
    cache : tuple
        The shape of x.
    """
    return x.mean(axis=(1, 2), dtype=np.float64).astype(x.dtype), x.shape


def global_avgpool2d_backward(dy, shape):
    """Each pixel gets dy / (H * W).

    Parameters
    ----------
    dy : (N, C) float
    shape : tuple
        (N, H, W, C)

    Returns
    -------
    dx : (N, H, W, C)
    """
    _, H, W, _ = shape
    share = dy / (H * W)
    return np.broadcast_to(share[:, None, None], shape).copy()


def pool_window(owner, size, kernel_size, stride, padding):
    """The window of a pooling op, in which every window must see at least one real pixel."""
    window = resolve_window(owner, size, kernel_size, stride, padding)
    for k, sides in zip(window.kernel, window.padding, strict=True):
        if max(sides) >= k:
            raise ValueError(
                f"{owner} expects padding smaller than its kernel {window.kernel}, so that every "
                f"window sees a pixel, got {window.padding}"
            )
    return window


def flat_cells(cells):
    """(N, OH, OW, KH, KW, C) -> (N, OH, OW, KH*KW, C)."""
    N, OH, OW, KH, KW, C = cells.shape
    return cells.reshape(N, OH, OW, KH * KW, C)
