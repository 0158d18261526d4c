"""The norm of the gradient of each weight layer, from the input to the output."""

from typing import NamedTuple

from minires.core import Parameter, join_path
from minires.flow.undisturbed import undisturbed
from minires.layers.containers import expect_layer
from minires.losses import default_loss
from minires.ops import default as default_ops
from minires.optimizers import gradient_norm


class GradientNorm(NamedTuple):
    """One layer's gradient.

    Attributes
    ----------
    depth : int
        1 for the first weight; those in shortcuts are left out, as in "ResNet-56".
    path : str
        Of the weight.
    norm : float
        Euclidean norm of the gradient of the mean loss with respect to the weight.
    """

    depth: int
    path: str
    norm: float


def gradient_norms(model, x, labels, *, loss=None):
    """The gradient norm of every weight that is a matrix or a stack of them, in order of depth.

    Those of convolutions, dense layers and of your own layers; not biases and norms.

    One forward pass in training mode and one backward pass; weights, gradients, running statistics
    and random streams are left as they were.

    Parameters
    ----------
    model : Layer
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward and backward, optional
        If left out, the cross-entropy that fits the model: see `losses.default_loss`.

    Returns
    -------
    norms : list of GradientNorm
    """
    loss = default_loss(expect_layer("gradient_norms", "model", model), loss)
    with undisturbed(model):
        loss.forward(model.forward(x, training=True), labels)
        model.backward(loss.backward())
        return [
            GradientNorm(depth, path, gradient_norm([weight], ops=ops))
            for depth, (path, weight, ops) in enumerate(weights(model), start=1)
        ]


def weights(model):
    """[(path, Parameter, op set of its layer)] of the weights with a depth, each once.

    That is: of role "weight", with at least two axes, in no shortcut.
    """
    found = {}
    for path, layer in model.named_layers():
        for name, value in vars(layer).items():
            deep = isinstance(value, Parameter) and value.role == "weight" and value.value.ndim > 1
            if deep and "shortcut" not in path.split("."):
                ops = getattr(layer, "ops", default_ops)
                found.setdefault(id(value), (join_path(path, name), value, ops))
    return list(found.values())
