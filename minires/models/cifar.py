"""The networks of He et al. (2015), section 4.2, for small images: residual, plain, pre-activation.

A 3x3 convolution with 16 filters, three stages of n blocks with 16, 32 and 64 filters, halving the
image at the start of the second and third, global average pooling and a dense layer: 6n + 2
layers with weights. The plain twin leaves out the shortcuts and nothing else.
"""

import numpy as np

from minires.checks import expect_int
from minires.initializers import he_normal
from minires.layers import GlobalAvgPool2d, ReLU, Residual, Sequential
from minires.models.parts import ImageModel, Parts, image_shape, residual_block
from minires.ops import default as default_ops


def cifar_resnet(
    depth,
    num_classes=10,
    *,
    input_shape=(32, 32, 3),
    kind="residual",
    shortcut="A",
    norm="batch",
    initializer=he_normal,
    relu_after_add=True,
    rng=None,
    dtype=np.float32,
    ops=default_ops,
):
    """The network of 6n + 2 layers.

    Parameters
    ----------
    depth : int
        6n + 2: 8, 14, 20, ...
    num_classes : int
    input_shape : (H, W, C)
        Any size; it decides the number of input channels.
    kind : {"residual", "plain", "preactivation"}
        "residual" has a ReLU after each sum (He et al. 2015), "preactivation" has norm and ReLU in
        front of each convolution and a clean identity path (He et al. 2016), "plain" no shortcut.
    shortcut : {"A", "B"}
        Where a block changes shape: "A" subsamples and pads channels with zeros, "B" is a 1x1
        convolution.
    norm : "batch" or None
        Without a norm the convolutions get a bias.
    initializer : callable
        Of the weights, from `minires.initializers`.
    relu_after_add : bool
        False leaves out the ReLU after each sum of a "residual" network, as `article_resnet` does,
        so that the identity path is clean from the last sum of a stage to the first.
    rng : None, int or numpy.random.Generator
        For the weights. As in NumPy, None draws from the system's entropy.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    model : ImageModel
        (N, H, W, C) -> logits (N, num_classes).

    References
    ----------
    He et al. (2015), arXiv:1512.03385, section 4.2; He et al. (2016), arXiv:1603.05027, figure 1.
    """
    H, W, C = image_shape("cifar_resnet", input_shape)
    num_classes = expect_int("cifar_resnet", "num_classes", num_classes)
    depth = expect_int("cifar_resnet", "depth", depth)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet expects a depth of 6n + 2 (8, 14, 20, ...), got {depth}")
    if kind not in BLOCKS:
        raise ValueError(f"cifar_resnet expects kind to be one of {list(BLOCKS)}, got {kind!r}")
    if kind != "residual" and not relu_after_add:
        raise ValueError(f"cifar_resnet expects relu_after_add of residual networks, got {kind!r}")
    parts = Parts("cifar_resnet", norm, shortcut, rng, dtype, ops, initializer, relu_after_add)
    relu = {"relu": ReLU(ops=ops)}
    preactivation = kind == "preactivation"
    stem = {"conv": parts.conv(C, 16, 3)}
    if not preactivation:
        stem |= parts.norms("norm", 16) | relu
    stages = {
        f"stage{i + 1}": stage(parts, BLOCKS[kind], n=(depth - 2) // 6, C=max(16, F // 2), F=F)
        for i, F in enumerate((16, 32, 64))
    }
    head = {"pool": GlobalAvgPool2d(ops=ops), "fc": parts.dense(64, num_classes)}
    if preactivation:
        head = parts.norms("norm", 64) | relu | head
    return ImageModel((H, W, C), num_classes, **stem, **stages, **head)


def stage(parts, block, n, C, F):
    """n blocks with F filters; the first takes C channels and halves the image where C != F."""
    first = {"block0": block(parts, C, F, stride=1 if C == F else 2)}
    return Sequential(**first, **{f"block{i}": block(parts, F, F, stride=1) for i in range(1, n)})


def plain_block(parts, C, F, stride):
    """The residual block without its shortcut."""
    return Sequential(
        conv1=parts.conv(C, F, 3, stride),
        **parts.norms("norm1", F),
        relu1=ReLU(ops=parts.ops),
        conv2=parts.conv(F, F, 3),
        **parts.norms("norm2", F),
        relu2=ReLU(ops=parts.ops),
    )


def preactivation_block(parts, C, F, stride):
    """shortcut(x) + branch(x), with norm and ReLU in front of each convolution of the branch."""
    branch = Sequential(
        **parts.norms("norm1", C),
        relu1=ReLU(ops=parts.ops),
        conv1=parts.conv(C, F, 3, stride),
        **parts.norms("norm2", F),
        relu2=ReLU(ops=parts.ops),
        conv2=parts.conv(F, F, 3),
    )
    shortcut = parts.shortcut(C, F, stride, norm=False)
    return Residual(branch, shortcut, ops=parts.ops)


BLOCKS = {
    "residual": residual_block,
    "plain": plain_block,
    "preactivation": preactivation_block,
}


def resnet8(num_classes=10, **options):
    """The smallest residual network, one block a stage, for experiments; see `cifar_resnet`."""
    return cifar_resnet(8, num_classes, **options)


def resnet20(num_classes=10, **options):
    """The residual network of 20 layers, 269,722 parameters; see `cifar_resnet`."""
    return cifar_resnet(20, num_classes, **options)


def resnet32(num_classes=10, **options):
    """The residual network of 32 layers, 464,154 parameters; see `cifar_resnet`."""
    return cifar_resnet(32, num_classes, **options)


def resnet44(num_classes=10, **options):
    """The residual network of 44 layers, 658,586 parameters; see `cifar_resnet`."""
    return cifar_resnet(44, num_classes, **options)


def resnet56(num_classes=10, **options):
    """The residual network of 56 layers, 853,018 parameters; see `cifar_resnet`."""
    return cifar_resnet(56, num_classes, **options)


def resnet110(num_classes=10, **options):
    """The residual network of 110 layers, 1,727,962 parameters; see `cifar_resnet`."""
    return cifar_resnet(110, num_classes, **options)


def plain8(num_classes=10, **options):
    """`resnet8` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(8, num_classes, kind="plain", **options)


def plain20(num_classes=10, **options):
    """`resnet20` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(20, num_classes, kind="plain", **options)


def plain32(num_classes=10, **options):
    """`resnet32` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(32, num_classes, kind="plain", **options)


def plain44(num_classes=10, **options):
    """`resnet44` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(44, num_classes, kind="plain", **options)


def plain56(num_classes=10, **options):
    """`resnet56` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(56, num_classes, kind="plain", **options)


def plain110(num_classes=10, **options):
    """`resnet110` without shortcuts; see `cifar_resnet`."""
    return cifar_resnet(110, num_classes, kind="plain", **options)


def preact_resnet20(num_classes=10, **options):
    """The pre-activation network of 20 layers; see `cifar_resnet`."""
    return cifar_resnet(20, num_classes, kind="preactivation", **options)


def preact_resnet32(num_classes=10, **options):
    """The pre-activation network of 32 layers; see `cifar_resnet`."""
    return cifar_resnet(32, num_classes, kind="preactivation", **options)


def preact_resnet44(num_classes=10, **options):
    """The pre-activation network of 44 layers; see `cifar_resnet`."""
    return cifar_resnet(44, num_classes, kind="preactivation", **options)


def preact_resnet56(num_classes=10, **options):
    """The pre-activation network of 56 layers; see `cifar_resnet`."""
    return cifar_resnet(56, num_classes, kind="preactivation", **options)


def preact_resnet110(num_classes=10, **options):
    """The pre-activation network of 110 layers; see `cifar_resnet`."""
    return cifar_resnet(110, num_classes, kind="preactivation", **options)
