"""Shuffled batches, prepared one ahead of the training step."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from minires.checks import expect_int


def batches(x, labels, batch_size, rng=None, *, shuffle=True, prepare=None):
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
    prepare : callable, optional
        (images, index) -> images, such as what `Preprocess.training` does to them. The next batch
        is prepared in a thread of its own while the current one is in use.

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
    parts = split(order, batch_size)
    if prepare is None:
        return ((x[index], labels[index]) for index in parts)
    return ahead(lambda index: (prepare(x[index], index), labels[index]), parts)


def split(order, batch_size):
    """The numbers of the examples of each batch, [(batch_size,) int]."""
    cuts = np.arange(batch_size, len(order), batch_size)
    return np.split(order, cuts[: count_batches(len(order), batch_size) - 1])


def ahead(make, items):
    """Yield make(item) for each item, made in a thread while the one before it is in use.

    Parameters
    ----------
    make : callable
    items : iterable

    Notes
    -----
    An error in `make` comes out where its result would have. NumPy lets other threads run while it
    copies and multiplies, so on two cores a batch costs the step before it a fraction of its time.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="minires-data") as pool:
        coming = None
        for item in items:
            coming, ready = pool.submit(make, item), coming
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def count_batches(examples, batch_size):
    """How many batches there will be."""
    count = -(-examples // batch_size)
    alone = examples % batch_size == 1 and count > 1
    return count - alone
