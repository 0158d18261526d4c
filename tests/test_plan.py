"""A fused model that has seen images of a shape infers from a plan: same bits, same contract."""

import copy
import gc
import pickle
import re
import sys
import threading
import types
import weakref

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minires
from minires import layers
from minires.layers.fused import ConvNorm, FusedResidual
from minires.layers.fused_model import MOST, FusedModel
from minires.models import cifar
from minires.ops import fast, reference

OPS = pytest.mark.parametrize("ops", [reference, fast], ids=["reference", "fast"])
KINDS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"shortcut": "B"},
        {"kind": "plain"},
        {"kind": "preactivation"},
        {"norm": None},
        {"relu_after_add": False},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()) or "A",
)
X = 3, 9, 8, 3


def build(ops=fast, dtype=np.float32, **options):
    """A small residual network whose running statistics are not where they begin."""
    model = cifar.cifar_resnet(8, 5, input_shape=X[1:], rng=0, ops=ops, dtype=dtype, **options)
    model.forward(images(16, dtype), training=True)
    return model


def images(seed=0, dtype=np.float32, shape=X):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def planned(model, x):
    """`model` after passes over images like x: the next one follows a plan."""
    for _ in range(2):
        model.forward(x)
    assert isinstance(model._plans()[x.shape, x.dtype], list)
    return model


def layer_by_layer(model, x):
    """The output of a fused twin that has not seen images of this shape."""
    return minires.fuse(model).forward(x)


@OPS
@KINDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_planned_pass_gives_the_bits_of_one_layer_by_layer(dtype, options, ops):
    model = build(ops, dtype, **options)
    fused = planned(minires.fuse(model), images(dtype=dtype))
    for seed in range(3):
        x = images(seed, dtype)
        assert_array_equal(fused.forward(x), layer_by_layer(model, x))


@pytest.mark.parametrize("make", [minires.models.resnet18, minires.models.article_resnet])
def test_networks_with_a_stem_have_a_plan_too(make):
    model = make(num_classes=4, input_shape=(40, 33, 3), rng=0)
    x = images(shape=(2, 40, 33, 3))
    assert_array_equal(planned(minires.fuse(model), x).forward(x), layer_by_layer(model, x))


def test_a_planned_pass_calls_no_layer(monkeypatch):
    fused = planned(minires.fuse(build()), images())
    for kind in (ConvNorm, FusedResidual, layers.Sequential):
        monkeypatch.setattr(kind, "_forward", None)
    assert fused.forward(images(1)).shape == (3, 5)
    with pytest.raises(TypeError):
        fused.forward(images(shape=(2, 9, 8, 3)))


def test_outputs_of_two_planned_passes_are_two_arrays():
    fused = planned(minires.fuse(build()), images())
    first = fused.forward(images(1))
    kept = first.copy()
    assert not np.shares_memory(first, fused.forward(images(2)))
    assert_array_equal(first, kept)


# ---- what a plan must notice


def change_weight(model):
    model.conv.weight.value[0, 0] += 1


def change_dense(model):
    model.fc.weight.value = model.fc.weight.value * 2


def change_statistics(model):
    model.norm.running_var[1] *= 3


def new_statistics(model):
    model.norm.running_mean = model.norm.running_mean + np.float32(0.5)


def train(model):
    model.forward(images(5), training=True)


def change_eps(model):
    model.stage1.block0.sum.branch.norm1.eps += 0.5


def change_padding(model):
    top = model.conv.padding[0][0]
    model.conv.padding = (2 - 2 * (top == 2), 2 * (top == 2)), (1, 1)


CHANGES = [
    change_weight,
    change_dense,
    change_statistics,
    new_statistics,
    train,
    change_eps,
    change_padding,
]


@OPS
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_the_readable_model_is_seen(change, ops):
    model, x = build(ops), images()
    fused = planned(minires.fuse(model), x)
    before = fused.forward(x)
    for _ in range(3):
        change(model)
        for _ in range(3):
            found = fused.forward(x)
            assert_array_equal(found, layer_by_layer(model, x))
        assert not np.array_equal(found, before)
        before = found


