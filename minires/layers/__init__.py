"""The layers: each holds its Parameters, checks its input and calls its op."""

from minires.layers.activation import ReLU, Softmax
from minires.layers.batchnorm import BatchNorm2d
from minires.layers.containers import Residual, Sequential
from minires.layers.conv import Conv2d
from minires.layers.dense import Dense
from minires.layers.dropout import Dropout
from minires.layers.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from minires.layers.shape import Flatten, Identity, PadShortcut

__all__ = [
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Identity",
    "MaxPool2d",
    "PadShortcut",
    "ReLU",
    "Residual",
    "Sequential",
    "Softmax",
]
