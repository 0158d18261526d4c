"""The names of Keras on minires' layers, for programs that come from there.

    from minires.keras import Input, Conv2D, BatchNormalization, ReLU, add, Dense, Model

A program in Keras' functional style runs with its imports changed. Calling a layer on a tensor
computes nothing: it notes the layer and works out the shape (`layers`). `Model(inputs, outputs)`
follows the notes back, turns every stretch into a `Sequential` and every `add` of two paths into a
`Residual` (`graph`), and trains that (`model`). `model.layer` is the minires model: look at it,
record it, check it. What is left out here (other losses, several inputs, concatenation) is refused
by name.
"""

from minires.keras.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Softmax,
    add,
)
from minires.keras.model import SGD, Adam, Model, to_categorical

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "Add",
    "AveragePooling2D",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Input",
    "MaxPooling2D",
    "Model",
    "ReLU",
    "Softmax",
    "add",
    "to_categorical",
]


def __getattr__(name):
    raise AttributeError(f"minires.keras has no {name!r}; it has {', '.join(__all__)}")
