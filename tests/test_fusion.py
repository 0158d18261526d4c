"""`fuse(model)` computes what the model computes, on both op sets, and shares what is trained."""

import contextlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minires
from minires.finite import NonFiniteError
from minires.layers.fused import ConvNorm, FusedResidual
from minires.models import cifar
from minires.ops import fast, reference
from minires.training import train_step

OPS = pytest.mark.parametrize("ops", [reference, fast], ids=["reference", "fast"])
MODELS = pytest.mark.parametrize(
    "options",
    [{}, {"shortcut": "B"}, {"kind": "plain"}, {"kind": "preactivation"}, {"norm": None}],
    ids=lambda options: "-".join(str(v) for v in options.values()) or "A",
)


def build(ops, **options):
    model = cifar.cifar_resnet(8, 5, input_shape=(9, 8, 3), rng=0, ops=ops, **options)
    return model.astype(np.float64)


def step(model, x, labels):
    """Outputs in both modes, the gradients and the running statistics after one step."""
    loss = minires.SoftmaxCrossEntropy()
    for parameter in model.parameters():
        parameter.grad[...] = 0
    logits = model.forward(x, training=True)
    loss.forward(logits, labels)
    dx = model.backward(loss.backward())
    after = model.forward(x)
    dx_after = model.backward(after)
    grads = [p.grad.copy() for p in model.parameters()]
    return [logits, dx, after, dx_after, *grads]


@OPS
@MODELS
def test_a_fused_model_computes_what_the_readable_one_does_on_the_reference(ops, options, rng):
    x, labels = rng.standard_normal((4, 9, 8, 3)), rng.integers(0, 5, 4)
    expected = step(build(reference, **options), x, labels)
    for a, e in zip(step(minires.fuse(build(ops, **options)), x, labels), expected, strict=True):
        assert_allclose(a, e, rtol=1e-9, atol=1e-11 * np.abs(e).max())


@OPS
def test_running_statistics_are_the_readable_model_s(ops, rng):
    x = rng.standard_normal((4, 9, 8, 3))
    model, twin = build(ops), build(reference)
    twin.forward(x, training=True)
    minires.fuse(model).forward(x, training=True)
    assert_allclose(model.forward(x), twin.forward(x), rtol=1e-10)


