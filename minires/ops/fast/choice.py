"""Whether the direct kernels or the reference's matrix product are faster for a convolution.

The kernels lose where their registers would be half empty (few filters, a 2x2 image), where weights
are many and pixels few, so that packing them takes longer than using them, and where there is so
little to do that Python is the larger part. The reference loses where its products stay on one
thread for the sake of the kernels that follow (`blas.py`); where they do not it must be clearly
faster to be called. It loses where its columns are large, and where the runs that it
copies them in are short. In between a model of both decides, in microseconds: a sum over amounts of
work with fixed prices.

The prices are a fit (non-negative least squares, relative errors) to 230 random convolutions: 1 to
256 images of up to 57x57, 1 to 512 channels and filters, kernels 1 to 11, strides 1 to 4; float32,
2 threads, AMD EPYC (Zen 4), 2026-11. Half of its estimates are within a quarter of the measurement.
The script of the fit is not kept, and the price of a phase and the margins were set by hand since;
`python -m benchmarks.shapes` shows how well the choice does. On another machine both sides scale
much alike, and where it errs the two are often near each other.
"""

import math

from minires.ops.fast.bands import Place, idle_rows, pixel_rows, steps
from minires.ops.fast.blas import FEW, MANY
from minires.ops.fast.panels import LITTLE, WIDEST

SMALL_DOUBT = 1.15  # where there is little to do, nearly all of it Python
LOUD = 1.05  # how much faster BLAS's threads must be, which then get in the way of the kernels'


def forward_pays(x_shape, w_shape, window, itemsize):
    """Whether the direct kernel's forward is faster."""
    pixels, runs, columns = amounts(x_shape, window, w_shape[2])
    products = math.prod(w_shape) * pixels
    outputs = pixels * w_shape[3]
    wide = products * busy(w_shape[3]) / used_rows(x_shape, w_shape, window, itemsize)
    wide *= threads_share(products) * itemsize / 4
    kernel = 19 + 3.3e-4 * math.prod(w_shape) + 2.0e-5 * wide
    kernel += 1.0e-4 * math.prod(x_shape) + 1.2e-4 * outputs
    matrix = 13.5 + 3.7e-3 * runs + 3.7e-4 * columns + 3.3e-4 * outputs
    matrix += 1.2e-5 * products * blas_threads(products)
    return kernel * doubt(products) < matrix


def backward_pays(x_shape, w_shape, window, itemsize):
    """Whether the direct kernels' gradients are faster."""
    pixels, runs, columns = amounts(x_shape, window, w_shape[2])
    products, weights = math.prod(w_shape) * pixels, math.prod(w_shape)
    outputs, phases = pixels * w_shape[3], math.prod(window.stride)
    wide = products * (busy(w_shape[2]) + busy(w_shape[3])) / 2
    wide *= threads_share(products) * itemsize / 4
    kernel = 44 + 8 * phases + 2.1e-3 * weights + 3.1e-5 * wide
    kernel += 3.7e-4 * math.prod(x_shape) + 2.6e-4 * outputs
    matrix = 22 + 1.4e-2 * runs + 1.6e-3 * columns + 6.2e-4 * outputs
    matrix += 2.6e-5 * products * blas_threads(products)
    return kernel * doubt(products) < matrix


def amounts(x_shape, window, C):
    """Output pixels; runs of contiguous numbers and numbers in the columns, if they are written."""
    pixels = x_shape[0] * math.prod(window.out)
    if window.kernel == (1, 1) and window.stride == (1, 1):
        return pixels, 0, 0
    return pixels, pixels * window.kernel[0], pixels * math.prod(window.kernel) * C


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


def doubt(products):
    """By how much the kernel must be ahead: it must not be chosen for what the model errs by."""
    return 1 / LOUD if products >= MANY else 1 if products >= LITTLE else SMALL_DOUBT


def blas_threads(products):
    """How much slower the matrix product is on the one thread that `blas.py` leaves it."""
    return 2 if FEW < products < MANY else 1


def threads_share(products):
    """Little work stays on one thread."""
    return 1 if products < LITTLE else 1 / 2
