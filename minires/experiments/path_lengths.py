"""Path lengths: of the 2^54 paths through ResNet-110, the short ones carry the gradient.

A path takes the branch or the shortcut at each of the 54 blocks; its length counts branches, and
lengths are binomial, around 27. How much gradient each carries is measured in two ways:

    single paths    the mean norm of the gradient that random paths of one length carry, times the
                    number of such paths: the estimate of the article
    sums            the norm of the sum over all paths of one length, which is exact

The article finds, in a trained network, that "almost all" of the gradient comes by 5 to 17 blocks,
which have 0.45 % of the paths. Single paths in networks that learned the digits for a few epochs
agree: nearly nine tenths, and half at the start, of which the article says nothing. In sums the
lengths are shorter still, a third of 27: the paths of one length point in different directions and
cancel, the more the more there are. Some of the sums' gradient has lengths below 5, so that the
same nine tenths lie between 5 and 17, with less above.

Unlike the article: 8x8 digits instead of CIFAR-10, a few epochs, and eight paths of each length
instead of 1,000, drawn so that those which carry much are met more often and count for less. The
network is the pre-activation one.

References
----------
Veit et al. (2016), arXiv:1605.06431, section 5 and figure 6.
"""

from dataclasses import dataclass

import numpy as np

from minires.experiments.rows import row
from minires.experiments.trained import TRAINED, digits, network, streams, train
from minires.flow import (
    PathGradients,
    gradient_by_path_length,
    path_counts,
    residual_ledger,
    share_of_paths,
)
from minires.flow.paths import repeatable
from minires.layers import Residual, Sequential
from minires.losses import SoftmaxCrossEntropy
from minires.ops import default as default_ops

DEPTH, IMAGES, EPOCHS, SAMPLES = 110, 16, 4, 8
SHORT = 5, 17  # figure 6 (c)
WAYS = ("single paths", "sums")


@dataclass(frozen=True, eq=False)
class Lengths:
    """The gradient of one network by path length.

    Attributes
    ----------
    sums : PathGradients
        Exact.
    single : (L + 1,) float64
        Mean norm of the gradient that a single path of each length carries to the input.
    """

    sums: PathGradients
    single: np.ndarray

    @property
    def mismatch(self):
        """Largest |sum of the parts - gradient| over the largest |gradient|."""
        total = self.sums.total
        return abs(self.sums.parts.sum(axis=0) - total).max() / abs(total).max()

    @property
    def shares(self):
        """{"single paths" or "sums": (L + 1,)}: the share of the gradient that has each length."""
        counts = np.array([float(count) for count in self.sums.counts])
        found = {"single paths": self.single * counts, "sums": self.sums.norms}
        return {way: norms / norms.sum() for way, norms in found.items()}


@dataclass(frozen=True, eq=False)
class PathLengths:
    """What `measure` saw.

    Attributes
    ----------
    start, trained : list of Lengths
        One a seed.
    """

    start: list
    trained: list


def measure(
    *, seeds=10, depth=DEPTH, images=IMAGES, epochs=EPOCHS, samples=SAMPLES, ops=default_ops
):
    """The gradient by path length of pre-activation networks in float64, new and trained.

    Parameters
    ----------
    seeds : int
        At most two are used: networks are trained.
    depth, images, epochs : int
        Of the networks, how many digits the gradient is of, and how long they are trained.
    samples : int
        Single paths of each length; a quarter of them beyond the middle.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : PathLengths
    """
    start, trained = [], []
    for seed in range(min(seeds, TRAINED)):
        weights, order, *draws = streams(seed, 4)
        model = network("preactivation", depth, weights, ops)
        start.append(lengths(model, images, samples, draws[0], ops))
        train(model, epochs, order, ops)
        trained.append(lengths(model, images, samples, draws[1], ops))
    return PathLengths(start, trained)


def lengths(model, images, samples, rng, ops):
    """The Lengths of a model, measured in float64."""
    model, batch, loss = model.astype(np.float64), digits(images), SoftmaxCrossEntropy(ops=ops)
    sums = gradient_by_path_length(model, *batch, loss=loss)
    return Lengths(sums, single_paths(model, *batch, loss, samples, rng))


