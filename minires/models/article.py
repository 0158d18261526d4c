"""The Keras network that minires grew from: 18 identical blocks, no ReLU after the sum."""

import numpy as np

from minires.checks import as_rng, expect_int
from minires.initializers import glorot_uniform
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from minires.models.parts import ImageModel, image_shape
from minires.ops import default as default_ops

KERAS_NORM = {"eps": 1e-3, "momentum": 0.01, "running_variance": "biased"}


def article_resnet(
    filters=64,
    num_blocks=18,
    num_classes=10,
    *,
    input_shape=(32, 32, 3),
    rng=None,
    dtype=np.float32,
    ops=default_ops,
):
    """7x7/2 stem, max pool, identical residual blocks, 4x4/1 average pool, dense; returns logits.

    Every default is Keras': Glorot-uniform weights, biases in the convolutions, batch norm with
    eps 1e-3 and a momentum of 0.99 in Keras' sense (0.01 here) on the biased variance. Train it
    with `Adam(model.parameters(), eps=1e-7)`.

    Parameters
    ----------
    filters, num_blocks, num_classes : int
    input_shape : (H, W, C)
        At least 13x13, so that a quarter of it holds the 4x4 pooling window.
    rng : None, int or numpy.random.Generator
        As in NumPy, None draws from the system's entropy.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    model : ImageModel
        (N, H, W, C) -> logits (N, num_classes); 1,359,626 parameters with the defaults.
    """
    H, W, C = image_shape("article_resnet", input_shape)
    filters = expect_int("article_resnet", "filters", filters)
    num_blocks = expect_int("article_resnet", "num_blocks", num_blocks, at_least=0)
    num_classes = expect_int("article_resnet", "num_classes", num_classes)
    OH, OW = -(-H // 4) - 3, -(-W // 4) - 3  # after two "same" halvings and the 4x4 window
    if min(OH, OW) < 1:
        raise ValueError(f"article_resnet expects images of at least 13x13, got {H}x{W}")
    rng = as_rng("article_resnet", rng)
    options = {"initializer": glorot_uniform, "rng": rng, "dtype": dtype, "ops": ops}

    def conv(C, kernel_size, stride=1):
        return Conv2d(C, filters, kernel_size, stride=stride, padding="same", **options)

    def norm():
        return BatchNorm2d(filters, dtype=dtype, ops=ops, **KERAS_NORM)

    def block():
        """The identity beside conv, norm, ReLU, conv, norm; nothing after the sum."""
        return Residual(
            Sequential(
                conv1=conv(filters, 3),
                norm1=norm(),
                relu=ReLU(ops=ops),
                conv2=conv(filters, 3),
                norm2=norm(),
            ),
            ops=ops,
        )

    return ImageModel(
        (H, W, C),
        num_classes,
        conv=conv(C, 7, stride=2),
        norm=norm(),
        relu=ReLU(ops=ops),
        maxpool=MaxPool2d(3, stride=2, padding="same", ops=ops),
        **{f"block{i}": block() for i in range(num_blocks)},
        pool=AvgPool2d(4, stride=1, ops=ops),
        flatten=Flatten(),
        fc=Dense(OH * OW * filters, num_classes, **options),
    )
