"""Singular values of blocks: J = F' loses half of all directions, J = 1 + F' none.

The branch F is convolution, batch norm, ReLU, convolution, batch norm, with random weights. Its
ReLU stops half of the numbers, so that half of the singular values of F' are 0, whatever the
convolutions do. A plain network multiplies such matrices, and what one block has lost does not come
back. With the identity the median is 1, and no value is 0. With a small branch, 1 + scale F',
Weyl's inequality keeps every value within scale |F'| of 1: no direction fades in a chain of blocks.

The leading values also come from products of the Jacobian with vectors, without the matrix:
that is how `minires.flow` measures networks whose matrix would not fit into memory. Where it
fits, both agree.

References
----------
He et al. (2016), arXiv:1603.05027, equation 5. Musco and Musco (2015), arXiv:1504.05477, algorithm
2, for the products.
"""

from dataclasses import dataclass

import numpy as np

from minires.experiments.rows import row
from minires.experiments.shattering import Scale
from minires.experiments.trained import digits, network, streams
from minires.flow import dense_jacobian, jacobian_singular_values
from minires.layers import BatchNorm2d, Conv2d, ReLU, Residual, Sequential
from minires.ops import default as default_ops

SIZE, CHANNELS, IMAGES = 4, 8, 2  # 256 numbers in and out
BLOCKS, SCALE, COUNT = 8, 0.1, 6
KINDS = ("plain", "residual", "small branch")


@dataclass(frozen=True, eq=False)
class Jacobians:
    """What `measure` saw; values descend.

    Attributes
    ----------
    block, chain : {kind: (S, D)}
        All singular values of one block, and of a chain of them.
    blocks : int
        In the chain.
    products : {kind or "network": (S, 6)}
        The leading ones of the block, and of a ResNet-8, from products.
    network : (S, 6)
        The leading ones of the ResNet-8, from its matrix.
    """

    block: dict
    chain: dict
    blocks: int
    products: dict
    network: np.ndarray


def measure(*, seeds=10, blocks=BLOCKS, ops=default_ops):
    """Singular values at initialisation, in float64 and with batch statistics.

    Parameters
    ----------
    seeds : int
        S, blocks of each kind.
    blocks : int
        In the chains.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Jacobians
    """
    block, chain, products = {}, {}, {}
    for kind in KINDS:
        runs = [spectra(kind, seed, blocks, ops) for seed in range(seeds)]
        block[kind], chain[kind], products[kind] = map(np.stack, zip(*runs, strict=True))
    whole = [whole_network(seed, ops) for seed in range(seeds)]
    network_values, products["network"] = map(np.stack, zip(*whole, strict=True))
    return Jacobians(block, chain, blocks, products, network_values)


def spectra(kind, seed, blocks, ops):
    """All values of the first block, all of the chain, and the leading ones of the first block."""
    weights, noise = streams(seed, 2)
    x = noise.standard_normal((IMAGES, SIZE, SIZE, CHANNELS))
    chain = Sequential(*[make_block(kind, weights, ops) for _ in range(blocks)])
    first = next(iter(chain))
    leading = jacobian_singular_values(first, x, COUNT, training=True)
    return all_values(first, x), all_values(chain, x), leading


def all_values(layer, x):
    """The singular values of the whole matrix."""
    return np.linalg.svd(dense_jacobian(layer, x, training=True), compute_uv=False)


def make_block(kind, rng, ops):
    """F, x + F(x) or x + 0.1 F(x), without a ReLU behind; one seed gives all kinds one F."""
    layers = [*half(rng, ops), ReLU(ops=ops), *half(rng, ops)]
    if kind == "small branch":
        layers.append(Scale(SCALE))
    branch = Sequential(*layers)
    return branch if kind == "plain" else Residual(branch, ops=ops)


def half(rng, ops):
    """3x3 convolution, batch norm."""
    given = {"padding": 1, "bias": False, "rng": rng, "dtype": np.float64, "ops": ops}
    conv = Conv2d(CHANNELS, CHANNELS, 3, **given)
    return conv, BatchNorm2d(CHANNELS, dtype=np.float64, ops=ops)


def whole_network(seed, ops):
    """The leading values of a ResNet-8 on four digits, from its matrix and from products."""
    model = network("residual", 8, streams(seed, 1)[0], ops).astype(np.float64)
    x, _ = digits(4)
    return all_values(model, x)[:COUNT], jacobian_singular_values(model, x, COUNT, training=True)


def vanished(values, share):
    """(S,) share of the values below `share` of the largest of their spectrum."""
    return (values < share * values[:, :1]).mean(axis=1)


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : Jacobians

    Returns
    -------
    rows : list of Row
        "At most 1", "more than half" and "less than half" are the middle of the range with half
        of its width as tolerance.
    """
    block, chain, products = result.block, result.chain, result.products
    apart = [abs(products[kind] - block[kind][:, :COUNT]).max(axis=1) / 1e-8 for kind in KINDS]
    network_apart = abs(products["network"] - result.network).max(axis=1) / 1e-8
    moved = abs(block["small branch"] - 1).max(axis=1) / (SCALE * block["plain"][:, 0])
    faded = {kind: vanished(values, 0.01) for kind, values in chain.items()}
    through = f"values below 1/100 of the largest, {result.blocks} blocks"
    table = [
        ("|products - matrix| in 1e-8, 6 leading values, blocks", 0, 1, np.max(apart, axis=0)),
        ("|products - matrix| in 1e-8, 6 leading values, ResNet-8", 0, 1, network_apart),
        ("share of values that are 0, plain block", 0.5, 0.1, vanished(block["plain"], 1e-10)),
        ("share of values that are 0, residual block", 0, 0, vanished(block["residual"], 1e-10)),
        ("median value, residual block", 1, 0.1, np.median(block["residual"], axis=1)),
        ("|value - 1| over Weyl's bound, x + 0.1 F(x)", 0.5, 0.5, moved),
        (f"{through}, plain", 0.75, 0.25, faded["plain"]),
        (f"{through}, residual", 0.25, 0.25, faded["residual"]),
        (f"{through}, x + 0.1 F(x)", 0, 0, faded["small branch"]),
    ]
    return [row(*line) for line in table]