def test_another_layer_in_the_place_of_one_is_seen():
    x = images()
    fused = planned(minires.fuse(build()), x)
    fused.fc = minires.Dense(64, 7, rng=1)
    assert [fused.forward(x).shape for _ in range(3)] == [(3, 7)] * 3
    fused.stage2.block0 = minires.PadShortcut(16, 32, stride=2)
    found = [fused.forward(x) for _ in range(3)]
    assert_array_equal(found[2], found[0])


def test_a_layer_that_is_taken_out_is_seen():
    x = images()
    fused = planned(minires.fuse(build()), x)
    before = fused.forward(x)
    del fused.stage1.block0
    found = [fused.forward(x) for _ in range(3)]
    assert not np.array_equal(found[0], before)
    assert_array_equal(found[2], found[0])


def test_a_method_of_one_layer_alone_is_called():
    x = images()
    fused = planned(minires.fuse(build()), x)
    fused.pool.forward = lambda x, training: np.zeros((len(x), 64), np.float32)
    for _ in range(3):
        assert_array_equal(fused.forward(x), np.tile(fused.fc.bias.value, (3, 1)))


class Seen(minires.Observer):
    coarse = True

    def __init__(self):
        self.layers = []

    def after_forward(self, layer, x, y, training):
        self.layers.append(layer)


def test_an_observer_sees_every_layer_and_is_forgotten():
    x = images()
    fused = planned(minires.fuse(build()), x)
    expected = fused.forward(x)
    for _ in range(2):
        observer = Seen()
        with minires.observe(fused, observer):
            for count in range(1, 4):
                assert_array_equal(fused.forward(x), expected)
                assert observer.layers.count(fused.pool) == count
        assert_array_equal(planned(fused, x).forward(x), expected)
        assert observer.layers.count(fused.pool) == 3


def test_an_observer_of_one_layer_alone_sees_it():
    fused, observer = planned(minires.fuse(build()), images()), Seen()
    fused.pool.observers = (observer,)
    for _ in range(3):
        fused.forward(images())
    assert observer.layers == [fused.pool] * 3


@OPS
def test_a_branch_that_ends_in_a_relu_is_added_as_it_is(ops):
    norm = minires.BatchNorm2d(3, ops=ops)
    conv, relu = minires.Conv2d(3, 3, 3, padding=1, rng=0, ops=ops), minires.ReLU(ops=ops)
    model = minires.Sequential(minires.Residual(minires.Sequential(conv, norm, relu), ops=ops))
    fused = planned(minires.fuse(model), images())
    assert_array_equal(fused.forward(images(1)), layer_by_layer(model, images(1)))
    assert_array_equal(layer_by_layer(model, images(1)) >= images(1), True)


class Own(minires.Layer):
    calls = 0

    def _forward(self, x, training):
        type(self).calls += 1
        return x + self.calls, ()


def test_a_layer_of_one_s_own_is_called_each_time():
    fused = minires.fuse(minires.Sequential(minires.ReLU(), Own()))
    x = images()
    for count in range(1, 5):
        assert_array_equal(fused.forward(x), np.maximum(x, 0) + count)


class Doubled(minires.Sequential):
    """A model with a method of its own."""

    def forward(self, x, *, training=False):
        return super().forward(2 * x, training=training)


def test_a_model_of_one_s_own_stays_what_it_is():
    fused = minires.fuse(Doubled(minires.Identity()))
    assert type(fused) is Doubled
    for _ in range(3):
        assert_array_equal(fused.forward(images()), 2 * images())


class Strange(minires.ReLU):
    def _forward(self, x, training):
        return -x, ()


def test_a_relative_of_our_layers_is_called():
    fused = minires.fuse(minires.Sequential(Strange(), minires.Flatten()))
    for _ in range(3):
        assert_array_equal(fused.forward(images()), -images().reshape(3, -1))


