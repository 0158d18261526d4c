"""Which loss a measurement takes when none is given."""

from minires.layers import Sequential, Softmax
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy


def default_loss(model, loss=None):
    """`loss` if there is one, else the cross-entropy that fits what the model gives.

    Parameters
    ----------
    model : Layer
    loss : object with forward and backward, optional

    Returns
    -------
    loss : object with forward and backward
        Left out: CategoricalCrossEntropy() for a model that ends in a Softmax, as Keras programs
        have it, and SoftmaxCrossEntropy() for any other. The latter would take the softmax of the
        probabilities once more, and no error would say so.

    Examples
    --------
    >>> from minires.layers import Dense
    >>> default_loss(Sequential(Dense(2, 3), Softmax()))
    CategoricalCrossEntropy(floor=1e-07)
    >>> default_loss(Dense(2, 3))
    SoftmaxCrossEntropy(label_smoothing=0)
    """
    if loss is not None:
        return loss
    return CategoricalCrossEntropy() if ends_in_softmax(model) else SoftmaxCrossEntropy()


def ends_in_softmax(layer):
    """Whether the last layer that runs is a Softmax."""
    while isinstance(layer, Sequential) and len(layer):
        layer = layer[-1]
    return isinstance(layer, Softmax)
