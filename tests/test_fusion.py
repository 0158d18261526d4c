"""`fuse(model)` computes what the model computes, on both op sets, and shares what is trained."""

import contextlib
import copy
import pickle
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minires
from minires.finite import NonFiniteError
from minires.layers.fused import ConvNorm, FusedResidual
from minires.models import cifar
from minires.ops import constant, fast, reference
from minires.state import model_state, random_streams
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


def assorted(ops=fast):
    """A model in which most layers stay as they are."""
    block = minires.Residual(
        minires.Conv2d(4, 4, 3, padding=1, rng=1, ops=ops),
        minires.Sequential(minires.Identity(), minires.PadShortcut(4, 4, ops=ops)),
        ops=ops,
    )
    return minires.Sequential(
        conv=minires.Conv2d(3, 4, 3, padding=1, rng=2, ops=ops),
        drop=minires.Dropout(0.3, rng=3, ops=ops),
        norm=norm(4, ops),
        pool=minires.MaxPool2d(2, ops=ops),
        block=block,
        relu=minires.ReLU(ops=ops),
        mean=minires.AvgPool2d(2, ops=ops),
        flat=minires.Flatten(),
        dense=minires.Dense(16, 5, rng=4, ops=ops),
        softmax=minires.Softmax(ops=ops),
    )


@OPS
@pytest.mark.parametrize("first", ["readable", "fused"])
@pytest.mark.parametrize("make", [assorted, build])
def test_a_pass_of_one_model_between_forward_and_backward_of_the_other(make, first, ops, rng):
    results = []
    x, other = rng.standard_normal((2, 4, 9, 8, 3))
    for training in (None, False, True):
        model = make(ops).astype(np.float64)
        pair = model, minires.fuse(model)
        one, two = pair if first == "readable" else pair[::-1]
        y = one.forward(x, training=True)
        if training is not None:
            two.forward(other[:3], training=training)
        dx = one.backward(np.random.default_rng(1).standard_normal(y.shape))
        results.append([dx, *(p.grad for p in model.parameters())])
    for found in results[1:]:
        for a, e in zip(found, results[0], strict=True):
            assert_array_equal(a, e)


@OPS
def test_statistics_and_streams_of_layers_that_stay_are_the_readable_model_s(ops, rng):
    x = rng.standard_normal((4, 9, 8, 3), dtype=np.float32)
    model, twin = assorted(ops), assorted(ops)
    fused = minires.fuse(model)
    for net in (fused, twin, model, twin):
        net.forward(x, training=True)
    expected = model_state(twin)
    for net in (fused, model):
        found = model_state(net)
        assert list(found) == list(expected)
        for name in expected:
            assert_array_equal(found[name], expected[name], name)
        assert random_streams(net) == random_streams(twin)
    model.norm.running_mean = np.full(4, 9, np.float32)
    assert_array_equal(fused.forward(x), model.forward(x))


class Counting(minires.Layer):
    """A layer of one's own that remembers something."""

    def __init__(self):
        self.passes = np.zeros(1, np.int64)

    def _forward(self, x, training):
        self.passes = self.passes + 1
        return x, ()


def test_a_layer_of_one_s_own_stays_in_both_models(rng):
    model = minires.Sequential(minires.Conv2d(3, 4, 3), own=Counting())
    minires.fuse(model).forward(rng.standard_normal((2, 9, 8, 3), dtype=np.float32))
    assert model_state(model)["statistics/own.passes"] == 1


def test_a_recorder_of_the_readable_model_sees_nothing_of_the_fused_one(rng):
    model, observer = assorted(), Coarse()
    fused = minires.fuse(model)
    with minires.observe(model, observer):
        fused.forward(rng.standard_normal((4, 9, 8, 3), dtype=np.float32))
        minires.fuse(model).forward(rng.standard_normal((4, 9, 8, 3), dtype=np.float32))
    assert observer.seen == []


@pytest.mark.parametrize("stranger", [5, [minires.ReLU()], minires.Sequential, None], ids=repr)
def test_what_is_no_layer_is_refused(stranger):
    with pytest.raises(TypeError, match=r"^fuse expects a Layer, got (int 5|list|type|NoneType)"):
        minires.fuse(stranger)


