"""Batch normalisation, and the kernels with which `fused.py` adds a residual sum and a ReLU.

Nothing here computes much; the time goes into reading and writing images. So each pass reads what
it needs once and does all it can with it:

    forward    pass 1: mean and variance          pass 2: y = relu((x - mean) * scale + beta + res)
    backward   pass 1: sum dy, sum dy (x - mean)  pass 2: dx

with the ReLU's mask computed again from x, or read from y after a residual sum.

Two-pass variance from one pass over memory: a block of 16 lines stays in the cache, so its mean
and then the squares around that mean cost one read; blocks are joined by the formula of Chan.
Sums run over at most 16 numbers in the dtype of x, everything above in float64.

A line is a whole number of pixels, about 1,000 numbers, against which the coefficients of the
channels are repeated: one long loop that vectorises, whatever C is.

References
----------
Chan, Golub and LeVeque (1983), The American Statistician 37, 242-247: joining means and variances.
"""

import numpy as np

from minires.ops import reference
from minires.ops.fast.epilogue import join
from minires.ops.fast.jit import CHUNKS, PARTS, inlined, kernel
from minires.ops.fast.memory import empty
from minires.ops.reference.batchnorm import BatchNormCache

LINE = 1024  # numbers, about
BLOCK = 16  # lines


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
    if not covered(cache.x, cache.gamma):
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
    x, gamma, mean, _, rstd = cache
    if not covered(x, gamma):
        return reference.batchnorm_inference_backward(dy, cache)
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    dbeta, dxmu = add_parts(dy_sums, x, dy, dy, mean, gamma, gamma, dy)
    zero = np.zeros_like(gamma)  # no path leads through the statistics
    dx = empty(x.shape, x.dtype)
    dx_plain(PARTS, flat(x), flat(dy), mean, gamma * rstd, zero, zero, zero, flat(dx))
    return dx, (dxmu * rstd).astype(x.dtype), dbeta.astype(x.dtype)


# ---- the parts


def training_forward(x, gamma, beta, eps, apply, residual=None, moments=None):
    """Statistics, unless they are there, then one of the `normalise` kernels."""
    x = np.ascontiguousarray(x)
    mean, var = channel_moments(x) if moments is None else moments
    return inference_forward(x, gamma, beta, mean, var, eps, apply, residual)


def channel_moments(x):
    """Mean and biased variance over every axis but the last."""
    C = x.shape[-1]
    parts, counts = np.empty((CHUNKS, 2, C)), np.empty(CHUNKS, np.int64)
    measure(CHUNKS, flat(x), parts, counts)
    return join(parts, counts, x.dtype)


def inference_forward(x, gamma, beta, mean, var, eps, apply, residual=None):
    """One of the `normalise` kernels."""
    x = np.ascontiguousarray(x)
    rstd = 1 / np.sqrt(var + eps)
    y = empty(x.shape, x.dtype)
    other = x if residual is None else np.ascontiguousarray(residual)
    apply(PARTS, flat(x), flat(other), mean, gamma * rstd, np.ascontiguousarray(beta), flat(y))
    return y, BatchNormCache(x, gamma, mean, var, rstd)


def training_backward(dy, cache, beta, sums, apply, y=None):
    """dx, dgamma, dbeta by a pair of kernels: the sums over the batch, then dx.

    With `y`, the output of a ReLU behind the sum, also the gradient of that sum, second.
    """
    x, gamma, mean, _, rstd = cache
    M = x.size // x.shape[-1]
    scale = gamma * rstd
    dsum = dy if y is None else empty(dy.shape, dy.dtype)
    dbeta, dxmu = add_parts(sums, x, dy, dy if y is None else y, mean, scale, beta, dsum)
    dgamma = dxmu * rstd
    constant, slope = (dbeta / M).astype(x.dtype), (dgamma * rstd / M).astype(x.dtype)
    dx = empty(x.shape, x.dtype)
    beta = np.ascontiguousarray(beta)
    apply(PARTS, flat(x), flat(dsum), mean, scale, beta, constant, slope, flat(dx))
    sum_gradient = () if y is None else (dsum,)
    return dx, *sum_gradient, dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def add_parts(sums, x, dy, y, mean, scale, beta, out):
    """The two sums of a kernel, (C,) float64 each, its parts added in their order."""
    parts = np.empty((CHUNKS, 2, x.shape[-1]))
    beta = np.ascontiguousarray(beta)
    sums(CHUNKS, flat(x), flat(dy), flat(y), mean, scale, beta, flat(out), parts)
    return parts.sum(axis=0)


