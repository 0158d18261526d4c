"""The norm of the gradient of each weight layer, from the input to the output."""

from typing import NamedTuple

from minires.flow.undisturbed import undisturbed
from minires.layers import Conv2d, Dense
from minires.losses import SoftmaxCrossEntropy
from minires.optimizers import gradient_norm


class GradientNorm(NamedTuple):
    """One layer's gradient.

    Attributes
    ----------
    depth : int
        1 for the first layer with weights; shortcut projections are left out, as in "ResNet-56".
    path : str
        Of the weight.
    norm : float
        Euclidean norm of the gradient of the mean loss with respect to the weight.
    """

    depth: int
    path: str
    norm: float


def gradient_norms(model, x, labels, *, loss=None):
    """The gradient norm of every convolution and dense weight, in the order of depth.

    One forward pass in training mode and one backward pass; weights, gradients, running statistics
    and random streams are left as they were.

    Parameters
    ----------
    model : Layer
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward and backward, optional
        SoftmaxCrossEntropy() if left out.

    Returns
    -------
    norms : list of GradientNorm
    """
    loss = SoftmaxCrossEntropy() if loss is None else loss
    with undisturbed(model):
        loss.forward(model.forward(x, training=True), labels)
        model.backward(loss.backward())
        return [
            GradientNorm(depth, f"{path}.weight", gradient_norm([layer.weight], ops=layer.ops))
            for depth, (path, layer) in enumerate(weight_layers(model), start=1)
        ]


def weight_layers(model):
    """[(path, layer)] of the convolutions and dense layers, without those in shortcuts."""
    return [
        (path, layer)
        for path, layer in model.named_layers()
        if isinstance(layer, Conv2d | Dense) and "shortcut" not in path.split(".")
    ]
