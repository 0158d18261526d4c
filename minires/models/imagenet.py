"""ResNet-18, 34 and 50 for large images, He et al. (2015), table 1, as torchvision builds them.

A 7x7/2 convolution and a 3x3/2 max pool, four stages with 64, 128, 256 and 512 filters, global
average pooling and a dense layer. ResNet-50's bottleneck blocks are 1x1, 3x3, 1x1 with four times
the filters at the end; the stride sits in the 3x3.
"""

import numpy as np

from minires.checks import expect_int
from minires.layers import GlobalAvgPool2d, MaxPool2d, ReLU, Sequential
from minires.models.parts import ImageModel, Parts, image_shape, residual_block, with_shortcut
from minires.ops import default as default_ops


def imagenet_resnet(
    owner,
    block,
    blocks,
    expansion,
    num_classes,
    *,
    input_shape=(224, 224, 3),
    shortcut="B",
    norm="batch",
    rng=None,
    dtype=np.float32,
    ops=default_ops,
):
    """The network with `blocks` blocks in its four stages; options as for `cifar_resnet`."""
    H, W, C = image_shape(owner, input_shape)
    num_classes = expect_int(owner, "num_classes", num_classes)
    parts = Parts(owner, norm, shortcut, rng, dtype, ops)
    layers = {
        "conv": parts.conv(C, 64, 7, stride=2),
        **parts.norms("norm", 64),
        "relu": ReLU(ops=ops),
        "maxpool": MaxPool2d(3, stride=2, padding=1, ops=ops),
    }
    C = 64
    for i, n in enumerate(blocks):
        filters = 64 * 2**i
        chain = {}
        for j in range(n):
            stride = 2 if i > 0 and j == 0 else 1
            chain[f"block{j}"] = block(parts, C, filters, stride)
            C = filters * expansion
        layers[f"stage{i + 1}"] = Sequential(**chain)
    layers |= {"pool": GlobalAvgPool2d(ops=ops), "fc": parts.dense(C, num_classes)}
    return ImageModel((H, W, input_shape[2]), num_classes, **layers)


def bottleneck_block(parts, C, F, stride):
    """1x1 down to F channels, 3x3, 1x1 up to 4F, beside the shortcut, ReLU after the sum."""
    branch = Sequential(
        conv1=parts.conv(C, F, 1),
        **parts.norms("norm1", F),
        relu1=ReLU(ops=parts.ops),
        conv2=parts.conv(F, F, 3, stride),
        **parts.norms("norm2", F),
        relu2=ReLU(ops=parts.ops),
        conv3=parts.conv(F, 4 * F, 1),
        **parts.norms("norm3", 4 * F),
    )
    return with_shortcut(parts, branch, C, 4 * F, stride)


def resnet18(num_classes=1000, **options):
    """18 layers, 11,689,512 parameters at 1000 classes; options as for `cifar_resnet`."""
    return imagenet_resnet("resnet18", residual_block, (2, 2, 2, 2), 1, num_classes, **options)


def resnet34(num_classes=1000, **options):
    """34 layers, 21,797,672 parameters at 1000 classes; options as for `cifar_resnet`."""
    return imagenet_resnet("resnet34", residual_block, (3, 4, 6, 3), 1, num_classes, **options)


def resnet50(num_classes=1000, **options):
    """50 layers, 25,557,032 parameters at 1000 classes; options as for `cifar_resnet`."""
    return imagenet_resnet("resnet50", bottleneck_block, (3, 4, 6, 3), 4, num_classes, **options)