def flat(a):
    return a.reshape(-1)


@inlined
def line_length(C):
    """A whole number of pixels, about LINE numbers."""
    return C * max(1, LINE // C)


@inlined
def repeated(c, length):
    """(C,) -> (length,): the coefficient of each number of a line."""
    line = np.empty(length, c.dtype)
    for i in range(0, length, c.size):
        for j in range(c.size):
            line[i + j] = c[j]
    return line


@inlined
def fold(line, total):
    """total (C,) float64 = the sum of a line (length,) over its pixels."""
    for j in range(total.size):
        total[j] = 0
    for i in range(0, line.size, total.size):
        for j in range(total.size):
            total[j] += line[i + j]


# ---- forward


@inlined
def add_line(x, s):
    for j in range(min(x.size, s.size)):
        s[j] += x[j]


@inlined
def add_moments(x, shift, s, q):
    for j in range(min(x.size, s.size)):
        d = x[j] - shift[j]
        s[j] += d
        q[j] += d * d


@inlined
def block_moments(x, shift, s, q, t, total, squares):
    """The sum of a block and of its squares, around the mean that is left in `shift`."""
    length, C = s.size, total.size
    s[:] = 0
    for i in range(0, x.size, length):
        add_line(x[i : i + length], s)
    fold(s, total)
    for i in range(0, length, C):
        for c in range(C):
            shift[i + c] = total[c] / (x.size // C)
    s[:] = 0
    q[:] = 0
    for i in range(0, x.size, length):
        add_moments(x[i : i + length], shift, s, q)
    fold(s, total)
    fold(q, squares)


@inlined
def chunk_moments(x, mean, m2, length):
    """Mean and squared distance from it of a chunk of whole pixels, block by block."""
    C = mean.size
    shift, s, q = np.empty(length, x.dtype), np.empty(length, x.dtype), np.empty(length, x.dtype)
    total, squares = np.empty(C), np.empty(C)
    count = 0
    for i in range(0, x.size, BLOCK * length):
        block = x[i : i + BLOCK * length]
        n = block.size // C
        block_moments(block, shift, s, q, total, total, squares)
        for c in range(C):
            off = shift[c] + total[c] / n - mean[c]
            m2[c] += squares[c] - total[c] * total[c] / n + off * off * count * n / (count + n)
            mean[c] += off * n / (count + n)
        count += n
    return count


@kernel
def measure(k, x, parts, counts):
    """Mean and biased variance of each channel of x (M * C,); parts (CHUNKS, 2, C) is for work."""
    C = parts.shape[2]
    length = line_length(C)
    lines = -(-x.size // length)
    for c in range(C):
        parts[k, 0, c] = 0
        parts[k, 1, c] = 0
    start, stop = k * lines // len(parts) * length, (k + 1) * lines // len(parts) * length
    counts[k] = chunk_moments(x[start:stop], parts[k, 0], parts[k, 1], length)


@inlined
def keep(z, other, zero):
    return z


@inlined
def rectify(z, other, zero):
    return z if not z <= zero else zero  # NaN stays NaN


@inlined
def add_rectify(z, other, zero):
    z = z + other
    return z if not z <= zero else zero


def normaliser(finish):
    @inlined
    def line(x, other, mean, scale, beta, y):
        zero = x.dtype.type(0)
        for j in range(min(x.size, y.size)):
            y[j] = finish((x[j] - mean[j]) * scale[j] + beta[j], other[j], zero)

    @kernel
    def normalise(k, x, other, mean, scale, beta, y):
        """y = finish((x - mean) * scale + beta, other)."""
        length = line_length(mean.size)
        m, s, b = repeated(mean, length), repeated(scale, length), repeated(beta, length)
        lines = -(-x.size // length)
        for i in range(k * lines // PARTS, (k + 1) * lines // PARTS):
            part = slice(i * length, min((i + 1) * length, x.size))
            line(x[part], other[part], m, s, b, y[part])

    return normalise


normalise, normalise_relu = normaliser(keep), normaliser(rectify)
normalise_add_relu = normaliser(add_rectify)


# ---- backward


@inlined
def through(d, z, zero):
    return d


@inlined
def where_positive(d, z, zero):
    return d if z > zero else zero


@inlined
def plain_line(x, dy, y, mean, scale, beta, s, q, out):
    for j in range(min(x.size, s.size)):
        s[j] += dy[j]
        q[j] += dy[j] * (x[j] - mean[j])


@inlined
def masked_line(x, dy, y, mean, scale, beta, s, q, out):
    zero = x.dtype.type(0)
    for j in range(min(x.size, s.size)):
        xmu = x[j] - mean[j]
        d = where_positive(dy[j], xmu * scale[j] + beta[j], zero)
        s[j] += d
        q[j] += d * xmu


@inlined
def residual_line(x, dy, y, mean, scale, beta, s, q, out):
    zero = x.dtype.type(0)
    for j in range(min(x.size, s.size)):
        d, z = dy[j], y[j]  # both loaded before the choice, or it does not vectorise
        d = where_positive(d, z, zero)
        out[j] = d
        s[j] += d
        q[j] += d * (x[j] - mean[j])


def summer(line):
    @kernel
    def sums(k, x, dy, y, mean, scale, beta, out, parts):
        """parts[k] = sum of d, sum of d * (x - mean), where d = dy behind the ReLU."""
        length = line_length(mean.size)
        m, a, b = repeated(mean, length), repeated(scale, length), repeated(beta, length)
        lines = -(-x.size // length)
        s, q = np.empty(length, x.dtype), np.empty(length, x.dtype)
        total = np.empty((2, mean.size))
        parts[k] = 0
        last = (k + 1) * lines // len(parts)
        for block in range(k * lines // len(parts), last, BLOCK):
            s[:] = 0
            q[:] = 0
            for i in range(block, min(block + BLOCK, last)):
                here = slice(i * length, min((i + 1) * length, x.size))
                line(x[here], dy[here], y[here], m, a, b, s, q, out[here])
            fold(s, total[0])
            fold(q, total[1])
            for c in range(mean.size):
                parts[k, 0, c] += total[0, c]
                parts[k, 1, c] += total[1, c]

    return sums


dy_sums, masked_sums, residual_sums = summer(plain_line), summer(masked_line), summer(residual_line)


def spreader(select):
    @inlined
    def line(x, dy, mean, scale, beta, constant, slope, dx):
        zero = x.dtype.type(0)
        for j in range(min(x.size, dx.size)):
            xmu, d = x[j] - mean[j], dy[j]
            d = select(d, xmu * scale[j] + beta[j], zero)
            dx[j] = scale[j] * (d - constant[j] - xmu * slope[j])

    @kernel
    def spread(p, x, dy, mean, scale, beta, constant, slope, dx):
        """dx = scale * (d - constant - (x - mean) * slope), where d = dy behind the ReLU."""
        length = line_length(mean.size)
        m, a, b = repeated(mean, length), repeated(scale, length), repeated(beta, length)
        k, t = repeated(constant, length), repeated(slope, length)
        lines = -(-x.size // length)
        for i in range(p * lines // PARTS, (p + 1) * lines // PARTS):
            part = slice(i * length, min((i + 1) * length, x.size))
            line(x[part], dy[part], m, a, b, k, t, dx[part])

    return spread


dx_plain, dx_masked = spreader(through), spreader(where_positive)
