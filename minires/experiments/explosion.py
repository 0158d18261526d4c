"""Explosion: batch norm makes the gradients of plain nets grow towards the input.

A layer Dense, BatchNorm, ReLU multiplies the squared norm of the gradient by pi/(pi - 1) = 1.467
on its way back, its norm by 1.211. For a dense layer with weights of variance v / width in front of
the batch norm: ReLU lets half of the square through, batch norm divides by the variance of its
input, the weights multiply by v. That input is a sum over rectified normal numbers,
whose variance is (1 - 1/pi) / 2, times v: together 1 / (1 - 1/pi). Narrow nets and small batches
have a little less, since batch norm also projects.

Over the 55 convolutions of plain-56 that factor would make 4.5 orders of magnitude; 55 wide dense
layers have them. The 16 to 64 channels of plain-56 itself are narrow, and its factor is smaller: 3
orders. The identity path of ResNet-56 prevents both.

References
----------
Yang et al. (2019), arXiv:1902.08129: the factor for ReLU and large batches. Figures of
plain-56 and ResNet-56: networks of He et al. (2015), arXiv:1512.03385, section 4.2.
"""

import math
from dataclasses import dataclass

import numpy as np

from minires.core import observe
from minires.data import load_digits
from minires.experiments.growth import Between, there_and_back
from minires.experiments.rows import row
from minires.flow import gradient_norms
from minires.layers import BatchNorm2d, Dense, ReLU, Sequential
from minires.models import cifar_resnet
from minires.ops import default as default_ops

LAYERS, WIDTH, BATCH = 55, 1024, 512
DEPTH, IMAGES = 56, 256
FACTOR = math.pi / (math.pi - 1)


@dataclass(frozen=True, eq=False)
class Explosion:
    """What `measure` saw, one curve a seed.

    Attributes
    ----------
    gradient : (S, L + 1)
        Norm of the upstream gradient between the dense layers, from the input to the output, over
        that at the output.
    weight_gradients : {"plain" or "residual": (S, depth - 1)}
        Norm of the gradient of each convolution, from the first to the last.
    upstream_gradients : {"plain" or "residual": (S, blocks + 1)}
        Norm of the gradient between the blocks, from the first to the last.
    """

    gradient: np.ndarray
    weight_gradients: dict
    upstream_gradients: dict

    @property
    def factors(self):
        """(S, L - 1): growth of the squared norm at each layer but the first.

        The input of the first is noise and no rectified batch.
        """
        squares = self.gradient[:, 1:] ** 2
        return squares[:, :-1] / squares[:, 1:]


def measure(
    *,
    seeds=10,
    layers=LAYERS,
    width=WIDTH,
    batch=BATCH,
    depth=DEPTH,
    images=IMAGES,
    ops=default_ops,
):
    """Gradients at initialisation: of wide dense nets with batch norm, and of real networks.

    Parameters
    ----------
    seeds : int
        S, nets of each kind.
    layers, width, batch : int
        L, and the sizes of the dense nets. Their inputs and dy are normal noise.
    depth, images : int
        Of plain-56 and ResNet-56, and how many of the bundled digits they see.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Explosion
    """
    wide = [wide_net(seed, layers, width, batch, ops) for seed in range(seeds)]
    runs = {
        kind: [network(kind, seed, depth, images, ops) for seed in range(seeds)]
        for kind in ("plain", "residual")
    }
    return Explosion(
        np.stack(wide),
        {kind: np.stack([weights for weights, _ in found]) for kind, found in runs.items()},
        {kind: np.stack([upstream for _, upstream in found]) for kind, found in runs.items()},
    )


def wide_net(seed, layers, width, batch, ops):
    """(L + 1,) gradient norms between the layers of a dense net, over that at the output."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, width)).astype(np.float32)
    gradient = there_and_back([layer(width, rng, ops) for _ in range(layers)], x, rng).gradient
    return gradient / gradient[-1]


def layer(width, rng, ops):
    """Dense, BatchNorm, ReLU."""
    dense = Dense(width, width, bias=False, rng=rng, ops=ops)
    return Sequential(dense, BatchNorm2d(width, ops=ops), ReLU(ops=ops))


def network(kind, seed, depth, images, ops):
    """Gradient norms of the convolutions, and those between the blocks, of a new network."""
    data = load_digits()
    model = cifar_resnet(depth, kind=kind, input_shape=data.input_shape, rng=seed, ops=ops)
    blocks = [block for stage in (model.stage1, model.stage2, model.stage3) for block in stage]
    with observe(model, Between(blocks)) as between:
        norms = gradient_norms(model, data.x_train[:images], data.y_train[:images])
    return np.array([found.norm for found in norms[:-1]]), between.gradient


def orders(gradients):
    """(S,) orders of magnitude between the largest and the smallest norm of each curve."""
    return np.log10(gradients.max(axis=1) / gradients.min(axis=1))


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : Explosion

    Returns
    -------
    rows : list of Row
        "Orders" are orders of magnitude between the largest and the smallest norm: of the upstream
        gradients of the wide layers, of the weight gradients of the convolutions. What is expected
        of plain-56 is what its layers would have if they were wide, and they are not. "Within one"
        is 0.5 with a tolerance of 0.5.
    """
    squared, root = result.factors.mean(axis=1), np.sqrt(result.factors).mean(axis=1)
    weights, wide = result.weight_gradients, result.gradient[:, 1:]
    depth, layers = weights["plain"].shape[1] + 1, wide.shape[1]
    return [
        row("growth of |dx|^2 a layer, dense, batch norm, ReLU", FACTOR, 0.03, squared),
        row("growth of |dx| a layer, dense, batch norm, ReLU", math.sqrt(FACTOR), 0.015, root),
        row(f"orders of |dx|, {layers} wide layers", grown(layers), 0.2, orders(wide)),
        row(f"orders of |dw|, plain-{depth}", grown(depth - 1), 0.5, orders(weights["plain"])),
        row(f"orders of |dw|, residual-{depth}", 0.5, 0.5, orders(weights["residual"])),
    ]


def grown(layers):
    """Orders of magnitude by which the norm grows from the last of wide layers to the first."""
    return (layers - 1) * math.log10(FACTOR) / 2
