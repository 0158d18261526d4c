"""Pooling: a window's cells are compared channel by channel, for all channels at once."""

import numpy as np

from minires.checks import expect_array
from minires.ops import reference
from minires.ops.fast.jit import kernel
from minires.ops.fast.memory import empty
from minires.ops.reference.pool import MaxPoolCache, pool_window


def maxpool2d_forward(x, *, kernel_size, stride, padding=0):
    """The largest number of each window and channel; see `reference`."""
    window = pool_window("maxpool2d", x.shape[1:3], kernel_size, stride, padding)
    x = np.ascontiguousarray(x)
    y = empty((len(x), *window.out, x.shape[3]), x.dtype)
    winner = empty(y.shape, np.int32)
    largest(len(x) * window.out[0], x, window.kernel, window.stride, top_left(window), y, winner)
    return y, MaxPoolCache(winner, x.shape, window)


def maxpool2d_backward(dy, cache):
    """Each window sends its gradient to the pixel that won; see `reference`."""
    winner, shape, window = cache
    expect_array("maxpool2d_backward", "dy", dy, winner.shape)
    dx = empty(shape, dy.dtype)
    dy = np.ascontiguousarray(dy)
    send_back(len(dx), dy, winner, window.kernel, window.stride, top_left(window), dx)
    return dx


def avgpool2d_forward(x, *, kernel_size, stride, padding=0, count_include_pad=True):
    """The mean of each window and channel: the reference's."""
    return reference.avgpool2d_forward(
        x,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        count_include_pad=count_include_pad,
    )


def avgpool2d_backward(dy, cache):
    """Each window sends dy / count to all of its pixels: the reference's."""
    return reference.avgpool2d_backward(dy, cache)


def global_avgpool2d_forward(x):
    """The mean of each image and channel; see `reference`."""
    N, _, _, C = x.shape
    y = np.empty((N, C), x.dtype)
    image_means(N, np.ascontiguousarray(x).reshape(N, -1, C), np.zeros((N, C)), y)
    return y, x.shape


def global_avgpool2d_backward(dy, shape):
    """Each pixel gets dy / (H * W); see `reference`."""
    N, H, W, C = shape
    expect_array("global_avgpool2d_backward", "dy", dy, (N, C))
    dx = empty(shape, dy.dtype)
    fill_images(N, dy / (H * W), dx.reshape(N, -1, C))
    return dx


def top_left(window):
    (top, _), (left, _) = window.padding
    return top, left


@kernel
def largest(item, x, kernel_size, stride, top_left, y, winner):
    """y and the number of the cell it came from; the first of equals, the first NaN of all."""
    (KH, KW), (SH, SW), (top, left) = kernel_size, stride, top_left
    _, H, W, C = x.shape
    _, OH, OW, _ = y.shape
    n, oh = item // OH, item % OH
    for ow in range(OW):
        best, cell = y[n, oh, ow], winner[n, oh, ow]
        cell[:] = -1
        for kh in range(max(0, top - oh * SH), min(KH, H + top - oh * SH)):
            for kw in range(max(0, left - ow * SW), min(KW, W + left - ow * SW)):
                pixel = x[n, oh * SH + kh - top, ow * SW + kw - left]
                number = np.int32(kh * KW + kw)
                for c in range(C):
                    a, b, k = pixel[c], best[c], cell[c]
                    wins = (k < 0) | (a > b) | ((a != a) & (b == b))
                    best[c] = a if wins else b
                    cell[c] = number if wins else k


@kernel
def send_back(n, dy, winner, kernel_size, stride, top_left, dx):
    """dx[the pixel that won] += dy, image by image."""
    (KH, KW), (SH, SW), (top, left) = kernel_size, stride, top_left
    _, H, W, C = dx.shape
    _, OH, OW, _ = dy.shape
    dx[n] = 0
    for oh in range(OH):
        for ow in range(OW):
            d, cell = dy[n, oh, ow], winner[n, oh, ow]
            for kh in range(max(0, top - oh * SH), min(KH, H + top - oh * SH)):
                for kw in range(max(0, left - ow * SW), min(KW, W + left - ow * SW)):
                    pixel = dx[n, oh * SH + kh - top, ow * SW + kw - left]
                    number = np.int32(kh * KW + kw)
                    for c in range(C):
                        a, b, k = pixel[c], d[c], cell[c]
                        pixel[c] = a + (b if k == number else dx.dtype.type(0))


@kernel
def image_means(n, x, totals, y):
    _, P, C = x.shape
    total = totals[n]
    for p in range(P):
        for c in range(C):
            total[c] += x[n, p, c]
    for c in range(C):
        y[n, c] = total[c] / P


@kernel
def fill_images(n, share, dx):
    _, P, C = dx.shape
    for p in range(P):
        for c in range(C):
            dx[n, p, c] = share[n, c]
