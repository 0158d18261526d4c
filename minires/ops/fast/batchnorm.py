"""Batch normalisation, and the kernels with which `fused.py` adds a residual sum and a ReLU.

Nothing here computes much; the time goes into reading and writing images. So each pass reads what
it needs once and does all it can with it:

    forward    pass 1: mean and variance          pass 2: y = relu((x - mean) * scale + beta + res)
    backward   pass 1: sum dy, sum dy (x - mean)  pass 2: dx

with the ReLU's mask computed again from x, or read from y after a residual sum. Pass 1 of the
forward is left out where the convolution has measured its output (`epilogue.py`).

Registers hold channels. A line is the smallest number of whole pixels that fills whole registers,
one pixel if C is a multiple of the register's width; coefficients are repeated to a line. A run of
lines is gone through register by register of the line, so that coefficients and sums stay in
registers. Sums run over 16 or 32 numbers in the dtype of x, several side by side; everything above
is added in float64. (In `conv_norm.py` over 64, at the right
edge of an image up to 192.)

Two-pass variance from one pass over memory: a run stays in the L1 cache, so its mean and then the
squares around that mean cost one read; runs are joined by the formula of Chan.

Measured (`python -m benchmarks.roofline`; AMD EPYC, Zen 4, 2 cores, 2026-11-24): 0.42 ms forward
for 128 images of 32x32x16, where a copy takes 0.1. Before, with coefficients and sums in arrays of
the length of a line, the same command gave 0.83.

References
----------
Chan, Golub and LeVeque (1983), The American Statistician 37, 242-247: joining means and variances.
"""

import functools
import math

import numpy as np

from minires.checks import expect_array, format_shape
from minires.ops import reference
from minires.ops.fast.epilogue import join
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.panels import (
    BETA,
    CONSTANT,
    MEAN,
    SCALE,
    SLOPE,
    affine,
    affine_back,
    panel_width,
    spread,
)
from minires.ops.fast.simd import lane, lanes, load, relu, same, store, where_positive
from minires.ops.reference.batchnorm import BatchNormCache

RUN = 64  # lines, in four sums of 16 numbers


def covered(x, gamma):
    """Whether these kernels apply."""
    return x.dtype == gamma.dtype and x.dtype in (np.float32, np.float64) and x.size > 0


def batchnorm_forward(x, gamma, beta, *, eps, moments=None):
    """y = gamma * xhat + beta with the statistics of the batch; see `reference`."""
    if not covered(x, gamma):
        return reference.batchnorm_forward(x, gamma, beta, eps=eps, moments=moments)
    return training_forward(x, gamma, beta, eps, normalise, moments=moments)


def batchnorm_backward(dy, cache):
    """Gradients of `batchnorm_forward`; see `reference`."""
    if not covered(cache.x, cache.gamma) or dy.dtype != cache.x.dtype:
        return reference.batchnorm_backward(dy, cache)
    x, dy = np.ascontiguousarray(cache.x), np.ascontiguousarray(dy)
    return training_backward(dy, cache._replace(x=x), cache.gamma, dy_sums, dx_plain)