def test_a_shortcut_with_ops_of_its_own_is_added_by_them(monkeypatch):
    ops = types.ModuleType("ops_of_ones_own")
    monkeypatch.setitem(sys.modules, ops.__name__, ops)
    vars(ops).update({name: getattr(reference, name) for name in reference.__all__})
    ops.add_forward = lambda a, b: a - b
    branch = minires.Sequential(
        minires.Conv2d(3, 3, 3, padding=1, rng=0, ops=reference),
        minires.BatchNorm2d(3, ops=reference),
    )
    fused, x = minires.fuse(minires.Sequential(minires.Residual(branch, ops=ops))), images()
    expected = x - fused[0].branch.forward(x)
    for _ in range(3):
        assert_array_equal(fused.forward(x), expected)


@pytest.mark.parametrize("name", ["stride", "observers"])
def test_an_attribute_that_may_change_without_being_set_rules_out_a_plan(name):
    x = images()
    fused = minires.fuse(minires.Sequential(minires.Conv2d(3, 4, 3, rng=0), minires.BatchNorm2d(4)))
    if name == "stride":
        fused[0].conv.stride = [1, 1]
        change, expected = lambda: fused[0].conv.stride.__setitem__(slice(None), [2, 2]), (4, 3)
    else:
        observer = Seen()
        fused[0].observers = []
        change, expected = lambda: fused[0].observers.append(observer), (7, 6)
    for _ in range(3):
        fused.forward(x)
    change()
    assert fused.forward(x).shape == (3, *expected, 4)
    if name == "observers":
        assert observer.layers == [fused[0]]


# ---- the contract of every layer


@OPS
@KINDS
def test_a_backward_pass_after_a_plan_is_the_one_after_a_forward(options, ops):
    model, x, dy = build(ops, np.float64, **options), images(dtype=np.float64), images(1)[0, 0, :3]
    results = []
    for passes in (1, 4):
        fused = minires.fuse(model)
        for parameter in fused.parameters():
            parameter.grad[...] = 0
        for _ in range(passes):
            y = fused.forward(x)
        dx = fused.backward(np.resize(dy, y.shape).astype(np.float64))
        results.append([dx, *(p.grad.copy() for p in fused.parameters())])
        with pytest.raises(RuntimeError, match="a forward before it"):
            fused.backward(y)
    for a, e in zip(*results, strict=True):
        assert_array_equal(a, e)


def test_several_backward_passes_and_one_without_dx():
    x = images()
    fused = planned(minires.fuse(build()), x)
    y = fused.forward(x)
    with minires.retain_caches(fused):
        first = fused.backward(y)
        assert_array_equal(fused.backward(y), first)
    planned(fused, x).forward(x)
    assert fused.backward(y, input_gradient=False) is None


def test_what_a_layer_kept_of_an_earlier_pass_is_gone():
    x = images()
    fused = planned(minires.fuse(build()), x)
    fused.forward(x, training=True)
    planned(fused, x).forward(x)
    with pytest.raises(RuntimeError, match=r"GlobalAvgPool2d\.backward expects a forward"):
        fused.pool.backward(np.ones((3, 64), np.float32))


@OPS
@pytest.mark.parametrize("training", [False, True])
def test_what_the_readable_model_kept_is_still_there(training, ops):
    x = images()
    results = []
    for infers in (False, True):
        model = build(ops)
        fused = planned(minires.fuse(model), x)
        y = model.forward(x, training=training)
        if infers:
            planned(fused, images(1))
        results.append(model.backward(y))
    assert_array_equal(*results)


def test_an_observer_that_comes_after_the_forward_sees_what_it_would_without_a_plan():
    results, x = [], images()
    for passes in (1, 4):
        fused, observer = minires.fuse(build()), Seen()
        for _ in range(passes):
            y = fused.forward(x)
        with minires.observe(fused, observer):
            dx = fused.backward(y)
        results.append((dx.tobytes(), [repr(layer) for layer in observer.layers]))
    assert results[0] == results[1]


