"""Shattered gradients: dy/dx along a line is brown noise in shallow nets, white noise in deep ones.

The nets take one number to one number, 200 units wide. A plain net of depth d is d dense layers,
all but the last followed by `Centre` and ReLU. A residual net of depth d is a dense layer, d - 2
blocks x + scale * Dense(ReLU(BatchNorm(x))) and a dense layer. Weights are He-normal and biases
are drawn like them, so that the same seed gives the centred net and the one that is not centred
the same numbers; where something is centred, the biases cancel. In the centred net of depth 2 all
units switch at x = 0, so that its gradient is a step and R(1) = 1 - 3/256 to the last digit.

The means and variances are those of the points of the line, and the derivative is taken of the
function that they leave when they are held: f'(x), for each x by itself.

References
----------
Balduzzi et al. (2017), arXiv:1702.08591, figure 1. It shows curves without numbers; those below
come from a measurement elsewhere, whose nets were not described: depth, biases and held statistics
are the choice that came closest to them.
"""

import functools
from dataclasses import dataclass

import numpy as np

from minires.checks import expect_array, expect_int, expect_number
from minires.core import Layer
from minires.experiments.rows import row
from minires.flow.shattering import autocorrelation, input_gradients, line
from minires.initializers import he_normal
from minires.layers import BatchNorm2d, Dense, ReLU, Residual, Sequential
from minires.ops import default as default_ops

WIDTH, POINTS, LAGS = 200, 256, 15

# net: lag-1 autocorrelation, mean over 10 seeds, and how far ours may be from it
EXPECTED = {
    "plain, depth 2": (0.99, 0.02),
    "plain, depth 4": (0.96, 0.03),
    "plain, depth 10": (0.77, 0.06),
    "plain, depth 24": (-0.04, 0.1),
    "plain, depth 50": (0.01, 0.1),
    "not centred, depth 24": (0.88, 0.08),
    "not centred, depth 50": (0.81, 0.1),
    "residual, depth 50, scale 1": (0.71, 0.08),
    "residual, depth 50, scale 0.1": (0.89, 0.06),
    "white noise": (0.0, 0.06),
    "brown noise": (0.97, 0.03),
}


class Centre(Layer):
    """y = x - mean, batch normalisation without the division and without Parameters.

    With `training=True` the mean is the batch's, and it is kept; otherwise it is the last one kept.

    Parameters
    ----------
    num_features : int
        D, for x of (N, D).
    dtype : float32 or float64

    Notes
    -----
    Each x_i also moves the mean, which moves all y_j: dx = dy - mean(dy). With a mean that was
    kept, dx = dy.
    """

    def __init__(self, num_features, *, dtype=np.float32):
        self.mean = np.zeros(expect_int("Centre", "num_features", num_features), dtype)

    def _check(self, x):
        expect_array(
            "Centre", "x", x, ("N", len(self.mean)), dtype=self.mean.dtype, like="its mean"
        )

    def _forward(self, x, training):
        if training:
            self.mean = x.mean(axis=0)
        return x - self.mean, training

    def _backward(self, dy, training):
        return dy - dy.mean(axis=0) if training else dy

    def snapshot(self):
        return self.mean

    def restore(self, snapshot):
        self.mean = snapshot


class Scale(Layer):
    """y = factor * x, so dx = factor * dy: the weight of a residual branch.

    Parameters
    ----------
    factor : float
        Not trained.
    """

    def __init__(self, factor):
        self.factor = expect_number("Scale", "factor", factor)

    def _forward(self, x, training):
        return self.factor * x, ()

    def _backward(self, dy, cache):
        return self.factor * dy

    def __repr__(self):
        return f"Scale({self.factor:g})"


@dataclass(frozen=True, eq=False)
class Shattering:
    """What `measure` saw.

    Attributes
    ----------
    x : (P,)
        The line.
    gradients : {net: (P,)}
        dy/dx along it, of the first seed: the upper row of figure 1.
    correlations : {net: (S, lags + 1)}
        Autocorrelation of dy/dx, one curve a seed, from lag 0 on: the lower row of figure 1.
    """

    x: np.ndarray
    gradients: dict
    correlations: dict