def batchnorm_inference_forward(x, gamma, beta, mean, var, *, eps):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta for given statistics; see `reference`."""
    if not covered(x, gamma):
        return reference.batchnorm_inference_forward(x, gamma, beta, mean, var, eps=eps)
    return inference_forward(x, gamma, beta, mean, var, eps, normalise)


def batchnorm_inference_backward(dy, cache):
    """Gradients of `batchnorm_inference_forward`; see `reference`."""
    x, gamma, _, _, rstd = cache
    if not covered(x, gamma) or dy.dtype != x.dtype:
        return reference.batchnorm_inference_backward(dy, cache)
    expect_array("batchnorm_inference_backward", "dy", dy, x.shape)
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    lines = backward_lines(cache, gamma)
    dgamma, dbeta = parameter_gradients(dy_sums, (x, dy, dy, dy), rstd, lines)
    lines[CONSTANT:] = 0  # no path leads through the statistics
    dx = empty(x.shape, x.dtype)
    over_lines(dx_plain, PARTS, (x, dy, dx), x.shape[-1], lines)
    return dx, dgamma, dbeta


# ---- the parts


def training_forward(x, gamma, beta, eps, apply, residual=None, moments=None):
    """Statistics, unless they are there, then one of the `normalise` kernels."""
    x = np.ascontiguousarray(x)
    mean, var = channel_moments(x) if moments is None else moments
    return inference_forward(x, gamma, beta, mean, var, eps, apply, residual)


def channel_moments(x):
    """Mean and biased variance over every axis but the last."""
    C = x.shape[-1]
    parts, counts = np.zeros((CHUNKS, 2, line_length(C, x.dtype))), np.zeros(CHUNKS, np.int64)
    measure(CHUNKS, x.reshape(-1), C, parts, counts)
    return join(parts[:, :, :C], counts, x.dtype)


def inference_forward(x, gamma, beta, mean, var, eps, apply, residual=None):
    """One of the `normalise` kernels."""
    x = np.ascontiguousarray(x)
    lines, rstd = forward_lines(x, gamma, beta, mean, var, eps)
    y = empty(x.shape, x.dtype)
    other = x
    if residual is not None:
        expect_array("batchnorm_add_relu", "residual", residual, x.shape, dtype=x.dtype, like="x")
        other = np.ascontiguousarray(residual)
    over_lines(apply, PARTS, (x, other, y), rstd.size, lines)
    return y, BatchNormCache(x, gamma, mean, var, rstd)


def forward_lines(x, gamma, beta, mean, var, eps):
    """The coefficients (3, length) of a forward pass, and rstd (C,)."""
    C, dtype = x.shape[-1], x.dtype
    lines, rstd = np.empty((3, line_length(C, dtype)), dtype), np.empty(C, dtype)
    given = contiguous(dtype, C, gamma, beta, mean, var)
    prepare_forward.alone(1, *given, float(eps), rstd, lines)
    return lines, rstd


def training_backward(dy, cache, beta, sums, apply, y=None, parts=None):
    """dx, dgamma, dbeta by a pair of kernels: the sums over the batch, then dx.

    With `y`, the output of a ReLU behind the sum, also the gradient of that sum, second. `parts`,
    if given, are those of the sums over the batch.
    """
    x, dsum = cache.x, dy if y is None else empty(dy.shape, dy.dtype)
    lines, dgamma, dbeta = sums_over_batch(dy, cache, beta, sums, y, dsum, parts)
    dx = empty(x.shape, x.dtype)
    over_lines(apply, PARTS, (x, dsum, dx), x.shape[-1], lines)
    return (dx, dgamma, dbeta) if y is None else (dx, dsum, dgamma, dbeta)


def sums_over_batch(dy, cache, beta, sums, y=None, dsum=None, parts=None):
    """The first half of `training_backward`: the coefficients of the second, dgamma, dbeta.

    With `y`, dsum is written. `parts` (n, 2, length of a line), if given, are added up in place of
    a pass over the images.
    """
    x, lines = cache.x, backward_lines(cache, beta)
    expect_array("batchnorm_backward", "dy", dy, x.shape, dtype=x.dtype, like="x")
    if parts is not None:
        if parts.ndim != 3 or parts.shape[1:] != (2, lines.shape[1]):
            wanted = format_shape(("parts", 2, lines.shape[1]))
            raise ValueError(
                f"batchnorm_backward expects sums of shape {wanted}, "
                f"got {format_shape(parts.shape)}"
            )
        return lines, *total_gradients(parts, x, cache.rstd, lines)
    arrays = x, dy, *((dy, dy) if y is None else (y, dsum))
    return lines, *parameter_gradients(sums, arrays, cache.rstd, lines)


def backward_lines(cache, beta):
    """The coefficients (5, length) of a backward pass, of which its sums complete the last two."""
    x, gamma, mean, _, rstd = cache
    C = x.shape[-1]
    lines = np.empty((5, line_length(C, x.dtype)), x.dtype)
    prepare_backward.alone(1, *contiguous(x.dtype, C, gamma, beta, mean, rstd), lines)
    return lines


def parameter_gradients(sums, arrays, rstd, lines):
    """dgamma and dbeta (C,) by a kernel that sums up; completes the lines."""
    parts, writes = np.zeros((CHUNKS, 2, lines.shape[1])), arrays[3] is not arrays[1]
    over_lines(sums, CHUNKS, arrays, arrays[0].shape[-1], lines, parts, writes=writes)
    return total_gradients(parts, arrays[0], rstd, lines)


def total_gradients(parts, x, rstd, lines):
    """dgamma and dbeta (C,) from the parts of their sums; completes the lines."""
    C = x.shape[-1]
    found = np.empty((2, C), x.dtype)
    add_parts.alone(1, parts, x.size // C, *contiguous(x.dtype, C, rstd), found, lines)
    return found[0], found[1]


def contiguous(dtype, C, *arrays):
    """Coefficients as kernels take them: (C,), or what NumPy would make (C,) of."""
    return [
        np.ascontiguousarray(a if a.shape == (C,) else np.broadcast_to(a, (C,)), dtype)
        for a in arrays
    ]


def over_lines(run, n, arrays, C, lines, *more, writes=True):
    """run(n, *arrays, lines, *more) on the whole lines of arrays (..., C); it `writes` to the last.

    What is left behind the last line is filled up with zeros and becomes one, too.
    """
    arrays, size, length = [a.reshape(-1) for a in arrays], arrays[0].size, lines.shape[1]
    left = size % length
    if left == 0:
        run(n, *arrays, lines, *more)
        return
    if left < size:
        run(n, *(a[: size - left] for a in arrays), lines, *more)
    rest = np.zeros((len(arrays), length), lines.dtype)
    for a, filled in zip(arrays, rest, strict=True):
        filled[:left] = a[size - left :]
    run.alone(n, *rest, lines, *more)
    if writes:
        arrays[-1][size - left :] = rest[-1, :left]


@functools.cache
def line_length(C, dtype):
    """Numbers in the fewest whole pixels that fill whole registers."""
    return math.lcm(C, panel_width(dtype) // 2)


# ---- coefficients, each repeated to the length of a line


@inlined
def repeat(lines, c, C, mean, scale, beta):
    """The first three coefficients of channel c, all along the lines."""
    for i in range(c, lines.shape[1], C):
        lines[MEAN, i], lines[SCALE, i], lines[BETA, i] = mean, scale, beta


@kernel
def prepare_forward(_, gamma, beta, mean, var, eps, rstd, lines):
    """rstd = 1 / sqrt(var + eps), and the lines of a forward pass."""
    C = rstd.size
    for c in range(C):
        rstd[c] = 1 / np.sqrt(var[c] + eps)
        repeat(lines, c, C, mean[c], gamma[c] * rstd[c], beta[c])


@kernel
def prepare_backward(_, gamma, beta, mean, rstd, lines):
    """The lines of a backward pass but for what its sums will say."""
    C = rstd.size
    for c in range(C):
        repeat(lines, c, C, mean[c], gamma[c] * rstd[c], beta[c])


@kernel
def add_parts(_, parts, M, rstd, found, lines):
    """dgamma, dbeta and the rest of the lines from the parts of the sums, added in their order."""
    C = rstd.size
    for c in range(C):
        total = product = 0.0
        for k in range(len(parts)):
            for i in range(c, lines.shape[1], C):
                total += parts[k, 0, i]
                product += parts[k, 1, i]
        found[0, c], found[1, c] = product * rstd[c], total
        for i in range(c, lines.shape[1], C):
            lines[CONSTANT, i], lines[SLOPE, i] = total / M, product * rstd[c] * rstd[c] / M


@inlined
def lines_of(x, length, k, parts):
    """The lines of part k, first and last; what is left behind the last of all is no line."""
    lines = x.size // length
    return k * lines // parts, (k + 1) * lines // parts


# ---- forward


@inlined
def run_sum(x, i, n, length):
    """x[i] + x[i + length] + ..., n registers, as four sums side by side."""
    s = t = u = w = same(x, 0)
    for p in range(0, n - 3, 4):
        j = i + p * length
        s, t = s + load(x, j), t + load(x, j + length)
        u, w = u + load(x, j + 2 * length), w + load(x, j + 3 * length)
    for p in range(n - n % 4, n):
        s = s + load(x, i + p * length)
    return (s + t) + (u + w)


@inlined
def run_squares(x, i, n, length, shift):
    """The sums of d and of d * d for d = x - shift."""
    s = t = q = r = same(x, 0)
    for p in range(0, n - 1, 2):
        j = i + p * length
        d, e = load(x, j) - shift, load(x, j + length) - shift
        s, t, q, r = s + d, t + e, q + d * d, r + e * e
    for p in range(n - n % 2, n):
        d = load(x, i + p * length) - shift
        s, q = s + d, q + d * d
    return s + t, q + r


@kernel
def measure(k, x, C, parts, counts):
    """Mean and squares of part k, (2, length), of which only the first C columns are the result."""
    length, part = parts.shape[2], parts[k]
    start, stop = lines_of(x, length, k, len(parts))
    v = lanes(x)
    for first in range(start, stop, RUN):
        n, seen = min(RUN, stop - first), first - start
        for f in range(0, length, v):
            i = first * length + f
            shift = run_sum(x, i, n, length) / same(x, n)
            total, squares = run_squares(x, i, n, length, shift)
            for c in range(v):
                sums = lane(shift, c), lane(total, c), lane(squares, c)
                join_run(sums, n, part, f + c, seen)
    counts[k] = join_pixels(part, C, stop - start)
    if k == len(parts) - 1:
        counts[k] = join_rest(x, x.size // length * length, part, C, counts[k])


@inlined
def join_run(sums, n, part, c, seen):
    """Join n numbers, as `run_squares` sums them up, with the `seen` ones of column c of part."""
    shift, total, squares = sums[0], np.float64(sums[1]), np.float64(sums[2])
    off = shift + total / n - part[0, c]
    part[1, c] += squares - total * total / n + off * off * seen * n / (seen + n)
    part[0, c] += off * n / (seen + n)


@inlined
def join_pixels(part, C, lines):
    """Join the pixels of a line in the first C columns; returns how many numbers each holds."""
    seen = lines
    for i in range(C, part.shape[1], C):
        for c in range(C if lines else 0):
            off = part[0, i + c] - part[0, c]
            part[1, c] += part[1, i + c] + off * off * seen * lines / (seen + lines)
            part[0, c] += off * lines / (seen + lines)
        seen += lines
    return seen


@inlined
def join_rest(x, start, part, C, seen):
    """Join the pixels behind the last line, one by one."""
    for i in range(start, x.size, C):
        for c in range(C):
            off = x[i + c] - part[0, c]
            part[1, c] += off * off * seen / (seen + 1)
            part[0, c] += off / (seen + 1)
        seen += 1
    return seen


@inlined
def keep(z, other, i):
    return z


@inlined
def rectify(z, other, i):
    return relu(z)


@inlined
def add_rectify(z, other, i):
    return relu(z + load(other, i))


def normaliser(finish):
    """The kernel of the forward's second pass, with what is done to each register at its end."""

    @kernel
    def normalise(k, x, other, y, lines):
        """y = finish((x - mean) * scale + beta, other)."""
        length, v = lines.shape[1], lanes(x)
        start, stop = lines_of(x, length, k, PARTS)
        for first in range(start, stop, RUN):
            for f in range(0, length, v):
                mean, scale, beta = affine(lines, f)
                for p in range(first, min(first + RUN, stop)):
                    i = p * length + f
                    store(y, i, finish((load(x, i) - mean) * scale + beta, other, i))

    return normalise


