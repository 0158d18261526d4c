"""Shuffled batches."""

import numpy as np

from minires.checks import expect_int


def batches(x, labels, batch_size, rng=None, *, shuffle=True):
    """Yield (x, labels) in batches, with the examples (not the batches) in random order.

    Parameters
    ----------
    x : (N, ...) array
    labels : (N, ...) array
    batch_size : int
        The last batch holds what is left. A single example that would be left over joins the batch
        before it: batch norm cannot train on one.
    rng : None, int or numpy.random.Generator
        As in NumPy, None draws from the system's entropy.
    shuffle : bool
        False keeps the order.

    Yields
    ------
    x : (batch_size, ...), labels : (batch_size, ...)
        Copies.

    Raises
    ------
    ValueError
        If x and labels differ in length, or are empty.
    """
    batch_size = expect_int("batches", "batch_size", batch_size)
    if len(x) != len(labels) or not len(x):
        raise ValueError(
            f"batches expects as many labels as examples, at least one, "
            f"got {len(x)} examples and {len(labels)} labels"
        )
    x, labels = np.asarray(x), np.asarray(labels)
    order = np.arange(len(x))
    if shuffle:
        np.random.default_rng(rng).shuffle(order)
    cuts = np.arange(batch_size, len(x), batch_size)[: count_batches(len(x), batch_size) - 1]
    return ((x[chosen], labels[chosen]) for chosen in np.split(order, cuts))


def count_batches(examples, batch_size):
    """How many batches there will be."""
    count = -(-examples // batch_size)
    alone = examples % batch_size == 1 and count > 1
    return count - alone
