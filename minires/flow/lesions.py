"""Drop or swap the blocks of a trained model and see what becomes of its accuracy."""

import copy
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minires.checks import as_rng, expect_int
from minires.core import Observer, join_path, observe
from minires.layers import Identity, Residual, Sequential
from minires.layers.containers import expect_layer
from minires.layers.fused import Fused
from minires.losses import default_loss
from minires.training import evaluate


class Lesion(NamedTuple):
    """A model without one block.

    Attributes
    ----------
    path : str
        Of the block that was dropped, "" for the model as it is.
    loss, accuracy : float
    """

    path: str
    loss: float
    accuracy: float


class MultiLesion(NamedTuple):
    """A model without several blocks, drawn at random.

    Attributes
    ----------
    count : int
        How many.
    repeat : int
        From 0; each draws anew.
    loss, accuracy : float
    """

    count: int
    repeat: int
    loss: float
    accuracy: float


class Shuffle(NamedTuple):
    """A model with blocks in another order.

    Attributes
    ----------
    swaps : int
        How many pairs traded places, one after the other.
    repeat : int
        From 0; each draws anew.
    kendall_tau : float
        Rank correlation of the new order of all blocks with the old: 1 for the same.
    loss, accuracy : float
    """

    swaps: int
    repeat: int
    kendall_tau: float
    loss: float
    accuracy: float


# ---- making a lesioned model


def blocks(model):
    """The paths of what can be dropped and swapped, from the input to the output.

    Parameters
    ----------
    model : Layer

    Returns
    -------
    paths : list of str
        Of every Residual inside; in a model without any, of the layers called block0, block1, ...
        in its Sequentials.
    """
    layers = expect_layer("blocks", "model", model).named_layers()
    if any(isinstance(layer, Fused) for _, layer in layers):
        raise ValueError("blocks expects no fused model: give it the model that `fuse` was given")
    found = [path for path, layer in layers if path and isinstance(layer, Residual)]
    return found or [
        join_path(path, name)
        for path, layer in layers
        if isinstance(layer, Sequential)
        for name, _ in layer.children()
        if name.startswith("block")
    ]


def lesioned(model, *, drop=(), swap=()):
    """The model without some blocks, or with some in each other's place.

    Parameters
    ----------
    model : Layer
        Left as it was.
    drop : iterable of str
        Paths from `blocks`. A Residual leaves its shortcut behind. A plain block leaves nothing,
        so its input must have the shape of its output.
    swap : iterable of (str, str)
        Pairs of paths.

    Returns
    -------
    lesioned : Layer
        Shares every Parameter, running statistic and layer with `model`, except the containers on
        the way to a change: a forward pass of one takes the place of a forward pass of the other.

    Raises
    ------
    ValueError
        If a path is no block, or one is named twice or lies in another.
    """
    drop = [drop] if isinstance(drop, str) else list(drop)
    pairs = [expect_pair(pair) for pair in swap]
    expect_separate_blocks(model, [*drop, *itertools.chain(*pairs)])
    layers = dict(model.named_layers())
    changes = {path: without(layers[path]) for path in drop}
    for first, second in pairs:
        changes |= {first: layers[second], second: layers[first]}
    return changed(model, changes)


def without(block):
    """What a block leaves behind."""
    return block.shortcut if isinstance(block, Residual) else Identity()


def changed(layer, changes, path=""):
    """A copy of `layer` with other layers at the paths of `changes`; everything else is shared."""
    if path in changes:
        return changes[path]
    if not any(lies_in(place, path) for place in changes):
        return layer
    twin = copy.copy(layer)
    for name, child in layer.children():  # past __setattr__: half a swap has a layer twice
        vars(twin)[name] = changed(child, changes, join_path(path, name))
    return twin


def expect_pair(pair):
    """`pair` as two paths."""
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"lesioned expects swap to hold pairs of paths, got {pair!r}")
    return tuple(pair)


def expect_separate_blocks(model, paths):
    """Refuse what is no block, and what would change one place twice."""
    known = blocks(model)
    for path in paths:
        if path not in known:
            raise ValueError(f"lesioned expects paths out of {known}, got {path!r}")
    for first, second in itertools.combinations(paths, 2):
        if first == second:
            raise ValueError(f"lesioned expects each block in one change, got {first!r} twice")
        if lies_in(first, second) or lies_in(second, first):
            raise ValueError(
                f"lesioned expects blocks that lie side by side, got {first!r} and {second!r}, "
                f"of which one lies in the other"
            )


