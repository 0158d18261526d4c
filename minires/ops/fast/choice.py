"""Whether a convolution is faster by the tiles of `direct.py` or by BLAS on `columns.py`.

The tiles lose where their registers would be half empty (few filters, a 2x2 image), where weights
are many and pixels few, so that packing them takes longer than using them, and where there is so
little to do that calls are the larger part. BLAS loses where its matrices are narrow, and where
the runs that the columns are copied in are short. So a model of both decides, in microseconds: a
sum over amounts of work with fixed prices.

The prices are a fit (non-negative least squares, relative errors) to 332 convolutions, 287 of them
random: 1 to 256 images of up to 112x112, 1 to 512 channels and filters, kernels 1 to 11, strides 1
to 4; float32, 2 threads, AMD EPYC (Zen 4), 2026-11-30. The tiles' were then multiplied by 0.95
(forward) and 1.05 (gradients), with which fewer were chosen wrongly: what is chosen takes 1.02
times as long as the faster way in the mean. The prices of `weight_pays` are from 420 other random
ones, later that day. The scripts of the fits are not kept; `python -m benchmarks.shapes` shows how
well the choice does. On another machine both sides scale much alike,
and where it errs the two are often near each other.
"""

import math
from typing import NamedTuple

from minires.ops.fast import scatter
from minires.ops.fast.bands import Place, idle_rows, pixel_rows, steps
from minires.ops.fast.columns import MANY_RUNS, even_pixels, runs_of
from minires.ops.fast.direct import shares_of
from minires.ops.fast.jit import CHUNKS
from minires.ops.fast.panels import LITTLE, WIDEST

NEAR = 2**18  # numbers that stay in the L2 cache
ONE_OF_TWO = 1.15  # how much faster the tiles must be to be taken for the weights' gradient alone
SMALL_DOUBT = 1.15  # and where there is little to do, nearly all of it Python
NARROW = 64  # lines of a matrix below which each costs BLAS more
SPILL = 2**15  # numbers from which columns are written by several threads


def forward_pays(x_shape, w_shape, window, dtype, prepared=False):
    """Whether the tiles' forward is faster; it saves more than BLAS where it is prepared once."""
    n = amounts(x_shape, w_shape, window, dtype)
    wide = n.products * idle(n.filters) / used_rows(x_shape, w_shape, window, dtype.itemsize)
    tiles = 5 if prepared else 15 + 3.5e-4 * n.weights
    tiles += 1.7e-5 * wide + 1.2e-4 * wide / min(n.taps, NARROW)
    tiles += 5.7e-5 * n.inputs + 8.4e-6 * n.outputs + 2.1e-3 * n.pixels * n.share
    blas = 8.4 + 5.6e-3 * n.runs + 2.5e-4 * n.columns + 1.8e-5 * n.products
    for lines, price in (n.filters, 2.8e-5), (n.taps, 8.1e-5), (n.pixels, 1.1e-4):
        blas += price * n.products / min(lines, NARROW)
    return tiles * doubt(n) < blas


def weight_pays(x_shape, w_shape, window, dtype):
    """Whether the tiles' gradient of the weights is faster for sure, though not both gradients."""
    n = amounts(x_shape, w_shape, window, dtype)
    tiles = 12 + 7e-5 * n.copies + 1.4e-4 * max(0, n.copies - NEAR) + 2e-5 * n.tiled
    tiles += 7.2e-5 * n.inputs + 7e-5 * n.outputs + 2.1e-3 * n.pixels * n.share
    blas = 11 + 6.8e-3 * n.runs + 1.4e-4 * n.columns + 1.2e-4 * n.outputs + 9.3e-5 * n.weights
    for lines, price in (1, 2.1e-5), (n.taps, 3.1e-5), (n.filters, 1e-4):
        blas += price * n.products / min(lines, NARROW)
    return tiles * ONE_OF_TWO < blas