def test_an_error_in_a_plan_carries_the_path_of_the_layer():
    fused = minires.fuse(minires.Sequential(head=minires.Sequential(fc=minires.Dense(3, 2, rng=0))))
    x = np.ones((2, 3), np.float32)
    planned(fused, x)
    fused.head.fc.weight.value[...] = 3e38
    with np.errstate(all="raise"), pytest.raises(FloatingPointError) as caught:
        fused.forward(x)
    assert caught.value.__notes__ == ["in layer head.fc"]


def test_a_fused_model_that_has_inferred_is_freed_at_once():
    gc.disable()
    try:
        fused = planned(minires.fuse(build()), images())
        gone = weakref.ref(fused)
        del fused
        assert gone() is None
    finally:
        gc.enable()


def test_plans_of_other_weights_are_let_go():
    fused = minires.fuse(build())
    for n in range(1, 5):
        planned(fused, images(shape=(n, 9, 8, 3)))
    assert len(fused._plans()) == 4
    fused.forward(images(), training=True)
    planned(fused, images())
    assert len(fused._plans()) == 1
    assert_array_equal(fused.forward(images()), layer_by_layer(fused, images()))


def test_flow_tools_know_a_fused_model_from_a_readable_one():
    model = build(reference, np.float64)
    x, labels = images(dtype=np.float64), np.arange(3)
    with pytest.raises(ValueError, match="give it the model that `fuse` was given"):
        minires.flow.gradient_by_path_length(minires.fuse(model), x, labels)
    bare = build(reference, np.float64, norm=None)
    counts = [
        minires.flow.gradient_by_path_length(m, x, labels).counts
        for m in (bare, minires.fuse(bare))
    ]
    assert_array_equal(*counts)
    values = [
        minires.flow.jacobian_singular_values(m, x, count=2, rng=0)
        for m in (bare, minires.fuse(bare))
    ]
    assert_array_equal(*values)


def test_gradients_of_a_planned_model_can_be_checked():
    x = images(dtype=np.float64, shape=(1, 5, 5, 3))
    fused = planned(minires.fuse(build(reference, np.float64)), x)
    report = minires.check_gradients(fused, x, training=False)
    assert report.ok, report
    assert "conv.weight" in " ".join(report.verdicts)


def test_training_steps_between_planned_passes_change_no_bit_of_the_training():
    x, labels = images(), np.arange(3)
    states = []
    for infers in (False, True):
        fused = minires.fuse(build())
        optimizer, loss = minires.Adam(fused.parameters()), minires.SoftmaxCrossEntropy()
        for _ in range(4):
            minires.train_step(fused, loss, optimizer, x, labels)
            if infers:
                planned(fused, x)
        states.append([p.value for p in fused.parameters()])
    for a, e in zip(*states, strict=True):
        assert_array_equal(a, e)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (images(shape=(3, 9, 8, 4)), "expects x of shape (N, H, W, 3), got (3, 9, 8, 4)"),
        (images(dtype=np.float64), "expects x of dtype float32"),
        (images()[:0], "at least one number"),
        (images().tolist(), "NumPy array"),
    ],
    ids=["channels", "dtype", "empty", "list"],
)
def test_bad_input_is_refused_as_often_as_it_comes(x, words):
    fused = planned(minires.fuse(build()), images())
    for _ in range(3):
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            fused.forward(x)
    assert_array_equal(fused.forward(images()), layer_by_layer(build(), images()))


@pytest.mark.parametrize("order", ["F", "sliced", "read-only", "turned"])
def test_images_of_any_layout(order):
    x = images()
    given = {
        "F": np.asfortranarray(x),
        "sliced": np.repeat(x, 2, axis=2)[:, :, ::2],
        "read-only": x.copy(),
        "turned": np.ascontiguousarray(x[::-1])[::-1],
    }[order]
    given.flags.writeable = order != "read-only"
    fused = planned(minires.fuse(build()), x)
    assert_array_equal(fused.forward(given), layer_by_layer(build(), x))


def test_nan_goes_through_a_plan_as_through_the_layers():
    x = images()
    x[1, 4, 4, 1] = np.nan
    fused = planned(minires.fuse(build()), x)
    assert_array_equal(fused.forward(x), layer_by_layer(build(), x))
    assert np.isnan(fused.forward(x)).any()


