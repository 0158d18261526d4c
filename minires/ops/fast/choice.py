"""Whether a convolution is faster by the tiles of `direct.py` or by BLAS on `columns.py`.

The tiles lose where their registers would be half empty (few filters, a 2x2 image), where weights
are many and pixels few, so that packing them takes longer than using them, and where there is so
little to do that calls are the larger part. BLAS loses where its matrices are narrow, and where
the runs that the columns are copied in are short. So a model of both decides, in microseconds: a
sum over amounts of work with fixed prices.

The prices are fits (non-negative least squares, relative errors) to random convolutions: 1 to 256
images, 1 to 512 channels and filters, kernels 1 to 11, strides 1 to 4; float32, 2 threads. The
scripts of the fits are not kept; `python -m benchmarks.shapes` shows how well the choice does.

- OF_ZEN4: an AMD EPYC with registers of 512 bits. The gradients' are from 332 and 420 convolutions
  (2026-11-30); the tiles' were multiplied by 1.05, with which fewer were chosen wrongly. The
  forward's are from 436 since its tiles ask for their output ahead (2026-12-01): what is chosen
  takes 1.02 times as long as the faster way in the mean, 1.1 times or longer in 28 cases.
- OF_INTEL: the forward on an Intel Xeon (AVX-512, AMX; 808 convolutions, 2026-12-01). With Zen 4's
  prices what was chosen took 1.12 times as long as the faster way in the mean; with prices fitted
  to the other half of the convolutions 1.05. For the gradients a fit gained nothing.
- OF_256_BITS: another AMD EPYC (Zen 3; 773 convolutions, 2026-12-01), also for narrower registers.
  With Zen 4's prices 56 of 1,546 passes took 1.1 times as long as the reference or longer; with
  prices fitted to the other half 27.
"""

import math
from typing import NamedTuple

from minires.ops.fast import scatter
from minires.ops.fast.bands import Place, idle_rows, pixel_rows, steps
from minires.ops.fast.columns import MANY_RUNS, even_pixels, runs_of
from minires.ops.fast.direct import shares_of
from minires.ops.fast.jit import CHUNKS
from minires.ops.fast.panels import LITTLE, WIDEST
from minires.ops.fast.simd import AMD, BITS

NEAR = 2**18  # numbers that stay in the L2 cache
ONE_OF_TWO = 1.15  # how much faster the tiles must be to be taken for the weights' gradient alone
SMALL_DOUBT = 1.15  # and where there is little to do, nearly all of it Python
NARROW = 64  # lines of a matrix below which each costs BLAS more
SPILL = 2**15  # numbers from which columns are written by several threads


class Prices(NamedTuple):
    """Microseconds for one of each amount, in the order in which the functions below add them."""

    tiles: tuple[float, ...]  # forward
    blas: tuple[float, ...]
    prepared: float  # what is left of the first two of `tiles` if weights are packed once
    weight_tiles: tuple[float, ...]  # the gradient of the weights
    weight_blas: tuple[float, ...]
    gathered: tuple[float, ...]  # both gradients, in `direct.py`
    scattered: tuple[float, ...]  # in `direct.py` and `scatter.py`
    both_blas: tuple[float, ...]


def priced(prices, *amounts):
    """The sum of amounts times prices."""
    return sum(price * amount for price, amount in zip(prices, amounts, strict=True))


def per_line(n, *lines):
    """The products of a matrix, divided by how many lines it has in some direction."""
    return (n.products / min(count, NARROW) for count in lines)


def forward_pays(x_shape, w_shape, window, dtype, prepared=False):
    """Whether the tiles' forward is faster; it saves more than BLAS where it is prepared once."""
    n = amounts(x_shape, w_shape, window, dtype)
    wide = n.products * idle(n.filters) / used_rows(x_shape, w_shape, window, dtype.itemsize)
    once = (PRICES.prepared, 0) if prepared else PRICES.tiles[:2]
    work = wide, wide / min(n.taps, NARROW), n.inputs, n.outputs, n.pixels * n.share
    tiles = priced(once, 1, n.weights) + priced(PRICES.tiles[2:], *work)
    narrow = per_line(n, n.filters, n.taps, n.pixels)
    return tiles * doubt(n) < priced(PRICES.blas, 1, n.runs, n.columns, n.products, *narrow)


