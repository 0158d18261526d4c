"""Convolution as one product on columns, as in the reference, for shapes that suit no tile.

Where filters are few, images tiny or weights many, BLAS' product beats the tiles of `direct.py`:
it packs what it multiplies. So this is `reference/conv.py` once more, with what surrounds the
product made faster:

    columns   written by our threads, which read the image without a border
    product   BLAS on our threads (`matmul.py`), a group of images at a time, so that the columns
              are still in the cache
    col2im    a row of dx from all windows that see it, so the rows can be shared out

Where there is little to do, Python is the larger part. So what shapes alone tell is found once
(`work`), and NumPy multiplies, on the calling thread. Read next: `im2col.py`, the loops.
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minires.checks import expect_array
from minires.ops.fast.im2col import fold, seen, write_columns
from minires.ops.fast.jit import PARTS, kernel
from minires.ops.fast.matmul import alone, matmul, much, plain
from minires.ops.fast.memory import empty
from minires.ops.fast.panels import WIDEST, add
from minires.ops.fast.sums import channel_sum

GROUP = 2**19  # numbers in the columns of a group of images
PIXELS = 2**10  # but no fewer rows than that: BLAS packs the weights for each group anew
FEW_NUMBERS = 2**15 - 2**8  # numbers in an array for which NumPy finds memory faster
MANY_RUNS, LINE = 2**11, 16  # runs of contiguous numbers, and lines of 16, that threads share
ONE_READS = 4  # times as many, if one thread multiplies: it fetches what others have written
NUMPY_WRITES = 8  # the same for what NumPy writes as fast as one of our threads
FEW_BORDERED = 2**12  # numbers in image and columns up to which it also finds room for a border
FEW_BIASED = 2**15  # numbers to which NumPy adds biases as fast
FEW_GAPS = 2**19  # numbers of an image, seen pixel by pixel with gaps, that NumPy fills as fast


def forward(x, weight, bias, window):
    """y = bias + x correlated with weight."""
    checked(bias, weight)
    F = weight.shape[3]
    w, todo = weight.reshape(-1, F), work(x.shape, window, F)
    rows = room((todo.shape[0], F), x.dtype)
    y = rows.reshape(len(x), *window.out, F)
    with todo.blas:
        if todo.groups == 1 or todo.write in VIEWS:
            todo.multiply(todo.write(x, window, todo.shape), w, rows)
        else:
            for images, out in groups(todo, x, y):
                matmul(columns(images, window, F), w, out.reshape(-1, F))
    if bias is not None:
        add_bias(y, bias)
    return y


def add_bias(y, bias):
    """y += bias, by the threads that have just written y where there is much of it."""
    if y.size < FEW_BIASED:
        y += bias
    else:
        add_to_pixels(PARTS, np.ascontiguousarray(bias), y.reshape(-1))


@kernel
def add_to_pixels(k, bias, y):
    """Add the bias to some pixels of y."""
    F = bias.size
    pixels = y.size // F
    for p in range(k * pixels // PARTS, (k + 1) * pixels // PARTS):
        add(bias, 0, y, p * F, F)


def prepared(x_shape, weight, bias, window):
    """`forward` of images of one shape."""
    checked(bias, weight)
    return lambda x: forward(x, weight, bias, window)


def checked(bias, weight):
    """The bias, None or one for these weights."""
    if bias is not None:
        given = "bias", bias, weight.shape[3:]
        expect_array("conv2d", *given, dtype=weight.dtype, like="the weight")
    return bias


def backward(x, weight, dy, window):
    """dx, dweight and dbias: `weight_gradient` and `input_gradient`, at once or group by group.

    Each part of dy is then read for both while it is in the cache, and what Python does, the larger
    part where there is little to do, is done once.
    """
    F = weight.shape[3]
    w, todo = weight.reshape(-1, F), work(x.shape, window, F)
    if todo.groups == 1:
        return *gradients_at_once(x, w, dy, window, todo), channel_sum(dy)
    dx, dw = empty(x.shape, x.dtype), empty(weight.shape, x.dtype)
    with todo.blas:
        for i, (images, g, dimages) in enumerate(groups(todo, x, dy, dx)):
            g = g.reshape(-1, F)
            matmul(columns(images, window, F).T, g, dw.reshape(-1, F), adds=i > 0)
            send_back(g, w, dimages, window)
    return dx, dw, channel_sum(dy)


def gradients_at_once(x, w, dy, window, todo):
    """dx and dweight of one group."""
    C, g = x.shape[3], dy.reshape(-1, dy.shape[3])
    with todo.blas:
        dw = todo.multiply(todo.write(x, window, todo.shape).T, g, room(w.shape, x.dtype))
        dcols = todo.multiply(g, w.T, room(todo.shape, x.dtype))
    dw = dw.reshape(*window.kernel, C, -1)
    if each_pixel(window):
        return dcols.reshape(x.shape), dw
    dx = room(x.shape, x.dtype)
    add_back(dcols, dx, window, len(w))
    return dx, dw


def input_gradient(shape, weight, dy, window):
    """dx."""
    F = weight.shape[3]
    dx, w, todo = empty(shape, dy.dtype), weight.reshape(-1, F), work(shape, window, F)
    with todo.blas:
        for g, dimages in groups(todo, dy, dx):
            send_back(g.reshape(-1, F), w, dimages, window)
    return dx


def weight_gradient(x, dy, window):
    """dweight and dbias."""
    C, F = x.shape[3], dy.shape[3]
    dw, todo = empty((*window.kernel, C, F), x.dtype), work(x.shape, window, F)
    pieces = [(x, dy)] if todo.write in VIEWS else groups(todo, x, dy)
    with todo.blas:
        for i, (images, g) in enumerate(pieces):
            g = g.reshape(-1, F)
            matmul(columns(images, window, F).T, g, dw.reshape(-1, F), adds=i > 0)
    return dw, channel_sum(dy)


def send_back(g, w, dx, window):
    """dx from the gradient of the columns, g @ w.T."""
    if each_pixel(window):
        matmul(g, w.T, dx.reshape(-1, dx.shape[3]))
    else:
        add_back(matmul(g, w.T, empty((len(g), len(w)), dx.dtype)), dx, window, g.shape[1])


def groups(todo, *arrays):
    """The arrays in groups of images, with some GROUP numbers in their columns, or PIXELS rows."""
    if todo.groups == 1:
        return [arrays]
    N, count = len(arrays[0]), todo.groups
    cuts = [slice(k * N // count, (k + 1) * N // count) for k in range(count)]
    return [tuple(a[images] for a in arrays) for images in cuts]


def lone_taps(window):
    """Whether windows are single pixels of the image."""
    return window.kernel == (1, 1) and window.padding == ((0, 0), (0, 0))


def each_pixel(window):
    """Whether there is one window for each pixel of the image, which is all that it sees."""
    return lone_taps(window) and window.stride == (1, 1)


def even_pixels(shape, window):
    """Whether the columns are pixels of the image at a constant distance, which BLAS can step."""
    if not lone_taps(window):
        return False
    N, H, W, _ = shape
    (SH, SW), (OH, OW) = window.stride, window.out
    axes = [(n, step) for n, step in ((N, H * W), (OH, SH * W), (OW, SW)) if n > 1]
    return all(step == n * inner for (_, step), (n, inner) in pairwise(axes))


def columns(x, window, filters):
    """(N, H, W, C) -> (N*OH*OW, KH*KW*C), to be multiplied with so many `filters`.

    The rows may be further apart than they are long.
    """
    todo = work(x.shape, window, filters)
    return todo.write(x, window, todo.shape)


class Work(NamedTuple):
    """What the shapes of a convolution tell of its columns."""

    shape: tuple[int, int]
    write: Callable  # a function of images, window and shape that returns them
    groups: int  # into so many the images are cut
    multiply: Callable  # NumPy's product where there is little to do
    blas: AbstractContextManager


@functools.lru_cache(maxsize=4096)
def work(x_shape, window, filters):
    """The Work of images of that shape; Python would take longer to find it than to multiply."""
    N, *_, C = x_shape
    shape = N * math.prod(window.out), math.prod(window.kernel) * C
    pixels, taps = shape
    count = min(N, pixels * taps // GROUP + 1, pixels // PIXELS + 1)
    products = (pixels, taps, filters), (taps, pixels, filters), (pixels, filters, taps)
    multiply = matmul if any(much(*sizes) for sizes in products) else plain
    blas = alone(pixels * taps * filters)
    return Work(shape, writer(x_shape, window, filters, shape), count, multiply, blas)


def writer(x_shape, window, filters, shape):
    """Which of the functions below writes columns of that shape fastest."""
    runs, numbers = runs_of(x_shape[0], window), math.prod(shape)
    by_numpy = little(runs, shape, filters, NUMPY_WRITES)
    single = window.kernel[1] * x_shape[3] == 1  # numbers at a constant distance, NumPy's forte
    near = by_numpy and numbers <= FEW_NUMBERS
    if each_pixel(window):
        return image_itself
    if lone_taps(window) and (single or near or even_pixels(x_shape, window)):
        return pixels_of
    if single:
        return copied
    if not by_numpy:
        return by_threads
    border = window.padding != ((0, 0), (0, 0)) and window.kernel[1] <= x_shape[2]
    few = numbers + math.prod(x_shape) < FEW_BORDERED
    return by_one_thread if border and not few else copied


def image_itself(x, _, shape):
    """The image."""
    return x.reshape(shape)


def pixels_of(x, window, shape):
    """Pixels of the image: a view, if they are at a constant distance, or NumPy's copy."""
    return windows(x, window).reshape(shape)


