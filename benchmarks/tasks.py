"""What the contenders are given: the same network, the same weights, the same batch."""

import numpy as np

from minires.data import Dataset
from minires.layers import BatchNorm2d
from minires.models import build

MODELS = (
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet18",
    "resnet34",
    "article_resnet",
)
STORED = ("x_train", "y_train", "x_test", "y_test", "class_names", "name")  # of a Dataset


def network(model, options, ops=None):
    """The model `model` with fixed weights, and batch norms that are not at their start.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    options : dict
        Of the model's function.
    ops : module, optional
    """
    more = {} if ops is None else {"ops": ops}
    net = build(model, rng=0, **options, **more)
    rng = np.random.default_rng(1)
    for _, layer in net.named_layers():
        if isinstance(layer, BatchNorm2d):
            shape, dtype = layer.gamma.shape, layer.gamma.dtype
            layer.gamma.value = rng.uniform(0.5, 1.5, shape).astype(dtype)
            layer.beta.value = (0.1 * rng.standard_normal(shape)).astype(dtype)
            layer.running_mean = (0.1 * rng.standard_normal(shape)).astype(dtype)
            layer.running_var = rng.uniform(0.5, 2, shape).astype(dtype)
    return net


def batch(model, size):
    """Random images (N, H, W, C) in float32 and labels (N,)."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((size, *model.input_shape), dtype=np.float32)
    return x, rng.integers(0, model.num_classes, size)


def write_images(data, file):
    """Write a Dataset into an npz file."""
    np.savez(file, **{name: getattr(data, name) for name in STORED})


def read_images(file):
    """The Dataset that `write_images` wrote."""
    with np.load(file) as stored:
        found = {name: stored[name] for name in STORED}
    words = {"class_names": tuple(found["class_names"].tolist()), "name": str(found["name"])}
    return Dataset(**found | words)


def state(model):
    """{path: array} of all weights and running statistics."""
    arrays = {path: parameter.value for path, parameter in model.named_parameters()}
    for path, layer in model.named_layers():
        if isinstance(layer, BatchNorm2d):
            arrays[f"{path}.running_mean"] = layer.running_mean
            arrays[f"{path}.running_var"] = layer.running_var
    return arrays