def measure(
    *, seeds=10, depths=(2, 4, 10, 24, 50), scales=(1, 0.1), width=WIDTH, lags=LAGS, ops=default_ops
):
    """Gradients along [-2, 2] of plain and residual nets, and of two kinds of noise.

    Parameters
    ----------
    seeds : int
        S, nets of each kind.
    depths : tuple of int
        Of the plain nets, centred and not; the residual nets have the last one.
    scales : tuple of float
        Of the residual branches.
    width, lags : int
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Shattering
    """
    x = line(np.array([-2.0]), np.array([2.0]), POINTS)
    curves = {
        name: np.stack([dydx(np.random.default_rng(seed), x) for seed in range(seeds)])
        for name, dydx in sources(depths, scales, {"width": width, "ops": ops}).items()
    }  # (S, P) each
    correlations = {
        name: np.stack([autocorrelation(g, lags) for g in gradients])
        for name, gradients in curves.items()
    }
    return Shattering(x[:, 0], {name: g[0] for name, g in curves.items()}, correlations)


def sources(depths, scales, given):
    """{name: function (rng, x) -> (P,) gradients} of the nets and the noises."""
    nets = {f"plain, depth {d}": functools.partial(plain_net, d) for d in depths}
    nets |= {
        f"not centred, depth {d}": functools.partial(plain_net, d, centred=False) for d in depths
    }
    nets |= {
        f"residual, depth {depths[-1]}, scale {scale:g}": functools.partial(
            residual_net, depths[-1], scale
        )
        for scale in scales
    }
    found = {name: functools.partial(slopes, make, given) for name, make in nets.items()}
    return found | {"white noise": white_noise, "brown noise": brown_noise}


def slopes(make, given, rng, x):
    """dy/dx of a new net at each point, its means and variances held at those of the points."""
    model = make(rng=rng, dtype=x.dtype, **given)
    model.forward(x, training=True)  # Centre and BatchNorm2d keep the statistics
    return input_gradients(model, x, training=False)[:, 0]


def white_noise(rng, x):
    """Numbers that do not know of each other."""
    return rng.standard_normal(len(x))


def brown_noise(rng, x):
    """Sums of white noise: a random walk."""
    return rng.standard_normal(len(x)).cumsum()


def plain_net(depth, *, centred=True, width=WIDTH, rng, dtype=np.float64, ops=default_ops):
    """`depth` dense layers from 1 number to 1 number, with (Centre and) ReLU between them."""
    layers = []
    for D in [1] + [width] * (depth - 2):
        layers.append(dense(D, width, rng, dtype, ops))
        layers += [Centre(width, dtype=dtype)] if centred else []
        layers.append(ReLU(ops=ops))
    return Sequential(*layers, dense(width, 1, rng, dtype, ops))


def residual_net(depth, scale, *, width=WIDTH, rng, dtype=np.float64, ops=default_ops):
    """A dense layer, depth - 2 blocks with batch norm, a dense layer: 1 number to 1 number."""
    stem = dense(1, width, rng, dtype, ops)
    blocks = [block(width, scale, rng, dtype, ops) for _ in range(depth - 2)]
    return Sequential(stem, *blocks, dense(width, 1, rng, dtype, ops))


def block(width, scale, rng, dtype, ops):
    """x + scale * Dense(ReLU(BatchNorm(x))); the batch norm keeps the statistics of one batch."""
    norm = BatchNorm2d(width, momentum=1, running_variance="biased", dtype=dtype, ops=ops)
    branch = Sequential(norm, ReLU(ops=ops), dense(width, width, rng, dtype, ops), Scale(scale))
    return Residual(branch, ops=ops)


def dense(D, F, rng, dtype, ops):
    """A dense layer whose biases are drawn like its weights."""
    layer = Dense(D, F, rng=rng, dtype=dtype, ops=ops)
    layer.bias.value = he_normal(rng, (F,), D, F, dtype)
    return layer


def rows(result):
    """Expected and got, for every net and noise that has a published or measured figure.

    Parameters
    ----------
    result : Shattering

    Returns
    -------
    rows : list of Row
        The autocorrelation at lag 1, mean over the seeds.
    """
    return [
        row(f"R(1), {name}", expected, tolerance, result.correlations[name][:, 1])
        for name, (expected, tolerance) in EXPECTED.items()
        if name in result.correlations
    ]
