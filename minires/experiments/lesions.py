"""Lesions: a residual network hardly misses one block, a plain network is lost without it.

ResNet-32 and plain-32 are trained on the digits; then blocks are dropped or trade places, and the
accuracy is taken again. The plain network falls to about the 10 % of guessing, whichever block is
gone. The residual network hardly misses most of them, and its error grows with the number dropped
and with the disorder of their order.

Unlike the article, 8x8 digits instead of CIFAR-10, and 15 blocks instead of 54: each counts for
more, so that little is left without a third of them. The blocks that do matter are mostly
the first ones. The article has curves without numbers: what is expected here says in numbers what
it says in words, with tolerances of ours.

References
----------
Veit et al. (2016), arXiv:1605.06431, section 4, figures 3 and 5.
"""

from dataclasses import dataclass

import numpy as np

from minires.data import load_digits
from minires.experiments.rows import row
from minires.experiments.trained import TRAINED, network, streams, train
from minires.flow import lesion_study, multi_lesion_study, shuffle_study
from minires.ops import default as default_ops

DEPTH, EPOCHS, REPEATS = 32, 8, 10


@dataclass(frozen=True, eq=False)
class Lesions:
    """What `measure` saw, one list a seed.

    Attributes
    ----------
    depth : int
        Of the networks.
    single : {"plain" or "residual": list of lists of Lesion}
        Without each block in turn.
    multi : list of lists of MultiLesion
        Of the residual networks: without 0, 1, ... half of the blocks.
    shuffles : list of lists of Shuffle
        Of the residual networks: after 0, 1, ... swaps, half as many as blocks.
    """

    depth: int
    single: dict
    multi: list
    shuffles: list


def measure(*, seeds=10, depth=DEPTH, epochs=EPOCHS, repeats=REPEATS, ops=default_ops):
    """Accuracy on the test digits without blocks, and with blocks in another order.

    Parameters
    ----------
    seeds : int
        At most two are used: networks are trained.
    depth, epochs : int
        Of the networks, and how long they are trained.
    repeats : int
        Random draws for each number of blocks.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Lesions
    """
    data = load_digits()
    test, counts = (data.x_test, data.y_test), range((depth - 2) // 4 + 1)
    found = Lesions(depth, {"plain": [], "residual": []}, [], [])
    for seed in range(min(seeds, TRAINED)):
        weights, order, *draws = streams(seed, 4)
        for kind, studies in found.single.items():
            model = train(network(kind, depth, weights, ops), epochs, order, ops)
            studies.append(lesion_study(model, *test, progress=False))
        given = {"repeats": repeats, "progress": False}  # of the residual one, trained last
        multi = multi_lesion_study(model, *test, counts=counts, rng=draws[0], **given)
        found.multi.append(multi)
        found.shuffles.append(shuffle_study(model, *test, swaps=counts, rng=draws[1], **given))
    return found


def accuracy(study):
    """(records,) of one study."""
    return np.array([record.accuracy for record in study])


def correlation(study, damage):
    """Of the error with a number of each record that grows with the damage."""
    return np.corrcoef(1 - accuracy(study), [damage(record) for record in study])[0, 1]


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : Lesions

    Returns
    -------
    rows : list of Row
        "Hardly misses" is 0 with a tolerance of 0.05; guessing has an accuracy of 0.1.
    """
    S, depth = len(result.multi), result.depth
    plain, residual = (
        np.array([accuracy(study) for study in result.single[kind]])
        for kind in ("plain", "residual")
    )  # (S, 1 + blocks), first the whole model
    lost = residual[:, :1] - residual[:, 1:]
    dropped = [correlation(study, lambda r: r.count) for study in result.multi]
    disorder = [correlation(study, lambda r: 1 - r.kendall_tau) for study in result.shuffles]
    table = [
        (f"accuracy, residual-{depth}, whole, {S} seeds", 1, 0.1, residual[:, 0]),
        (f"accuracy, plain-{depth}, whole", 0.8, 0.2, plain[:, 0]),
        ("accuracy lost without one block, median, residual", 0, 0.05, np.median(lost, axis=1)),
        ("share of blocks that cost less than 0.1, residual", 1, 0.3, (lost < 0.1).mean(axis=1)),
        ("accuracy without one block, median, plain", 0.1, 0.1, np.median(plain[:, 1:], axis=1)),
        ("the same, best block to drop, plain", 0.1, 0.2, plain[:, 1:].max(axis=1)),
        ("correlation of error and blocks dropped, residual", 1, 0.3, dropped),
        ("correlation of error and disorder, residual", 1, 0.5, disorder),
    ]
    return [row(*line) for line in table]