def test_a_keras_model_is_refused_with_the_way_on():
    from minires.keras import Model, layers

    start = layers.Input(shape=(8, 8, 1))
    with pytest.raises(TypeError, match=r"fuse expects a Layer, got Model: pass its \.layer"):
        minires.fuse(Model(start, layers.Conv2D(4, 3)(start)))


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


def test_what_is_kept_of_constant_weights_goes_with_them(rng):
    from minires.ops.fast import keep

    x, weight = rng.standard_normal((1, 40, 40, 16)), rng.standard_normal((3, 3, 16, 32))
    first, _ = fast.conv2d_forward(x, weight)
    before = len(keep._kept), len(constant._given)
    assert constant.constant(weight) is weight
    for _ in range(2):
        again, _ = fast.conv2d_forward(x, weight)
        assert again.tobytes() == first.tobytes()
    assert (len(keep._kept), len(constant._given)) == (before[0] + 1, before[1] + 1)
    del weight, _
    assert (len(keep._kept), len(constant._given)) == before


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (3, 3, 64, 64)], ids=["direct", "winograd"])
def test_a_frozen_weight_may_be_changed_and_frozen_again(shape, rng):
    """`flags.writeable` is how a user freezes a layer, and no word that it stays as it is."""
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((1, 12, 12, shape[2]), shape))
    older = weight[...]
    weight.flags.writeable = False
    assert fast.conv2d_forward(x, weight)[0].any()
    older[..., 0] = 0
    assert not fast.conv2d_forward(x, weight)[0][..., 0].any()
    weight.flags.writeable = True
    weight[...] = 0
    weight.flags.writeable = False
    assert not fast.conv2d_forward(x, weight)[0].any()


def test_folded_weights_are_constant_in_a_copy_too(rng):
    x = rng.standard_normal((2, 9, 8, 3))
    fused = minires.fuse(build(fast))
    expected = fused.forward(x)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert not constant.is_constant(twin.conv.folded.weight)
        assert_array_equal(twin.forward(x), expected)
        assert constant.is_constant(twin.conv.folded.weight)


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
        for training in (True, False):
            words = "Residual expects shortcut and branch of one shape, got (2, 5, 5, 3) from the"
            with pytest.raises(ValueError, match=re.escape(words)):
                either.forward(x, training=training)


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


@OPS
@pytest.mark.parametrize("name", ["eps", "momentum", "running_mean"])
def test_numbers_of_numpy_in_a_norm_leave_the_dtype_alone(ops, name, rng):
    model = minires.Sequential(minires.Conv2d(3, 4, 3, rng=0, ops=ops), norm(4, ops))
    x, fused = rng.standard_normal((2, 5, 5, 3), dtype=np.float32), minires.fuse(model)
    setattr(model[1], name, np.zeros(4) if name == "running_mean" else np.float64(0.05))
    before = model[1].running_mean.dtype, model[1].running_var.dtype
    fused.forward(x, training=True)
    assert (model[1].running_mean.dtype, model[1].running_var.dtype) == before
    assert fused.forward(x).dtype == np.float32


@OPS
def test_a_norm_in_the_place_of_another_is_folded(ops, rng):
    x = rng.standard_normal((2, 5, 5, 3), dtype=np.float32)
    model = minires.Sequential(conv=minires.Conv2d(3, 4, 3, rng=0, ops=ops), norm=norm(4, ops))
    fused = minires.fuse(model)
    fused.forward(x)
    model.norm = fused.conv.norm = norm(4, ops)
    model.norm.gamma.value = np.full(4, 5, np.float32)
    assert_allclose(fused.forward(x), model.forward(x), rtol=1e-5, atol=1e-5)


def test_an_infinite_gradient_in_a_fused_block_names_its_convolution(rng, monkeypatch):
    model = minires.models.resnet8(rng=0, input_shape=(8, 8, 1), ops=reference)
    x, labels = rng.standard_normal((4, 8, 8, 1), dtype=np.float32), np.arange(4)
    broken = model.stage2.block0.sum.branch.conv2.weight.value

    right = reference.conv2d_batchnorm_add_relu_backward

    def backward(dy, norm_cache, cache):
        dx, *gradients = right(dy, norm_cache, cache)  # and sums, None
        return dx * np.inf if cache.weight is broken else dx, *gradients

    monkeypatch.setattr(reference, right.__name__, backward)
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


