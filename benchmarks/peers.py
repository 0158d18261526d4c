"""The networks in PyTorch, module by module as `minires.models` builds them, with the same names.

Imported inside worker processes only. The paths of parameters are minires' but for the `sum` that
minires has around a block; see `theirs.our_path`.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def build(model, options):
    """The peer of `minires.models.build(model, **options)`."""
    if model == "article_resnet":
        return article(**options)
    options = {"input_shape": default_shape(model)} | options
    if model in STAGES:
        return imagenet(STAGES[model], **({"num_classes": 1000, "shortcut": "B"} | options))
    depth = int(model.removeprefix("resnet"))
    return cifar((depth - 2) // 6, **({"num_classes": 10, "shortcut": "A"} | options))


def default_shape(model):
    """Size of the images that a model is built for unless told otherwise."""
    return (224, 224, 3) if model in STAGES else (32, 32, 3)


def named(**modules):
    return nn.Sequential(OrderedDict(modules))


def conv(C, F, K, stride=1, bias=False):
    return nn.Conv2d(C, F, K, stride, K // 2, bias=bias)


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the new channels."""

    def __init__(self, C, F, stride):
        super().__init__()
        self.more, self.stride = F - C, stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, 0, self.more))


def shortcut(kind, C, F, stride):
    if stride == 1 and C == F:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(C, F, stride)
    return named(conv=conv(C, F, 1, stride), norm=nn.BatchNorm2d(F))


class Block(nn.Module):
    """act(shortcut(x) + branch(x))."""

    def __init__(self, branch, shortcut, act):
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x):
        return self.act(self.shortcut(x) + self.branch(x))


def residual_block(kind, C, F, stride):
    branch = named(
        conv1=conv(C, F, 3, stride),
        norm1=nn.BatchNorm2d(F),
        relu=nn.ReLU(inplace=True),
        conv2=conv(F, F, 3),
        norm2=nn.BatchNorm2d(F),
    )
    return Block(branch, shortcut(kind, C, F, stride), nn.ReLU(inplace=True))


def stages(kind, C, filters, blocks):
    """{"stage1": ...}: all but the first halve the image."""
    made = {}
    for i, (F, n) in enumerate(zip(filters, blocks, strict=True)):
        chain = {}
        for j in range(n):
            chain[f"block{j}"] = residual_block(kind, C, F, 2 if i > 0 and j == 0 else 1)
            C = F
        made[f"stage{i + 1}"] = named(**chain)
    return made


class Mean(nn.Module):
    """The mean of each channel."""

    def forward(self, x):
        return x.mean((2, 3))


def cifar(n, *, num_classes, shortcut, input_shape):
    """He et al. (2015), section 4.2: n blocks in each of three stages."""
    return named(
        conv=conv(input_shape[2], 16, 3),
        norm=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        **stages(shortcut, 16, (16, 32, 64), (n, n, n)),
        pool=Mean(),
        fc=nn.Linear(64, num_classes),
    )


def imagenet(blocks, *, num_classes, shortcut, input_shape):
    """ResNet-18 and 34."""
    return named(
        conv=conv(input_shape[2], 64, 7, stride=2),
        norm=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
        **stages(shortcut, 64, (64, 128, 256, 512), blocks),
        pool=Mean(),
        fc=nn.Linear(512, num_classes),
    )


class FlattenNHWC(nn.Module):
    """(N, C, H, W) -> (N, H*W*C), in minires' order."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def same(size, K, stride):
    """TensorFlow's padding of one axis: the odd zero goes behind."""
    total = max((-(-size // stride) - 1) * stride + K - size, 0)
    return total // 2, total - total // 2


def article(filters=64, num_blocks=18, num_classes=10, *, input_shape=(32, 32, 3)):
    """The Keras network: 18 blocks alike, no ReLU after the sum, biases before the norms."""
    H, W, C = input_shape

    def norm():
        return nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)

    def block():
        branch = named(
            conv1=conv(filters, filters, 3, bias=True),
            norm1=norm(),
            relu=nn.ReLU(inplace=True),
            conv2=conv(filters, filters, 3, bias=True),
            norm2=norm(),
        )
        return Block(branch, nn.Identity(), nn.Identity())

    h, w = -(-H // 2), -(-W // 2)
    return named(
        border=nn.ZeroPad2d((*same(W, 7, 2), *same(H, 7, 2))),
        conv=nn.Conv2d(C, filters, 7, 2),
        norm=norm(),
        relu=nn.ReLU(inplace=True),
        edge=nn.ConstantPad2d((*same(w, 3, 2), *same(h, 3, 2)), -torch.inf),
        maxpool=nn.MaxPool2d(3, 2),
        **{f"block{i}": block() for i in range(num_blocks)},
        pool=nn.AvgPool2d(4, 1),
        flatten=FlattenNHWC(),
        fc=nn.Linear((-(-h // 2) - 3) * (-(-w // 2) - 3) * filters, num_classes),
    )