def single_paths(model, x, labels, loss, samples, rng):
    """(L + 1,) mean norm of the gradient at the input by single paths, an estimate.

    With the ReLU masks and batch statistics of one forward pass, as in the article. Paths are drawn
    in proportion to `prod(ratio)` of the branches that they take, ratio = |branch part| / |shortcut
    part| of the gradient at a block, and weighted back: the mean over all paths of length k is

        symmetric[0, k] / binomial(L, k) * mean(norm / prod(ratio)).

    That is unbiased whatever the ratios are. Since norms nearly are such products, it also
    spreads little, where paths drawn evenly miss the few that carry most.
    """
    ledger = residual_ledger(model, x, labels, loss=loss, ops=loss.ops)
    ratios = np.array([record.branch_norm / record.shortcut_norm for record in ledger[::-1]])
    symmetric, means = symmetric_sums(ratios), []
    with repeatable(model):
        loss.forward(model.forward(x, training=True), labels)
        dy = loss.backward()
        for k, count in enumerate(path_counts(len(ratios))):
            draws = samples if 2 * k <= len(ratios) else -(-samples // 4)
            paths = [likely_path(ratios, symmetric, k, rng) for _ in range(draws)]
            norms = [np.linalg.norm(along_path(model, dy, iter(taken))) for taken in paths]
            sizes = [np.prod(ratios[taken]) for taken in paths]
            means.append(symmetric[0, k] / count * np.mean(np.divide(norms, sizes)))
    return np.array(means)


def symmetric_sums(ratios):
    """[l, k]: the sum over all choices of k out of `ratios[l:]` of their product."""
    L = len(ratios)
    sums = np.zeros((L + 1, L + 1))
    sums[:, 0] = 1
    for i in reversed(range(L)):
        sums[i, 1:] = sums[i + 1, 1:] + ratios[i] * sums[i + 1, :-1]
    return sums


def likely_path(ratios, symmetric, k, rng):
    """(L,) bool with k true, of probability `prod(ratios[taken]) / symmetric[0, k]`."""
    taken = np.zeros(len(ratios), bool)
    for i, ratio in enumerate(ratios):
        if k and rng.random() * symmetric[i, k] < ratio * symmetric[i + 1, k - 1]:
            taken[i], k = True, k - 1
    return taken


def along_path(layer, dy, taken):
    """Backward through one side of each block: the branch where the next of `taken` is true."""
    if isinstance(layer, Residual):
        return along_path(layer.branch if next(taken) else layer.shortcut, dy, taken)
    if isinstance(layer, Sequential):
        for _, child in reversed(layer.children()):
            dy = along_path(child, dy, taken)
        return dy
    return layer.backward(dy)


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : PathLengths

    Returns
    -------
    rows : list of Row
        "Almost all" is 1 with a tolerance of 0.25, which is ours. A mean length "below that of the
        paths" is, as its share, 0.5 with 0.5.
    """
    networks = [*result.start, *result.trained]
    mismatch = [run.mismatch / 1e-10 for run in networks]
    lengths = np.arange(len(networks[0].single))
    decay = [np.corrcoef(lengths, np.log(run.single))[0, 1] for run in result.trained]
    trained = f"trained, {len(result.trained)} seeds"
    table = [
        ("share of the paths of 54 blocks by 19 to 35", 0.98, 0.0005, [share_of_paths(54, 19, 35)]),
        ("percent of them by 5 to 17", 0.45, 0.005, [100 * share_of_paths(54, *SHORT)]),
        (f"|sum of parts - dx| / |dx| in 1e-10, {len(networks)} networks", 0, 1, mismatch),
        (f"correlation of log |single path| with length, {trained}", -1, 0.05, decay),
        *(
            (f"gradient by 5 to 17, {way}, {trained}", 1, 0.25, between(result, way))
            for way in WAYS
        ),
        *mean_lengths(result),
    ]
    return [row(*line) for line in table]


def between(result, way):
    """(S,) share of the gradient of the trained networks that has 5 to 17 blocks."""
    first, last = SHORT
    return [run.shares[way][first : last + 1].sum() for run in result.trained]


def mean_lengths(result):
    """What goes into a row for the mean length of the gradient over that of all paths."""
    for when, runs in (("start", result.start), ("trained", result.trained)):
        for way in WAYS:
            shares = np.array([run.shares[way] for run in runs])
            L = shares.shape[1] - 1
            means = shares @ np.arange(L + 1) / (L / 2)
            yield f"mean length of the gradient over {L / 2:g}, {way}, {when}", 0.5, 0.5, means
