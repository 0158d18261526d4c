"""Layers that are broken on purpose, one mistake each; the tests show that each is refused.

`BROKEN` maps a name to (layer, input), all float64.
"""

import numpy as np

from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    MaxPool2d,
    ReLU,
    Residual,
    Softmax,
)
from minires.layers.pool import GlobalAvgPool2d
from minires.ops.reference import conv2d_backward
from minires.ops.reference.conv import filters, im2col, rows

F64 = {"dtype": np.float64}
rng = np.random.default_rng(0)
IMAGES = rng.standard_normal((3, 5, 6, 4))
ROWS = rng.standard_normal((5, 4))


class AllZeroDx(BatchNorm2d):
    def _backward(self, dy, cache):
        return 0 * super()._backward(dy, cache)


class NormWithoutMeanTerm(BatchNorm2d):
    def _backward(self, dy, cache):
        c = cache[1]
        mean_term = (dy * c.gamma).mean(axis=(0, 1, 2)) * c.rstd
        return super()._backward(dy, cache) + mean_term


class NormWithoutVarianceTerm(BatchNorm2d):
    def _backward(self, dy, cache):
        c = cache[1]
        xhat = (c.x - c.mean) * c.rstd
        variance_term = xhat * (dy * c.gamma * xhat).mean(axis=(0, 1, 2)) * c.rstd
        return super()._backward(dy, cache) + variance_term


class NormWithUnbiasedVariance(BatchNorm2d):
    """Normalises with M - 1 in the forward pass only."""

    def _forward(self, x, training):
        y, cache = super()._forward(x, training)
        M = x[..., 0].size
        return (y - self.beta.value) * np.sqrt((M - 1) / M) + self.beta.value, cache


class NormThatForgetsGamma(BatchNorm2d):
    def _backward(self, dy, cache):
        return super()._backward(dy, cache) / self.gamma.value


class ConvWithColumnsAssigned(Conv2d):
    """col2im assigns, so a pixel of several windows keeps the last one's gradient."""

    def _backward(self, dy, cache):
        super()._backward(dy, cache)
        x, weight, window, _ = cache
        (KH, KW), (SH, SW), _, _, (OH, OW) = window
        dcols = (dy.reshape(-1, dy.shape[-1]) @ filters(weight).T).reshape(im2col(x, window).shape)
        dx = np.zeros_like(x)
        for i in range(OH):
            for j in range(OW):
                dx[:, i * SH : i * SH + KH, j * SW : j * SW + KW] = dcols[:, i, j]
        return dx


class ConvWithStrideOnTheWrongAxis(Conv2d):
    """The backward takes the vertical stride for the horizontal one."""

    def _backward(self, dy, cache):
        window = cache.window
        window = window._replace(stride=window.stride[::-1], out=window.out[::-1])
        dx, dweight, dbias = conv2d_backward(dy.swapaxes(1, 2), cache._replace(window=window))
        self.weight.grad += dweight
        self.bias.grad += dbias
        return dx


class ConvWithFlippedKernel(Conv2d):
    """dw comes out upside down."""

    def _backward(self, dy, cache):
        dx, dweight, dbias = conv2d_backward(dy, cache)
        self.weight.grad += dweight[::-1, ::-1]
        self.bias.grad += dbias
        return dx


class ConvWithWeightGradientOfOneImage(Conv2d):
    def _backward(self, dy, cache):
        dx, _, dbias = conv2d_backward(dy, cache)
        cols = rows(im2col(cache.x[:1], cache.window))
        dweight = cols.T @ dy[:1].reshape(-1, dy.shape[-1])
        self.weight.grad += dweight.reshape(self.weight.shape)
        self.bias.grad += dbias
        return dx


class DenseWithMeanForSum(Dense):
    """The bias gradient is a mean over the batch, as if the loss had not divided by N already."""

    def _backward(self, dy, cache):
        dx = super()._backward(dy, cache)
        self.bias.grad += dy.mean(axis=0) - dy.sum(axis=0)
        return dx


class DenseThatForgetsItsBias(Dense):
    def _backward(self, dy, cache):
        bias = self.bias.grad.copy()
        dx = super()._backward(dy, cache)
        self.bias.grad = bias
        return dx


class DenseThatAssigns(Dense):
    """Overwrites the gradient where it should add; one pass alone cannot show it."""

    def _backward(self, dy, cache):
        self.weight.grad[...] = 0
        return super()._backward(dy, cache)


class DenseOffByAMillionth(Dense):
    def _backward(self, dy, cache):
        return super()._backward(dy, cache) * (1 + 1e-6)


class DenseWithOneWrongEntry(Dense):
    """One of 4,000 entries of dw is wrong: the checker goes along directions here."""

    def _backward(self, dy, cache):
        dx = super()._backward(dy, cache)
        self.weight.grad[17, 23] += 0.1
        return dx