def test_many_shapes_are_forgotten_and_planned_again():
    fused, model = minires.fuse(build()), build()
    for _ in range(3):
        for n in range(1, MOST + 4):
            x = images(shape=(n, 9, 8, 3))
            planned(fused, x)
            assert len(fused._plans()) <= MOST
    assert_array_equal(fused.forward(x), layer_by_layer(model, x))


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.astype(np.float32),
        minires.fuse,
    ],
    ids=["copy", "deepcopy", "pickle", "astype", "fuse"],
)
def test_a_copy_plans_for_itself(copied):
    x = images()
    fused = planned(minires.fuse(build()), x)
    expected = fused.forward(x)
    twin = copied(fused)
    assert type(twin) is FusedModel
    assert "_inference_plans" not in vars(twin)
    assert_array_equal(planned(twin, x).forward(x), expected)
    assert repr(twin) == repr(fused)
    assert [path for path, _ in twin.named_parameters()] == [
        path for path, _ in fused.named_parameters()
    ]


def test_an_image_model_keeps_its_attributes():
    fused = minires.fuse(build())
    assert (fused.input_shape, fused.num_classes) == (X[1:], 5)


def test_two_threads_may_share_a_plan():
    fused = planned(minires.fuse(build()), images())
    expected = [layer_by_layer(build(), images(seed)) for seed in range(4)]
    wrong = []

    def infer():
        for k in range(200):
            y = fused.forward(images(k % 4))
            if y.tobytes() != expected[k % 4].tobytes():
                wrong.append(k)

    threads = [threading.Thread(target=infer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- the op behind it


@OPS
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 8, 8, 16), (3, 3, 16, 32), {"padding": 1}),
        ((2, 9, 7, 5), (3, 3, 5, 19), {"padding": 1, "stride": 2}),
        ((2, 6, 6, 24), (1, 1, 24, 8), {}),
        ((2, 9, 9, 4), (3, 3, 2, 6), {"groups": 2, "dilation": 2}),
        ((1, 2, 2, 300), (3, 3, 300, 3), {"padding": 1}),
        ((1, 3, 3, 33), (1, 1, 33, 4), {}),
    ],
    ids=["winograd", "direct", "1x1", "groups", "few pixels", "1x1 on the reference"],
)
def test_a_prepared_convolution_gives_the_bits_of_a_call(
    x_shape, w_shape, options, relu, adds, ops, rng
):
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in (x_shape, w_shape))
    b = rng.standard_normal(w_shape[3], dtype=np.float32)
    y = ops.conv2d_forward(x, w, b, **options)[0]
    residual = rng.standard_normal(y.shape, dtype=np.float32) if adds else None
    forward = ops.prepare_conv2d_add_relu(x_shape, w, b, adds=adds, relu=relu, **options)
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for images in (x, -x, np.asfortranarray(x), turned):
        expected = ops.conv2d_add_relu_forward(images, w, b, residual, relu=relu, **options)
        assert_array_equal(forward(images, residual), expected)


@OPS
def test_a_prepared_convolution_refuses_what_it_was_not_prepared_for(ops):
    x, w = np.ones((2, 5, 5, 3), np.float32), np.ones((3, 3, 3, 4), np.float32)
    residual = np.ones((2, 3, 3, 4), np.float32)
    alone = ops.prepare_conv2d_add_relu(x.shape, w)
    both = ops.prepare_conv2d_add_relu(x.shape, w, adds=True)
    for call, words in [
        (lambda: alone(x[:1]), "expects x of shape (2, 5, 5, 3), got (1, 5, 5, 3)"),
        (lambda: alone(x.astype(np.float64)), "expects x of dtype float32, like the weight"),
        (lambda: alone(x, residual), "expects no residual, as was prepared, got one"),
        (lambda: both(x), "expects a residual, as was prepared, got none"),
        (lambda: both(x, residual[:, :2]), "expects residual of shape (2, 3, 3, 4), got"),
        (lambda: both(x, residual.astype(np.float64)), "residual of dtype float32, like the"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            call()