def backward_pays(x_shape, w_shape, window, dtype):
    """Whether the tiles' gradients are faster."""
    n = amounts(x_shape, w_shape, window, dtype)
    if scatter.pays(x_shape, window, dtype):
        tiles = scattered(n, w_shape, window)
    else:
        tiles = gathered(n, x_shape, w_shape, window)
    blas = 21 + 1.4e-2 * n.runs + 6.6e-4 * n.columns + 3.7e-4 * n.outputs + 8e-5 * n.inputs
    return tiles * doubt(n) < blas + 6e-4 * n.weights + 4.2e-5 * n.products


def gathered(n, x_shape, w_shape, window):
    """The price of both gradients in `direct.py`."""
    (KH, KW, C, _), (SH, SW) = w_shape, window.stride
    phases, wide = min(KH, SH) * min(KW, SW), idle(C)
    seen = n.products * wide * math.prod(x_shape[:3]) / (SH * SW * n.pixels)  # zeros around dy, too
    price = 26 + 10 * phases + 1.8e-3 * n.weights * wide + 1.15e-4 * n.copies + 2.3e-5 * n.tiled
    price += 2.1e-5 * seen + n.inputs * (2e-4 + 1e-4 * wide) + 1.7e-4 * n.outputs
    return price + 7e-4 * n.pixels * n.share


def scattered(n, w_shape, window):
    """That of the weights' in `direct.py` and the image's in `scatter.py`."""
    _, KW, C, F = w_shape
    rows = 1 / (1 - idle_rows(window.out[1]))
    adds = n.products / F * idle(KW * C) * rows
    price = 49 + 2.3e-5 * (adds * F + n.tiled) + 1.9e-4 * adds
    return price + 3e-4 * n.inputs + 1.65e-4 * n.outputs


class Amounts(NamedTuple):
    """Of what there is how much in a convolution."""

    pixels: int  # of the output
    taps: int
    filters: int
    weights: int
    inputs: int
    outputs: int
    share: float  # of the work that one thread does
    products: float  # that one thread computes; in float64 each counts twice
    tiled: float  # those of the weights' gradient in whole tiles
    copies: int  # numbers in the copies of that gradient
    runs: float  # of numbers that are copied into the columns, if there are any, by one thread
    columns: float  # numbers in them


def amounts(x_shape, w_shape, window, dtype):
    """The Amounts."""
    (KH, KW, C, filters), pixels = w_shape, x_shape[0] * math.prod(window.out)
    taps = KH * KW * C
    runs, columns = runs_of(x_shape[0], window), pixels * taps
    if even_pixels(x_shape, window):
        runs = columns = 0
    share = 1 if pixels * taps * filters < LITTLE else 1 / 2
    products = pixels * taps * filters * share * dtype.itemsize / 4
    row, padded, shares = shares_of(w_shape, pixels, dtype)
    return Amounts(
        *(pixels, taps, filters, taps * filters, math.prod(x_shape), pixels * filters, share),
        products=products,
        tiled=products * idle(filters) * row / (KW * C),
        copies=KH * row * padded * -(-CHUNKS // shares),
        runs=runs if runs < 2 * MANY_RUNS else runs / 2 + MANY_RUNS,
        columns=columns if columns < SPILL else columns / 2,
    )


def doubt(n):
    """By how much the tiles must be ahead, for the model errs."""
    return SMALL_DOUBT if n.share == 1 else 1


def idle(n):
    """How many times as many lanes are computed as are wanted for n channels or filters."""
    return -(-n // WIDEST) * WIDEST / n


def used_rows(x_shape, w_shape, window, itemsize):
    """The share of a tile's rows that the forward uses."""
    (N, H, W), window = pixel_rows(x_shape, window)
    (top, _), (left, _) = window.padding
    place = Place(top, left, *window.out, 0, 1, 1)
    y_shape = N, *window.out, w_shape[3]
    s = steps((N, H, W, w_shape[2]), window.kernel, y_shape, window.stride, place, itemsize)
    return 1 - idle_rows((s.OW, s.band, s.group)[s.axis])
