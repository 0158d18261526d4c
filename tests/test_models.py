"""The networks: parameter counts of the papers, shapes, kinds, the summary."""

import types

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minires import models
from minires.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Identity,
    PadShortcut,
    Residual,
    Sequential,
)
from minires.models import BUILDERS, build, cifar_resnet, summarize
from minires.models.summary import print_summary
from minires.ops import fast, reference


def count(model):
    return sum(parameter.size for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("plain20", 269_722),
        ("plain56", 853_018),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("article_resnet", 1_359_626),
    ],
)
def test_trainable_parameters_are_those_of_the_paper(name, parameters):
    assert count(build(name, rng=0)) == parameters


@pytest.mark.parametrize("name", [n for n in BUILDERS if "110" not in n and "44" not in n])
def test_every_model_maps_images_of_any_size_and_channels_to_logits(name):
    model = build(name, num_classes=7, input_shape=(16, 20, 2), rng=0)
    assert model.forward(np.zeros((2, 16, 20, 2), np.float32)).shape == (2, 7)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_layer_of_a_model_gets_the_ops_that_were_asked_for(name):
    ops = types.ModuleType("mine")
    layers = [layer for _, layer in build(name, rng=0, ops=ops).named_layers()]
    assert all(layer.ops is ops for layer in layers if hasattr(layer, "ops"))
    layers = [layer for _, layer in build(name, rng=0).named_layers()]
    assert all(layer.ops is fast for layer in layers if hasattr(layer, "ops"))


@pytest.mark.parametrize("kind", ["residual", "plain", "preactivation"])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_every_variant_trains_a_step_forward_and_backward(kind, norm, shortcut, rng):
    model = cifar_resnet(
        8, 5, kind=kind, norm=norm, shortcut=shortcut, input_shape=(7, 6, 3), rng=0
    )
    x = rng.standard_normal((2, 7, 6, 3)).astype(np.float32)
    dx = model.backward(np.ones_like(model.forward(x, training=True)))
    assert dx.shape == x.shape
    assert all(np.isfinite(p.grad).all() for p in model.parameters())
    kinds = {type(layer) for _, layer in model.named_layers()}
    assert (BatchNorm2d in kinds) == (norm == "batch")
    assert (Residual in kinds) == (kind != "plain")
    assert (PadShortcut in kinds) == (kind != "plain" and shortcut == "A")


def test_convolutions_have_a_bias_only_without_norm():
    with_norm, without = (cifar_resnet(8, norm=norm, rng=0) for norm in ("batch", None))
    for model, wanted in ((with_norm, False), (without, True)):
        convolutions = [la for _, la in model.named_layers() if isinstance(la, Conv2d)]
        assert {bool(layer.bias) for layer in convolutions} == {wanted}


def test_the_plain_twin_has_the_same_layers_but_the_shortcuts():
    residual, plain = (cifar_resnet(20, kind=k, rng=0) for k in ("residual", "plain"))
    for a, b in zip(residual.parameters(), plain.parameters(), strict=True):
        assert_array_equal(a.value, b.value)


def test_the_article_has_nothing_after_the_sum_and_kerass_defaults():
    model = models.article_resnet(rng=0)
    blocks = [layer for layer in model if isinstance(layer, Residual)]
    assert len(blocks) == 18
    assert all(isinstance(block.shortcut, Identity) for block in blocks)
    norm = blocks[0].branch.norm1
    assert (norm.eps, norm.momentum, norm.running_variance) == (1e-3, 0.01, "biased")
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))
    assert 0.99 * limit < np.abs(blocks[0].branch.conv1.weight.value).max() <= limit


def test_without_the_relu_after_the_add_the_blocks_are_the_sums_alone():
    bare, usual = (models.resnet20(relu_after_add=choice, rng=0) for choice in (False, True))
    blocks = [block for s in (bare.stage1, bare.stage2, bare.stage3) for _, block in s.children()]
    assert [[name for name, _ in block.children()] for block in blocks] == [["sum"]] * 9
    gone = {path for path, _ in usual.named_layers()} - {path for path, _ in bare.named_layers()}
    assert gone == {f"stage{i}.block{j}.relu" for i in (1, 2, 3) for j in range(3)}
    assert [path for path, _ in bare.named_parameters()] == [
        path for path, _ in usual.named_parameters()
    ]


@pytest.mark.parametrize("kind", ["plain", "preactivation"])
def test_only_residual_networks_have_a_relu_after_the_add_to_leave_out(kind):
    with pytest.raises(ValueError, match=f"relu_after_add of residual networks, got '{kind}'"):
        cifar_resnet(8, kind=kind, relu_after_add=False)


