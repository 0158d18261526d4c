"""Networks of He et al. (2015) on the bundled digits, new and trained, for the other experiments.

Training takes seconds, so that an experiment can train its own; `TRAINED` seeds of it are enough to
see whether a figure depends on the seed.
"""

import numpy as np

from minires.data import load_digits
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet
from minires.optimizers import Adam
from minires.training import fit

TRAINED = 2  # seeds at most, where a network is trained for each
LR, BATCH = 1e-3, 64


def streams(seed, count):
    """`count` Generators that share no numbers.

    With one seed for the model and for a direction in the space of its weights, say, the direction
    would be the weights.

    Parameters
    ----------
    seed, count : int
    """
    return np.random.default_rng(seed).spawn(count)


def network(kind, depth, rng, ops):
    """A new network for the digits, float32; see `cifar_resnet`."""
    shape = load_digits().input_shape
    return cifar_resnet(depth, kind=kind, input_shape=shape, rng=rng, ops=ops)


def train(model, epochs, rng, ops):
    """Adam on the training digits; changes the model.

    Parameters
    ----------
    model : Layer
    epochs : int
    rng : numpy.random.Generator
        Shuffles the digits.
    ops : module

    Returns
    -------
    model : Layer
        The same.
    """
    data = load_digits()
    pair = data.x_train, data.y_train  # without the test part, which would be evaluated each epoch
    optimizer, loss = Adam(model.parameters(), LR, ops=ops), SoftmaxCrossEntropy(ops=ops)
    fit(model, pair, optimizer, epochs, batch_size=BATCH, loss=loss, rng=rng, progress=False)
    return model


def digits(count):
    """The first `count` training images and their labels, float64."""
    data = load_digits(dtype=np.float64)
    return data.x_train[:count], data.y_train[:count]