def test_a_block_whose_inside_is_observed_computes_the_same(rng):
    results = []
    for observer in (None, Coarse()):
        model = minires.fuse(cifar.cifar_resnet(8, 5, input_shape=(16, 12, 3), rng=0))
        block = next(v for _, v in model.named_layers() if type(v) is FusedResidual)
        x = np.random.default_rng(1).standard_normal((4, 16, 12, 16)).astype(np.float32)
        with contextlib.nullcontext() if observer is None else minires.observe(block, observer):
            y = block.forward(x, training=True)
            dx = block.backward(x)
        grads = [p.grad for p in block.parameters()]
        norms = [v for _, v in block.named_layers() if type(v) is minires.BatchNorm2d]
        moved = [a for v in norms for a in (v.running_mean, v.running_var)]
        results.append([y, dx, *grads, *moved])
    assert observer.seen.count("ConvNorm") == 1
    for a, b in zip(*results, strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("kind", [minires.BatchNorm2d, minires.Conv2d])
def test_a_block_of_two_op_sets_trains(kind):
    results = []
    for other in (fast, reference):
        model = cifar.cifar_resnet(8, 5, input_shape=(16, 12, 3), rng=0)
        for _, layer in model.named_layers():
            if type(layer) is kind:
                layer.ops = other
        x = np.random.default_rng(1).standard_normal((2, 16, 12, 3)).astype(np.float32)
        fused = minires.fuse(model)
        y = fused.forward(x, training=True)
        results.append([y, fused.backward(np.ones_like(y))])
    for a, b in zip(*results, strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-4)


class Gradients(Coarse):
    """Keeps what goes into and comes out of backward passes."""

    def after_backward(self, layer, dy, dx):
        self.seen.append((dy, dx))


@OPS
def test_the_last_convolution_of_a_block_sees_the_gradient_behind_the_sum(ops, rng):
    model = minires.fuse(build(ops))
    block = next(v for _, v in model.named_layers() if type(v) is FusedResidual)
    x = rng.standard_normal((4, 9, 8, 16))
    watch, y = Gradients(), block.forward(x, training=True)
    with minires.observe(block.branch[len(block.branch) - 1], watch):
        y = block.forward(x, training=True)
        block.backward(x)
    ((dsum, _),) = watch.seen
    assert_array_equal(dsum, np.where(y > 0, x, 0))


@OPS
def test_an_error_on_the_way_back_through_norm_and_convolution_names_them(ops, rng, monkeypatch):
    model = minires.fuse(build(ops))
    x = rng.standard_normal((4, 9, 8, 3))
    for name in ("conv2d_batchnorm_add_relu_backward", "conv2d_batchnorm_relu_backward"):
        y = model.forward(x, training=True)
        with monkeypatch.context() as patch:
            patch.setattr(ops, name, lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError) as caught:
                model.backward(y)
        wanted = "conv2" if "add" in name else "conv1"
        assert f"stage3.block0.sum.branch.{wanted}" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize("shortcut", [(), (minires.PadShortcut(16, 16, ops=fast),)])
@pytest.mark.parametrize("convs", [2, 3])
def test_sums_made_on_the_way_back_reach_the_norm_in_front_and_no_other(
    convs, shortcut, monkeypatch
):
    branch = []
    for seed in range(convs):
        conv = minires.Conv2d(16, 16, 3, padding=1, rng=seed, ops=fast)
        branch += [conv, norm(16, fast), minires.ReLU(ops=fast)]
    block = minires.Residual(minires.Sequential(*branch[:-1]), *shortcut, ops=fast)
    model = minires.Sequential(block, minires.ReLU(ops=fast))
    x, dy = np.random.default_rng(0).standard_normal((2, 6, 13, 14, 16)).astype(np.float32)
    given, run = [], fast.conv2d_batchnorm_relu_backward
    monkeypatch.setattr(fast, run.__name__, lambda *a: given.append(a[4]) or run(*a))
    results = []
    for one in (model, minires.fuse(model)):
        for parameter in model.parameters():
            parameter.grad[...] = 0
        one.forward(x, training=True)
        results.append([one.backward(dy), *(p.grad.copy() for p in model.parameters())])
    assert [sums is not None for sums in given] == [True] + [False] * (convs - 2)
    for a, e in zip(*results, strict=True):
        assert_allclose(a, e, rtol=1e-3, atol=2e-5 * max(10, np.abs(e).max()))