def weight_pays(x_shape, w_shape, window, dtype):
    """Whether the tiles' gradient of the weights is faster for sure, though not both gradients."""
    n = amounts(x_shape, w_shape, window, dtype)
    far = max(0, n.copies - NEAR)
    work = n.copies, far, n.tiled, n.inputs, n.outputs, n.pixels * n.share
    narrow = per_line(n, n.taps, n.filters)
    blas = n.runs, n.columns, n.outputs, n.weights, n.products, *narrow
    tiles = priced(PRICES.weight_tiles, 1, *work)
    return tiles * ONE_OF_TWO < priced(PRICES.weight_blas, 1, *blas)


def backward_pays(x_shape, w_shape, window, dtype):
    """Whether the tiles' gradients are faster."""
    n = amounts(x_shape, w_shape, window, dtype)
    if scatter.pays(x_shape, window, dtype):
        tiles = scattered(n, w_shape, window)
    else:
        tiles = gathered(n, x_shape, w_shape, window)
    blas = n.runs, n.columns, n.outputs, n.inputs, n.weights, n.products
    return tiles * doubt(n) < priced(PRICES.both_blas, 1, *blas)


def gathered(n, x_shape, w_shape, window):
    """The price of both gradients in `direct.py`."""
    (KH, KW, C, _), (SH, SW) = w_shape, window.stride
    phases, wide = min(KH, SH) * min(KW, SW), idle(C)
    images, H, W, _ = x_shape
    gradients = images * -(-H // SH) * -(-W // SW)  # pixels of dy that are read, zeros included
    seen = n.products * wide * gradients / n.pixels
    work = phases, n.weights * wide, n.copies, n.tiled, seen
    numbers = n.inputs, n.inputs * wide, n.outputs, n.pixels * n.share
    return priced(PRICES.gathered, 1, *work, *numbers)


def scattered(n, w_shape, window):
    """That of the weights' in `direct.py` and the image's in `scatter.py`."""
    _, KW, C, F = w_shape
    rows = 1 / (1 - idle_rows(window.out[1]))
    adds = n.products / F * idle(KW * C) * rows
    return priced(PRICES.scattered, 1, adds * F + n.tiled, adds, n.inputs, n.outputs)


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
    if KW * C == 1:
        runs = 0  # NumPy copies single numbers as it does long runs
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


OF_ZEN4 = Prices(
    tiles=(15, 2.8e-4, 1.9e-5, 1.2e-4, 3.5e-5, 6.6e-5, 2.6e-3),
    blas=(8.2, 5.6e-3, 1.3e-4, 2.2e-5, 3.5e-5, 6.8e-5, 5.6e-5),
    prepared=5,
    weight_tiles=(12, 7e-5, 1.4e-4, 2e-5, 7.2e-5, 7e-5, 2.1e-3),
    weight_blas=(11, 6.8e-3, 1.4e-4, 1.2e-4, 9.3e-5, 2.1e-5, 3.1e-5, 1e-4),
    gathered=(26, 10, 1.8e-3, 1.15e-4, 2.3e-5, 2.1e-5, 2e-4, 1e-4, 1.7e-4, 7e-4),
    scattered=(49, 2.3e-5, 1.9e-4, 3e-4, 1.65e-4),
    both_blas=(21, 1.4e-2, 6.6e-4, 3.7e-4, 8e-5, 6e-4, 4.2e-5),
)
OF_INTEL = OF_ZEN4._replace(
    tiles=(26, 6.6e-4, 3.1e-5, 2.1e-4, 1.4e-4, 1.1e-4, 1.2e-3),
    blas=(16, 1.2e-2, 4.9e-4, 1.7e-5, 2.7e-4, 1.4e-3, 3.2e-4),
    prepared=9,
)
OF_256_BITS = Prices(
    tiles=(25, 5.5e-4, 2.4e-5, 1.7e-4, 7.2e-5, 1.9e-4, 4.7e-3),
    blas=(13, 9.4e-3, 4.3e-4, 1.5e-5, 2e-4, 3.6e-4, 3.7e-4),
    prepared=8,
    weight_tiles=(26, 1.5e-4, 1.9e-4, 3.7e-5, 9.8e-5, 1.7e-4, 0),
    weight_blas=(23, 9.9e-3, 4.8e-4, 4.4e-4, 2.8e-4, 2.3e-5, 0, 2.9e-4),
    gathered=(58, 14, 1.5e-3, 3.4e-4, 3.6e-5, 3.3e-5, 3e-4, 8.2e-5, 1.7e-4, 3.9e-3),
    scattered=(49, 2.8e-5, 5.8e-4, 8.5e-5, 8.6e-5),
    both_blas=(41, 2.2e-2, 1.2e-3, 6.1e-4, 2e-4, 6.1e-4, 5e-5),
)
PRICES = OF_256_BITS if BITS < 512 else OF_ZEN4 if AMD else OF_INTEL
