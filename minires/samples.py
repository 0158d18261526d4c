"""One small instance of every layer and loss, with an input for it.

`minires check` checks them all, and the common battery of the tests runs on them: a new layer adds
one line here and inherits both.
"""

import numpy as np

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
from minires.ops import default as default_ops

IMAGES = (3, 5, 6, 4)  # (N, H, W, C): H != W, and no two sizes alike
ROWS = (5, 4)  # (N, D)


def layer_samples(*, dtype=np.float64, ops=default_ops):
    """{name: (layer, shape of an input)}, freshly made."""
    trained = {"rng": 0, "dtype": dtype, "ops": ops}
    norm = {"dtype": dtype, "ops": ops}
    plain = {"ops": ops}
    return {
        "Dense": (Dense(4, 3, **trained), ROWS),
        "Conv2d": (Conv2d(4, 6, 3, **trained), IMAGES),
        "Conv2d 1x1": (Conv2d(4, 3, 1, bias=False, **trained), IMAGES),
        "Conv2d same, stride 2": (Conv2d(4, 3, 3, stride=2, padding="same", **trained), IMAGES),
        "Conv2d uneven": (
            Conv2d(4, 3, (2, 3), stride=(3, 1), padding=((1, 0), (0, 2)), **trained),
            IMAGES,
        ),
        "Conv2d dilated": (Conv2d(4, 2, 3, padding=2, dilation=(1, 2), **trained), IMAGES),
        "Conv2d grouped": (Conv2d(4, 6, 3, padding=1, groups=2, **trained), IMAGES),
        "BatchNorm2d": (BatchNorm2d(4, **norm), IMAGES),
        "BatchNorm2d on rows": (BatchNorm2d(4, **norm), ROWS),
        "ReLU": (ReLU(**plain), IMAGES),
        "MaxPool2d": (MaxPool2d(2, **plain), IMAGES),
        "MaxPool2d same": (MaxPool2d(3, stride=2, padding="same", **plain), IMAGES),
        "AvgPool2d": (AvgPool2d(3, stride=2, padding=1, **plain), IMAGES),
        "AvgPool2d uncounted": (
            AvgPool2d(3, stride=2, padding=1, count_include_pad=False, **plain),
            IMAGES,
        ),
        "GlobalAvgPool2d": (GlobalAvgPool2d(**plain), IMAGES),
        "Flatten": (Flatten(), IMAGES),
        "Identity": (Identity(), IMAGES),
        "Dropout": (Dropout(0.4, rng=0, **plain), IMAGES),
        "PadShortcut": (PadShortcut(4, 7, stride=2, **plain), IMAGES),
        "Softmax": (Softmax(**plain), ROWS),
        "Sequential": (Sequential(Flatten(), Dense(120, 3, **trained)), IMAGES),
        "Residual": (residual(trained, norm, plain), IMAGES),
        "Residual of a ReLU": (Residual(ReLU(**plain), **plain), IMAGES),
        "Residual, projected": (
            Residual(
                Conv2d(4, 6, 3, stride=2, padding=1, **trained),
                Conv2d(4, 6, 1, stride=2, **trained),
                **plain,
            ),
            IMAGES,
        ),
    }


def residual(trained, norm, plain):
    """A residual block as in the models."""
    branch = Sequential(
        conv1=Conv2d(4, 4, 3, padding=1, bias=False, **trained),
        norm1=BatchNorm2d(4, **norm),
        relu=ReLU(**plain),
        conv2=Conv2d(4, 4, 3, padding=1, bias=False, **trained),
        norm2=BatchNorm2d(4, **norm),
    )
    return Residual(branch, **plain)


def loss_samples(*, dtype=np.float64, ops=default_ops):
    """{name: (loss, prediction, labels)}, freshly made."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 4)).astype(dtype)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([0, 3, 1, 1, 2])
    soft = rng.dirichlet(np.ones(4), 5)
    return {
        "SoftmaxCrossEntropy": (SoftmaxCrossEntropy(ops=ops), logits, labels),
        "SoftmaxCrossEntropy, soft": (SoftmaxCrossEntropy(0.1, ops=ops), logits, soft),
        "CategoricalCrossEntropy": (CategoricalCrossEntropy(), probs, labels),
    }