VIEWS = image_itself, pixels_of  # all images are taken at once, for views take no room


def copied(x, window, shape):
    """By NumPy."""
    found = windows(bordered(x, window.padding), window)
    cols = room(shape, x.dtype)
    cols.reshape(found.shape)[...] = found
    return cols


def by_one_thread(x, window, shape):
    """By the calling thread, which needs no border."""
    cols = room(shape, x.dtype)
    write_columns.alone(PARTS, x.reshape(-1), cols.reshape(-1), seen(x.shape, window))
    return cols


def by_threads(x, window, shape):
    """By the threads that multiply."""
    cols = empty(shape, x.dtype)
    write_columns(PARTS, x.reshape(-1), cols.reshape(-1), seen(x.shape, window))
    return cols


def room(shape, dtype):
    """Memory: NumPy's, where it finds it faster."""
    return (np.empty if math.prod(shape) <= FEW_NUMBERS else empty)(shape, dtype)


def bordered(x, padding):
    """`reference.conv.pad`, for zeros."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return x
    N, H, W, C = x.shape
    found = np.zeros((N, top + H + bottom, left + W + right, C), x.dtype)
    found[:, top : top + H, left : left + W] = x
    return found


def little(runs, shape, filters, times=ONE_READS):
    """Whether columns of so many runs, and of that shape, are one thread's work.

    Where several threads multiply, each had better write what it multiplies: what another core has
    written is fetched from there.
    """
    lines = runs + math.prod(shape) // LINE
    return lines < MANY_RUNS or (lines < times * MANY_RUNS and not much(*shape, filters))


def runs_of(N, window):
    """How many runs of contiguous numbers there are in the columns."""
    (KH, KW), (OH, OW) = window.kernel, window.out
    side_by_side = KH == 1 and window.stride[1] == KW
    return N * OH if side_by_side else N * OH * OW * KH


def windows(x, window):
    """(N, OH, OW, KH, KW, C), a view of an image with its border; see `reference/conv.py`."""
    N, _, _, C = x.shape
    SH, SW = window.stride
    n, h, w, c = x.strides
    return np.ndarray(
        (N, *window.out, *window.kernel, C), x.dtype, x, 0, (n, h * SH, w * SW, h, w, c)
    )


def add_back(dcols, dx, window, filters):
    """The transpose of `columns`: dx = the sum of what the windows of a pixel have for it."""
    if lone_taps(window) and (dx.size < FEW_GAPS or dx.shape[3] < WIDEST):
        dx[...] = 0
        windows(dx, window)[...] = dcols.reshape(len(dx), *window.out, 1, 1, -1)
        return
    runs = 2 * dcols.size // (window.kernel[1] * dx.shape[3])
    run = fold.alone if little(runs + dx.size // LINE, dcols.shape, filters) else fold
    run(PARTS, dcols.reshape(-1), dx.reshape(-1), seen(dx.shape, window))