def test_a_seed_gives_the_same_weights_and_no_two_layers_share_them():
    a, b, c = models.resnet8(rng=1), models.resnet8(rng=1), models.resnet8(rng=2)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert_array_equal(p.value, q.value)
    assert (a.conv.weight.value != c.conv.weight.value).all()
    blocks = a.stage1.block0.sum.branch
    assert (blocks.conv1.weight.value != blocks.conv2.weight.value).any()


def test_bottleneck_blocks_stride_in_the_3x3():
    branch = build("resnet50", rng=0).stage2.block0.sum.branch
    assert [branch.conv1.stride, branch.conv2.stride, branch.conv3.stride] == [
        (1, 1),
        (2, 2),
        (1, 1),
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: build("resnet21"), "name to be one of 'resnet8'.* got 'resnet21'"),
        (lambda: cifar_resnet(21), r"depth of 6n \+ 2 .* got 21"),
        (lambda: cifar_resnet(2), r"depth of 6n \+ 2 .* got 2"),
        (lambda: cifar_resnet(20, kind="dense"), "kind to be one of .* got 'dense'"),
        (lambda: cifar_resnet(20, shortcut="C"), "shortcut to be one of 'A', 'B', got 'C'"),
        (lambda: cifar_resnet(20, norm="layer"), "norm to be one of 'batch', None, got 'layer'"),
        (lambda: cifar_resnet(20, 0), "num_classes to be an integer >= 1, got 0"),
        (lambda: cifar_resnet(20, input_shape=(32, 32)), r"input_shape .H, W, C., got \(32, 32\)"),
        (lambda: cifar_resnet(20, input_shape=(32, 0, 3)), "input_shape to be an integer >= 1"),
        (lambda: cifar_resnet(20, dtype=np.float16), "dtype float32 or float64"),
        (lambda: models.article_resnet(input_shape=(8, 8, 1)), "at least 13x13, got 8x8"),
        (lambda: models.article_resnet(filters=0), "filters to be an integer >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_summary_has_a_row_a_layer_and_the_right_totals():
    model = build("resnet20", rng=0)
    summary = summarize(model, (32, 32, 3))
    assert summary.parameters == 269_722
    assert sum(row.parameters for row in summary.rows) == 269_722
    assert summary.multiply_adds == 40_551_040  # 16*9*3*32*32 + ... + 640
    first, last = summary.rows[0], summary.rows[-1]
    assert (first.path, first.layer, first.shape) == ("conv", "Conv2d", (32, 32, 16))
    assert (first.multiply_adds, first.activation_bytes) == (442_368, 65_536)
    assert (last.path, last.shape, last.parameters) == ("fc", (10,), 650)
    shortcut = next(row for row in summary.rows if row.layer == "Identity")
    assert shortcut.activation_bytes == 0


def test_imagenet_multiply_adds_are_those_of_the_literature():
    model = build("resnet18", rng=0)
    assert summarize(model, (224, 224, 3)).multiply_adds == pytest.approx(1.814e9, rel=1e-3)


def test_the_summary_is_printed_with_totals_and_leaves_the_model_alone(capsys):
    model = Sequential(conv=Conv2d(3, 4, 3, rng=0), norm=BatchNorm2d(4))
    print_summary(model, (5, 5, 3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "path",
        "layer",
        "output",
        "parameters",
        "multiply-adds",
        "activation",
        "bytes",
    ]
    assert lines[1].split() == ["conv", "Conv2d", "3x3x4", "112", "972", "144"]
    assert lines[-1].split() == ["total", "120", "972", "288"]
    assert all(layer.observers == () for _, layer in model.named_layers())
    assert_array_equal(model.norm.running_mean, 0)


def test_the_summary_says_which_ops_are_left_to_the_reference(capsys):
    def model(ops):
        return Sequential(
            near=Conv2d(4, 8, 3, rng=0, ops=ops),
            wide=Conv2d(8, 8, 3, dilation=2, rng=0, ops=ops),
            split=Conv2d(8, 4, 3, groups=2, rng=0, ops=ops),
            drop=Dropout(0.5, ops=ops),
        )

    net = model(fast)
    assert [row.left for row in summarize(net, (12, 12, 4)).rows] == [
        (),
        ("conv2d",),
        ("conv2d",),
        (),  # in inference it does nothing
    ]
    assert all(layer.ops is fast for _, layer in net.children())
    print_summary(net, (12, 12, 4))
    assert "no fast kernel, runs on the reference: conv2d in wide and 1 more" in (
        capsys.readouterr().out
    )
    print_summary(model(reference), (12, 12, 4))
    assert "reference" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", [32, (32, "a", 3), (32, 0, 3), (4, 4, 7)])
def test_the_summary_refuses_a_shape_that_does_not_fit(shape):
    with pytest.raises(ValueError, match="expects"):
        summarize(build("resnet8", rng=0), shape)