def lies_in(path, other):
    """Whether `path` is inside `other`; everything is inside the model itself, ""."""
    return other == "" or path.startswith(f"{other}.")


# ---- studies


def lesion_study(model, x, labels, *, loss=None, batch_size=256, progress=None):
    """Loss and accuracy without each block in turn, in inference mode.

    Parameters
    ----------
    model : Layer
        Left as it was.
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward, optional
        If left out, the cross-entropy that fits the model: see `default_loss`.
    batch_size : int
    progress : bool, optional
        Whether to draw a bar; left out, it is drawn in a terminal only.

    Returns
    -------
    lesions : list of Lesion
        First the model as it is, then without each block of `blocks` from the input to the output.
        Plain blocks that change the shape are left out.

    Raises
    ------
    ValueError
        If the model has no blocks.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, section 4.1 and figure 3.
    """
    twin, loss = subject("lesion_study", model, loss)
    plans = [()] + [(path,) for path in droppable(twin, x)]
    models = (lesioned(twin, drop=plan) for plan in plans)
    results = evaluations(models, len(plans), x, labels, loss, batch_size, progress)
    return [Lesion("".join(plan), *result) for plan, result in zip(plans, results, strict=True)]


def multi_lesion_study(
    model, x, labels, *, counts, repeats=5, rng=None, loss=None, batch_size=256, progress=None
):
    """Loss and accuracy without several blocks, drawn at random.

    Parameters
    ----------
    model, x, labels, loss, batch_size, progress
        As in `lesion_study`.
    counts : iterable of int
        How many blocks to drop at once. Blocks inside other blocks are not drawn.
    repeats : int
        Draws for each count.
    rng : None, int or numpy.random.Generator

    Returns
    -------
    lesions : list of MultiLesion
        In the order of `counts`, repeats after each other.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, section 4.2 and figure 5 (a).
    """
    owner = "multi_lesion_study"
    twin, loss = subject(owner, model, loss)
    rng, paths = as_rng(owner, rng), outermost(droppable(twin, x))
    plans = trials(owner, "counts", counts, repeats)
    most = max([count for count, _ in plans], default=0)
    if most > len(paths):
        raise ValueError(
            f"{owner} expects counts of at most {len(paths)}, the blocks that can be dropped, "
            f"got {most}"
        )
    models = (
        lesioned(twin, drop=rng.choice(paths, count, replace=False).tolist() if count else ())
        for count, _ in plans
    )
    results = evaluations(models, len(plans), x, labels, loss, batch_size, progress)
    return [MultiLesion(*plan, *result) for plan, result in zip(plans, results, strict=True)]


def shuffle_study(
    model, x, labels, *, swaps, repeats=5, rng=None, loss=None, batch_size=256, progress=None
):
    """Loss and accuracy with blocks in another order.

    Parameters
    ----------
    model, x, labels, loss, batch_size, progress
        As in `lesion_study`.
    swaps : iterable of int
        How many random pairs trade places, one pair after the other. The blocks of a pair take
        and give the same shapes; none lies inside another block.
    repeats : int
        Draws for each number of swaps.
    rng : None, int or numpy.random.Generator

    Returns
    -------
    shuffles : list of Shuffle
        In the order of `swaps`, repeats after each other.

    References
    ----------
    Veit et al. (2016), arXiv:1605.06431, section 4.3 and figure 5 (b).
    """
    owner = "shuffle_study"
    twin, loss = subject(owner, model, loss)
    rng, paths = as_rng(owner, rng), outermost(blocks(twin))
    plans, pairs = trials(owner, "swaps", swaps, repeats), equal_pairs(twin, x, paths)
    if not pairs:
        raise ValueError(f"{owner} expects two blocks of equal shapes, got none among {paths}")
    orders = [random_order(len(paths), pairs, count, rng) for count, _ in plans]
    models = (reordered(twin, paths, order) for order in orders)
    results = evaluations(models, len(plans), x, labels, loss, batch_size, progress)
    return [
        Shuffle(*plan, kendall_tau(order), *result)
        for plan, order, result in zip(plans, orders, results, strict=True)
    ]