def test_paths_and_parameters_stay(rng):
    model = build(reference, shortcut="B")
    fused = minires.fuse(model)
    theirs, ours = model.named_parameters(), fused.named_parameters()
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    assert all(a is b for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_the_readable_model_is_left_alone():
    model = build(reference)
    before = repr(model)
    fused = minires.fuse(model)
    assert repr(model) == before
    kinds = {type(layer) for _, layer in fused.named_layers()}
    assert {ConvNorm, FusedResidual} <= kinds
    assert not {ConvNorm, FusedResidual} & {type(layer) for _, layer in model.named_layers()}


def test_recorders_are_refused_with_the_reason():
    fused = minires.fuse(build(reference))
    reason = pytest.raises(RuntimeError, match="record the model that `fuse` was given")
    with reason, minires.observe(fused, minires.Observer()):
        pass
    assert not any(layer.observers for _, layer in fused.named_layers())


def test_an_error_carries_the_path_of_the_layer():
    fused = minires.fuse(build(reference))
    with pytest.raises(ValueError, match="one value per channel") as caught:
        fused.stage3.block0.sum.forward(np.ones((1, 1, 1, 32)), training=True)
    assert caught.value.__notes__ == ["in layer branch.conv1"]


def test_a_copy_in_another_dtype_works(rng):
    x = rng.standard_normal((2, 9, 8, 3))
    fused = minires.fuse(build(reference))
    expected = fused.forward(x)
    found = fused.astype(np.float32).forward(x.astype(np.float32))
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@OPS
def test_folded_weights_follow_every_change_in_place(ops, rng):
    """Inference keeps w * scale between calls; no number behind it may change unseen."""
    x = rng.standard_normal((2, 9, 8, 3))
    model = build(ops)
    fused = minires.fuse(model)
    norm, conv = model.norm, model.conv
    arrays = [conv.weight.value, norm.gamma.value, norm.beta.value]
    for array in [*arrays, norm.running_mean, norm.running_var]:
        fused.forward(x)
        array.flat[0] += 0.5
        assert_allclose(fused.forward(x), model.forward(x), rtol=1e-10, atol=1e-12)


@OPS
def test_a_folded_model_in_another_dtype_has_weights_of_its_own(ops, rng):
    x = rng.standard_normal((2, 9, 8, 3))
    fused = minires.fuse(build(ops))
    fused.forward(x)
    twin = fused.astype(np.float32)
    twin.conv.conv.weight.value[...] = 0
    assert twin.forward(x.astype(np.float32)).dtype == np.float32
    assert_allclose(fused.forward(x), build(reference).forward(x), rtol=1e-10, atol=1e-12)


def test_what_is_kept_of_read_only_weights_goes_with_them(rng):
    from minires.ops.fast import keep

    x, weight = rng.standard_normal((1, 40, 40, 16)), rng.standard_normal((3, 3, 16, 32))
    first, _ = fast.conv2d_forward(x, weight)
    before = len(keep._kept)
    weight.flags.writeable = False
    for _ in range(2):
        again, _ = fast.conv2d_forward(x, weight)
        assert again.tobytes() == first.tobytes()
    assert len(keep._kept) == before + 1
    del weight, _
    assert len(keep._kept) == before


def test_a_read_only_view_of_weights_that_may_change_is_not_kept(rng):
    x, weight = rng.standard_normal((1, 40, 40, 16)), rng.standard_normal((3, 3, 16, 32))
    view = weight[...]
    view.flags.writeable = False
    fast.conv2d_forward(x, view)
    weight[...] = 0
    assert not fast.conv2d_forward(x, view)[0].any()


@OPS
def test_a_nan_in_a_fused_model_is_traced_to_its_layer(ops, rng):
    fused = minires.fuse(build(ops))
    optimizer = minires.SGD(fused.parameters(), 0.1)
    fused.stage2.block0.sum.branch.conv1.conv.weight.value[...] = np.nan
    x, labels = rng.standard_normal((4, 9, 8, 3)), rng.integers(0, 5, 4)
    with pytest.raises(minires.NonFiniteError, match="conv1") as caught:
        minires.train_step(fused, minires.SoftmaxCrossEntropy(), optimizer, x, labels)
    assert caught.value.where == "forward"
    assert not any(layer.observers for _, layer in fused.named_layers())


@OPS
def test_paths_of_different_shapes_are_refused_as_in_the_readable_model(ops, rng):
    branch = minires.Sequential(minires.Conv2d(3, 4, 3, padding=1, ops=ops), norm(4, ops))
    model = minires.Sequential(sum=minires.Residual(branch, ops=ops), relu=minires.ReLU(ops=ops))
    x = rng.standard_normal((2, 5, 5, 3), dtype=np.float32)
    for either in (model, minires.fuse(model)):
        with pytest.raises(ValueError, match="Residual expects shortcut and branch of one shape"):
            either.forward(x, training=True)


@OPS
def test_a_norm_that_does_not_fit_its_convolution_says_so(ops, rng):
    model = minires.Sequential(minires.Conv2d(3, 4, 3, ops=ops), norm(1, ops))
    x = rng.standard_normal((2, 5, 5, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"BatchNorm2d expects x of shape \(N, H, W, 1\)"):
        minires.fuse(model).forward(x, training=True)


@OPS
@pytest.mark.parametrize("change", ["eps", "bias"])
def test_a_folded_convolution_sees_what_else_has_changed(ops, change, rng):
    model = minires.Sequential(minires.Conv2d(3, 4, 3, rng=0, ops=ops), norm(4, ops))
    model[0].bias.value = rng.standard_normal(4, dtype=np.float32)
    x, fused = rng.standard_normal((2, 5, 5, 3), dtype=np.float32), minires.fuse(model)
    fused.forward(x)
    if change == "eps":
        model[1].eps = 0.5
    else:
        model[0].bias = None
    assert_allclose(fused.forward(x), model.forward(x), rtol=1e-5, atol=1e-6)


def test_an_infinite_gradient_in_a_fused_block_names_its_convolution(rng, monkeypatch):
    model = minires.models.resnet8(rng=0, input_shape=(8, 8, 1), ops=reference)
    x, labels = rng.standard_normal((4, 8, 8, 1), dtype=np.float32), np.arange(4)
    broken = model.stage2.block0.sum.branch.conv2.weight.value

    def backward(dy, cache, right=reference.conv2d_backward):
        dx, dweight, dbias = right(dy, cache)
        return dx * np.inf if cache.weight is broken else dx, dweight, dbias

    monkeypatch.setattr(reference, "conv2d_backward", backward)
    loss, optimizer = minires.SoftmaxCrossEntropy(), minires.SGD(model.parameters(), 0.1)
    with pytest.raises(NonFiniteError) as caught, np.errstate(invalid="ignore"):
        train_step(minires.fuse(model), loss, optimizer, x, labels)
    found = caught.value.path, caught.value.where
    assert found == ("stage2.block0.sum.branch.conv2", "backward")


def norm(channels, ops):
    return minires.BatchNorm2d(channels, ops=ops)


class Coarse(minires.Observer):
    """Content with fused layers."""

    coarse = True

    def __init__(self):
        self.seen = []

    def after_forward(self, layer, x, y, training):
        self.seen.append(type(layer).__name__)


def test_a_block_whose_inside_is_observed_computes_the_same_bit_by_bit(rng):
    results = []
    for observer in (None, Coarse()):
        model = minires.fuse(cifar.cifar_resnet(8, 5, input_shape=(16, 12, 3), rng=0))
        block = next(v for _, v in model.named_layers() if type(v) is FusedResidual)
        x = np.random.default_rng(1).standard_normal((2, 16, 12, 16)).astype(np.float32)
        with contextlib.nullcontext() if observer is None else minires.observe(block, observer):
            y = block.forward(x, training=True)
            dx = block.backward(x)
        grads = [p.grad for p in block.parameters()]
        norms = [v for _, v in block.named_layers() if type(v) is minires.BatchNorm2d]
        moved = [a for v in norms for a in (v.running_mean, v.running_var)]
        results.append([y, dx, *grads, *moved])
    assert observer.seen.count("ConvNorm") == 1
    for a, b in zip(*results, strict=True):
        assert_array_equal(a, b)


def test_a_block_of_two_op_sets_trains():
    results = []
    for other in (fast, reference):
        model = cifar.cifar_resnet(8, 5, input_shape=(16, 12, 3), rng=0)
        for _, layer in model.named_layers():
            if type(layer) is minires.BatchNorm2d:
                layer.ops = other
        x = np.random.default_rng(1).standard_normal((2, 16, 12, 3)).astype(np.float32)
        fused = minires.fuse(model)
        y = fused.forward(x, training=True)
        results.append([y, fused.backward(np.ones_like(y))])
    for a, b in zip(*results, strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-4)
