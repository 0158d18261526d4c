"""The names of Keras on minires' layers, for programs that come from there.

    from minires.keras import Input, Conv2D, BatchNormalization, ReLU, add, Dense, Model

A program in Keras' functional style runs with its imports changed. Calling a layer on a tensor
computes nothing: it notes the layer and works out the shape. `Model(inputs, outputs)` then follows
the notes back from the outputs, turns every stretch into a `Sequential` and every `add` of two
paths into a `Residual`, and trains that. `model.layer` is the minires model; look at it, record
it, check it. What this module leaves out (other losses, several inputs, concatenation) is refused
by name.
"""

import numpy as np

from minires import initializers
from minires.checks import expect_choice, expect_int, format_shape
from minires.core import Layer
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
    Residual,
    Sequential,
    Softmax,
)
from minires.layers import Dense as DenseLayer
from minires.layers import Dropout as DropoutLayer
from minires.layers import Flatten as FlattenLayer
from minires.layers import ReLU as ReLULayer
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy
from minires.models.summary import print_summary
from minires.optimizers import SGD as SGDOptimizer
from minires.optimizers import Adam as AdamOptimizer
from minires.optimizers import Optimizer
from minires.training import evaluate, fit, predict
