"""Whether a convolution is faster by the tiles of `direct.py` or by BLAS on `columns.py`.

The tiles lose where their registers would be half empty (few filters, a 2x2 image), where weights
are many and pixels few, so that packing them takes longer than using them, and where there is so
little to do that calls are the larger part. BLAS loses where its matrices are narrow, and where
the runs that the columns are copied in are short. So a model of both decides, in microseconds: a
sum over amounts of work with fixed prices.

The prices are a fit (non-negative least squares, relative errors) to 287 random convolutions: 1 to
256 images of up to 57x57, 1 to 512 channels and filters, kernels 1 to 11, strides 1 to 4; float32,
2 threads, AMD EPYC (Zen 4), 2026-11-30. The tiles' were then multiplied by 0.95 (forward) and 1.15
(gradients), with which the fewest were chosen wrongly: what is chosen takes 1.01 and 1.04 times as
long as the faster way in the mean. The script of the fit is not kept; `python -m benchmarks.shapes`
shows how well the choice does. On another machine both sides scale much alike, and where it errs
the two are often near each other.
"""

import math
from typing import NamedTuple

from minires.ops.fast.bands import Place, idle_rows, pixel_rows, steps
from minires.ops.fast.columns import MANY, lone_taps
from minires.ops.fast.panels import LITTLE, WIDEST

NARROW = 64  # lines of a matrix below which each costs BLAS more
SPILL = 2**15  # numbers from which columns are written by several threads


def forward_pays(x_shape, w_shape, window, itemsize):
    """Whether the tiles' forward is faster."""
    n = amounts(x_shape, w_shape, window, itemsize)
    wide = n.products * busy(n.filters) / used_rows(x_shape, w_shape, window, itemsize)
    tiles = 15 + 3.5e-4 * n.weights + 1.7e-5 * wide + 1.2e-4 * wide / min(n.taps, NARROW)
    tiles += 5.7e-5 * n.inputs + 8.4e-6 * n.outputs + 2.1e-3 * n.pixels * n.share
    blas = 8.4 + 5.6e-3 * n.runs + 2.5e-4 * n.columns + 1.8e-5 * n.products
    for lines, price in (n.filters, 2.8e-5), (n.taps, 8.1e-5), (n.pixels, 1.1e-4):
        blas += price * n.products / min(lines, NARROW)
    return tiles < blas


def backward_pays(x_shape, w_shape, window, itemsize):
    """Whether the tiles' gradients are faster."""
    n = amounts(x_shape, w_shape, window, itemsize)
    idle = busy(x_shape[3])
    tiles = 47 + 0.85 * math.prod(window.stride) + 2.8e-3 * n.weights + 2.2e-4 * n.outputs
    tiles += n.products * (3.1e-5 * busy(n.filters) + 1.4e-5 * idle)
    tiles += n.inputs * (1.2e-4 + 1.4e-4 * idle) + 2.1e-5 * n.pixels * n.share * n.taps * idle
    blas = 21 + 1.9e-2 * n.runs + 6.1e-4 * n.columns + 3.8e-4 * n.outputs + 9.1e-5 * n.inputs
    blas += 2.7e-4 * n.weights + n.products * (3.8e-5 + 4.0e-4 / min(n.pixels, NARROW))
    return tiles < blas


class Amounts(NamedTuple):
    """Of what there is how much in a convolution."""

    pixels: int  # of the output
    taps: int
    filters: int
    weights: int
    inputs: int
    outputs: int
    share: float  # of the work that one thread does
    products: float  # that one thread computes; in float32, or as many more as they take longer
    runs: float  # of numbers that are copied into the columns, if there are any, by one thread
    columns: float  # numbers in them


def amounts(x_shape, w_shape, window, itemsize):
    """The Amounts."""
    weights, filters, pixels = math.prod(w_shape), w_shape[3], x_shape[0] * math.prod(window.out)
    taps, products = weights // filters, weights * pixels
    runs, columns = pixels * window.kernel[0], pixels * taps
    if lone_taps(window) and window.stride == (1, 1):
        runs = columns = 0
    share = 1 if products < LITTLE else 1 / 2
    return Amounts(
        *(pixels, taps, filters, weights, math.prod(x_shape), pixels * filters, share),
        products=products * share * itemsize / 4,
        runs=runs if runs < 2 * MANY else runs / 2 + MANY,
        columns=columns if columns < SPILL else columns / 2,
    )


def busy(n):
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