class ReluThatLooksAtDy(ReLU):
    def _backward(self, dy, cache):
        return dy * (dy > 0)


class ReluThatLeaks(ReLU):
    """Passes a gradient just below 0, where y is already 0."""

    def _forward(self, x, training):
        return np.maximum(x, 0), x

    def _backward(self, dy, x):
        return dy * (x > -0.05)


class ReluInPlace(ReLU):
    """Writes to dy, which in a residual net is the identity gradient as well."""

    def _backward(self, dy, cache):
        dy *= cache > 0
        return dy


class ReluThatWritesToX(ReLU):
    def _forward(self, x, training):
        np.maximum(x, 0, out=x)
        return x, x.copy()


class ReluWithAMaskFromItsFirstInput(ReLU):
    mask = None

    def _forward(self, x, training):
        if self.mask is None:
            self.mask = x > 0
        return x * self.mask, None

    def _backward(self, dy, cache):
        return dy * self.mask


class SoftmaxWithoutItsSum(Softmax):
    """Takes the diagonal of the Jacobian for all of it."""

    def _backward(self, dy, p):
        return dy * p * (1 - p)


class PoolThatSharesTies(MaxPool2d):
    """Sends the whole gradient to every pixel of the window."""

    def _backward(self, dy, cache):
        dx = np.zeros(cache.shape)
        for kh in range(2):
            for kw in range(2):
                dx[:, kh : 2 * dy.shape[1] : 2, kw : 2 * dy.shape[2] : 2] = dy
        return dx


class PoolThatForgetsToDivide(AvgPool2d):
    def _backward(self, dy, cache):
        return super()._backward(dy, cache) * 9


class GlobalPoolThatForgetsToDivide(GlobalAvgPool2d):
    def _backward(self, dy, shape):
        return super()._backward(dy, shape) * shape[1]


class DropoutWithoutItsScale(Dropout):
    def _backward(self, dy, mask):
        return dy if mask is None else dy * (mask > 0)


class ResidualWithoutIdentity(Residual):
    """The backward forgets the shortcut."""

    def _backward(self, dy, cache):
        self.shortcut.backward(dy)
        return self.branch.backward(dy)


def conv(kind, **options):
    return kind(4, 3, 3, **options, rng=0, **F64), IMAGES


def dense(kind):
    return kind(4, 3, rng=0, **F64), ROWS


def norm(kind):
    layer = kind(4, **F64)
    layer.gamma.value[...] = [0.5, 1.5, -1.0, 2.0]
    return layer, IMAGES


BROKEN = {
    "all-zero dx": norm(AllZeroDx),
    "batch norm without its mean term": norm(NormWithoutMeanTerm),
    "batch norm without its variance term": norm(NormWithoutVarianceTerm),
    "batch norm normalising with M - 1": norm(NormWithUnbiasedVariance),
    "batch norm without gamma in dx": norm(NormThatForgetsGamma),
    "col2im that assigns": conv(ConvWithColumnsAssigned),
    "stride on the wrong axis": (
        ConvWithStrideOnTheWrongAxis(4, 3, 3, stride=(1, 2), padding=1, rng=0, **F64),
        rng.standard_normal((3, 5, 5, 4)),
    ),
    "flipped kernel gradient": conv(ConvWithFlippedKernel),
    "weight gradient of one image": conv(ConvWithWeightGradientOfOneImage),
    "bias gradient a mean": dense(DenseWithMeanForSum),
    "bias gradient forgotten": dense(DenseThatForgetsItsBias),
    "gradient assigned": dense(DenseThatAssigns),
    "off by a millionth": dense(DenseOffByAMillionth),
    "one wrong entry of 4,000": (
        DenseWithOneWrongEntry(40, 100, rng=0, **F64),
        rng.standard_normal((3, 40)),
    ),
    "mask from dy": (ReluThatLooksAtDy(), IMAGES),
    "mask off by a little": (ReluThatLeaks(), IMAGES),
    "dy overwritten": (ReluInPlace(), IMAGES),
    "x overwritten": (ReluThatWritesToX(), IMAGES),
    "mask from the first input": (ReluWithAMaskFromItsFirstInput(), IMAGES),
    "softmax without its sum": (SoftmaxWithoutItsSum(), ROWS),
    "max pool to every pixel": (PoolThatSharesTies(2), IMAGES),
    "average pool without division": (PoolThatForgetsToDivide(3, stride=2, padding=1), IMAGES),
    "global pool divided once": (GlobalPoolThatForgetsToDivide(), IMAGES),
    "dropout without its scale": (DropoutWithoutItsScale(0.4, rng=0), IMAGES),
    "residual without identity": (
        ResidualWithoutIdentity(Conv2d(4, 4, 3, padding=1, rng=0, **F64)),
        IMAGES,
    ),
}
