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
        The last batch holds what is left, at least one example.
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
    order = np.arange(len(x))
    if shuffle:
        np.random.default_rng(rng).shuffle(order)
    return (
        (x[chosen], labels[chosen])
        for chosen in (order[i : i + batch_size] for i in range(0, len(x), batch_size))
    )