normalise, normalise_relu = normaliser(keep), normaliser(rectify)
normalise_add_relu = normaliser(add_rectify)


# ---- backward: d is dy behind the ReLU


@inlined
def through(dy, z, y, out, i):
    return dy


@inlined
def where_z_positive(dy, z, y, out, i):
    return where_positive(z, dy)


@inlined
def where_y_positive(dy, z, y, out, i):
    d = where_positive(load(y, i), dy)
    store(out, i, d)
    return d


def adder(select):
    """What adds a register to the sums of the backward's first pass, with what lets dy through."""

    @inlined
    def add(s, q, arrays, i, coefficients):
        x, dy, y, out = arrays
        mean, scale, beta = coefficients
        xmu = load(x, i) - mean
        d = select(load(dy, i), xmu * scale + beta, y, out, i)
        return s + d, q + d * xmu

    return add


add_masked = adder(where_z_positive)


def summer(add):
    """The kernel of the backward's first pass."""

    @kernel
    def sums(k, x, dy, y, out, lines, parts):
        """parts[k] += sum of d, sum of d * (x - mean)."""
        length, v, arrays = lines.shape[1], lanes(x), (x, dy, y, out)
        start, stop = lines_of(x, length, k, len(parts))
        for first in range(start, stop, RUN):
            n = min(RUN, stop - first)
            for f in range(0, length, v):
                i = first * length + f
                coefficients = affine(lines, f)
                s1 = q1 = s2 = q2 = s3 = q3 = s4 = q4 = same(x, 0)
                for _ in range(n // 4):
                    s1, q1 = add(s1, q1, arrays, i, coefficients)
                    s2, q2 = add(s2, q2, arrays, i + length, coefficients)
                    s3, q3 = add(s3, q3, arrays, i + 2 * length, coefficients)
                    s4, q4 = add(s4, q4, arrays, i + 3 * length, coefficients)
                    i += 4 * length
                for _ in range(n % 4):
                    s1, q1 = add(s1, q1, arrays, i, coefficients)
                    i += length
                s, q = (s1 + s2) + (s3 + s4), (q1 + q2) + (q3 + q4)
                for c in range(v):
                    parts[k, 0, f + c] += lane(s, c)
                    parts[k, 1, f + c] += lane(q, c)

    return sums


dy_sums, masked_sums = summer(adder(through)), summer(add_masked)
residual_sums = summer(adder(where_y_positive))


def spreader(select):
    """The kernel of the backward's second pass, with what lets dy through."""

    @kernel
    def normalise_backward(k, x, dy, dx, lines):
        """dx = scale * (d - constant - (x - mean) * slope)."""
        length, v = lines.shape[1], lanes(x)
        start, stop = lines_of(x, length, k, PARTS)
        for first in range(start, stop, RUN):
            for f in range(0, length, v):
                mean, scale, beta, constant, slope = affine_back(lines, f)
                for p in range(first, min(first + RUN, stop)):
                    i = p * length + f
                    xmu = load(x, i) - mean
                    d = select(load(dy, i), xmu * scale + beta, dy, dx, i)
                    store(dx, i, spread(xmu, d, scale, constant, slope))

    return normalise_backward


dx_plain, dx_masked = spreader(through), spreader(where_z_positive)
