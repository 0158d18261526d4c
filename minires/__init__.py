"""minires: residual networks from scratch in NumPy, to be read, trusted and run.

The six lines that everything else serves:

    logits = model.forward(x, training=True)
    value = loss.forward(logits, labels)
    optimizer.zero_grad()
    model.backward(loss.backward())
    optimizer.step()
"""

import importlib

import minires.before_numpy  # noqa: F401  first of all
from minires import data, flow, initializers, keras, models, ops, schedules
from minires.core import Layer, Observer, Parameter, observe, retain_caches
from minires.finite import NonFiniteError
from minires.flow import FlowRecorder
from minires.fusion import fuse
from minires.gradcheck import assert_gradients, check_gradients
from minires.history import History
from minires.keras import Model
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    MaxPool2d,
    PadShortcut,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy
from minires.models.summary import print_summary as summary
from minires.optimizers import SGD, Adam, AdamW, Muon, clip_gradients
from minires.threads import get_num_threads, set_num_threads
from minires.training import evaluate, fit, predict, train_step

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AvgPool2d",
    "BatchNorm2d",
    "CategoricalCrossEntropy",
    "Conv2d",
    "Dense",
    "Dropout",
    "Flatten",
    "FlowRecorder",
    "GlobalAvgPool2d",
    "History",
    "Identity",
    "Layer",
    "MaxPool2d",
    "Model",
    "Muon",
    "NonFiniteError",
    "Observer",
    "PadShortcut",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "Softmax",
    "SoftmaxCrossEntropy",
    "assert_gradients",
    "check_gradients",
    "clip_gradients",
    "data",
    "evaluate",
    "fit",
    "flow",
    "fuse",
    "get_num_threads",
    "initializers",
    "keras",
    "models",
    "observe",
    "ops",
    "plots",
    "predict",
    "retain_caches",
    "schedules",
    "set_num_threads",
    "summary",
    "train_step",
]

LAZY = ("plots", "testing")  # they import matplotlib and Hypothesis; the latter may be missing


def __getattr__(name):
    if name in LAZY:
        return importlib.import_module(f"minires.{name}")
    raise AttributeError(f"module 'minires' has no attribute {name!r}")
