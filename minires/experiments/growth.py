"""Growth at initialisation: how variance and gradient change from block to block.

Four kinds of fully connected nets, all layers of one width, fed with normal noise of variance 1:

    residual             x + Dense(ReLU(x))               doubles the variance in every block
    residual, batch norm x + Dense(ReLU(BatchNorm(x)))    adds 1 to it
    plain, He            Dense(ReLU(x))                   keeps it
    plain, Glorot        the same, half the variance of the weights: halves it

"Variance" is E[y^2] over units and examples, as in the articles, where the expectation is over the
weights too and the mean is 0.

References
----------
De and Smith (2020), arXiv:2002.10444 (2^L without norm, L + 1 with batch norm on
the branch). Zhang, Dauphin and Ma (2019), Fixup, arXiv:1901.09321, section 2. He et al. (2015),
arXiv:1502.01852, section 2.2 (2^-L for Glorot's rule under ReLU).
"""

import math
from dataclasses import dataclass

import numpy as np

from minires.core import Observer, observe
from minires.experiments.rows import row
from minires.initializers import glorot_normal, he_normal
from minires.layers import BatchNorm2d, Dense, ReLU, Residual, Sequential
from minires.ops import default as default_ops

BLOCKS, WIDTH, BATCH = 20, 1024, 64
KINDS = ("residual", "residual, batch norm", "plain, He", "plain, Glorot")


@dataclass(frozen=True, eq=False)
class Growth:
    """What `measure` saw, one curve a seed.

    Attributes
    ----------
    variance : {kind: (S, L + 1)}
        E[y^2] of the input and behind each of the L blocks.
    gradient : {kind: (S, L + 1)}
        Norm of the gradient with respect to the same values, over that at the output.
    """

    variance: dict
    gradient: dict


class Between(Observer):
    """Variance and gradient norm before the first, between, and behind the last of some layers.

    Parameters
    ----------
    layers : list of Layer
        L layers, in the order in which they act, each on what the one before has made.

    Attributes
    ----------
    variance, gradient : (L + 1,)
    """

    def __init__(self, layers):
        self.place = {id(layer): i for i, layer in enumerate(layers)}
        self.variance = np.zeros(len(layers) + 1)
        self.gradient = np.zeros(len(layers) + 1)

    def after_forward(self, layer, x, y, training):
        """Note E[x^2] and E[y^2]."""
        i = self.place.get(id(layer))
        if i is not None:
            self.variance[i : i + 2] = mean_square(x), mean_square(y)

    def after_backward(self, layer, dy, dx):
        """Note |dx| and |dy|."""
        i = self.place.get(id(layer))
        if i is not None:
            self.gradient[i : i + 2] = norm(dx), norm(dy)


def mean_square(x):
    """E[x^2], added in float64."""
    return np.mean(np.square(x, dtype=np.float64))


def norm(x):
    """|x|, added in float64."""
    return math.sqrt(mean_square(x) * x.size)


def measure(*, seeds=10, blocks=BLOCKS, width=WIDTH, batch=BATCH, ops=default_ops):
    """Variance and gradient norm from block to block of the four kinds of nets.

    Parameters
    ----------
    seeds : int
        S, nets of each kind.
    blocks, width, batch : int
        L, and the sizes.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Growth
    """
    found = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        for i, (kind, runs) in enumerate(found.items()):
            rng = np.random.default_rng((seed, i))
            x = rng.standard_normal((batch, width)).astype(np.float32)
            layers = [block(kind, width, rng, ops) for _ in range(blocks)]
            runs.append(there_and_back(layers, x, rng))
    return Growth(
        {kind: np.stack([run.variance for run in runs]) for kind, runs in found.items()},
        {
            kind: np.stack([run.gradient / run.gradient[-1] for run in runs])
            for kind, runs in found.items()
        },
    )


def block(kind, width, rng, ops):
    """One block of a net of `kind`."""
    rule = glorot_normal if kind == "plain, Glorot" else he_normal
    dense = Dense(width, width, bias=False, initializer=rule, rng=rng, ops=ops)
    relu = ReLU(ops=ops)
    if kind == "residual":
        return Residual(Sequential(relu, dense), ops=ops)
    if kind == "residual, batch norm":
        return Residual(Sequential(BatchNorm2d(width, ops=ops), relu, dense), ops=ops)
    return Sequential(relu, dense)


def there_and_back(layers, x, rng):
    """A forward pass of x and a backward pass of noise through the layers; returns a Between."""
    model = Sequential(*layers)
    with observe(model, Between(layers)) as between:
        y = model.forward(x, training=True)
        model.backward(rng.standard_normal(y.shape).astype(y.dtype))
    return between


def rows(result):
    """Expected and got; what grows by a factor is given as log2, whose mean is the geometric mean.

    Parameters
    ----------
    result : Growth

    Returns
    -------
    rows : list of Row
    """
    end = {kind: variance[:, -1] for kind, variance in result.variance.items()}
    start = {kind: gradient[:, 0] for kind, gradient in result.gradient.items()}
    L = result.variance["residual"].shape[1] - 1
    after, through = f"after {L} blocks", f"through {L} blocks"
    table = [
        (f"log2 variance {after}, residual", L, 0.5, np.log2(end["residual"])),
        (f"variance {after}, residual, batch norm", L + 1, 1, end["residual, batch norm"]),
        (f"log2 variance {after}, plain, He", 0, 0.5, np.log2(end["plain, He"])),
        (f"log2 variance {after}, plain, Glorot", -L, 0.5, np.log2(end["plain, Glorot"])),
        (f"log2 gradient {through}, residual", L / 2, 0.3, np.log2(start["residual"])),
        (f"log2 gradient {through}, plain, He", 0, 0.3, np.log2(start["plain, He"])),
        (f"log2 gradient {through}, plain, Glorot", -L / 2, 0.3, np.log2(start["plain, Glorot"])),
    ]
    return [row(*line) for line in table]