def subject(owner, model, loss):
    """A copy of the model to cut up, and the loss to measure it with."""
    expect_layer(owner, "model", model)
    if not blocks(model):
        raise ValueError(
            f"{owner} expects a model with Residual blocks, or with layers called block0, block1, "
            f"... in its Sequentials, got {inventory(model)}"
        )
    return copy.deepcopy(model), default_loss(model, loss)


def inventory(model):
    """What a model without blocks has instead."""
    kind, names = type(model).__name__, [name for name, _ in model.children()]
    return f"a {kind} of {names}" if names else f"a {kind}"


def evaluations(models, total, x, labels, loss, batch_size, progress):
    """The loss and accuracy of each model."""
    disable = None if progress is None else not progress
    bar = tqdm(models, total=total, disable=disable, unit="model", leave=False)
    with np.errstate(all="ignore"):  # an infinite loss is a result, too
        return [evaluate(model, x, labels, loss=loss, batch_size=batch_size) for model in bar]


def trials(owner, name, counts, repeats):
    """[(count, repeat)], each count `repeats` times."""
    if not isinstance(counts, Iterable):
        raise TypeError(f"{owner} expects {name} to be several integers, got {counts!r}")
    counts = [expect_int(owner, name, count, at_least=0) for count in counts]
    repeats = expect_int(owner, "repeats", repeats)
    return list(itertools.product(counts, range(repeats)))


# ---- which blocks fit where


class Shapes(Observer):
    """The shapes that every layer takes and gives.

    Attributes
    ----------
    seen : {id of a layer: ((1, ...), (1, ...))}
    """

    coarse = True

    def __init__(self):
        self.seen = {}

    def after_forward(self, layer, x, y, training):
        self.seen[id(layer)] = x.shape, y.shape


def block_shapes(model, x):
    """{path: (shape of its input, shape of its output)} of the blocks, for one image."""
    with observe(model, Shapes()) as shapes:
        model.forward(x[:1])
    layers = dict(model.named_layers())
    return {path: shapes.seen[id(layers[path])] for path in blocks(model)}


def droppable(model, x):
    """The blocks that leave behind a model that runs."""
    layers = dict(model.named_layers())
    return [
        path
        for path, (before, after) in block_shapes(model, x).items()
        if isinstance(layers[path], Residual) or before == after
    ]


def outermost(paths):
    """Those that lie in no other."""
    return [path for path in paths if not any(lies_in(path, other) for other in paths)]


def equal_pairs(model, x, paths):
    """[(i, j)] of the blocks that take and give the same shapes."""
    shapes = block_shapes(model, x)
    pairs = itertools.combinations(range(len(paths)), 2)
    return [(i, j) for i, j in pairs if shapes[paths[i]] == shapes[paths[j]]]


# ---- orders


def random_order(length, pairs, swaps, rng):
    """0..length - 1 after random pairs of places have traded what they hold."""
    order = list(range(length))
    for i, j in rng.choice(pairs, swaps):
        order[i], order[j] = order[j], order[i]
    return order


def reordered(model, paths, order):
    """The model with block `order[i]` where block i was."""
    layers = dict(model.named_layers())
    places = zip(paths, order, strict=True)
    return changed(model, {path: layers[paths[i]] for path, i in places if paths[i] != path})


def kendall_tau(order):
    """The rank correlation of an order with the ascending one.

    Parameters
    ----------
    order : (L,) numbers
        At least two, all different.

    Returns
    -------
    tau : float
        The share of the pairs that ascend minus the share of those that descend: from -1 to 1.

    Examples
    --------
    >>> round(kendall_tau([0, 2, 1]), 3)  # (0, 2) and (0, 1) ascend, (2, 1) does not
    0.333
    """
    order = np.asarray(order)
    if order.ndim != 1 or len(set(order.tolist())) != len(order) or len(order) < 2:
        raise ValueError(f"kendall_tau expects two or more different numbers, got {order.tolist()}")
    first, second = np.triu_indices(len(order), k=1)
    return float(np.sign(order[second] - order[first]).mean())
