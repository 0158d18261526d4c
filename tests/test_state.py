"""What a checkpoint keeps of model and optimiser: training goes on bit by bit, or nothing moves."""

import copy

import numpy as np
import pytest

from minires import (
    SGD,
    Adam,
    AdamW,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    fuse,
    train_step,
)
from minires.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from minires.core import Parameter
from minires.state import model_state, optimizer_state, random_streams, restore

X = np.random.default_rng(0).standard_normal((8, 6, 6, 2)).astype(np.float32)
LABELS = np.arange(8) % 3
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
OPTIMIZERS = (
    lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
    lambda p: Adam(p, 1e-2),
    lambda p: AdamW(p, 1e-2),
)


def network(seed=0, stream="PCG64", width=4):
    """Convolutions, batch norm, a residual block, dropout."""
    rng = np.random.default_rng(seed)
    drop = np.random.Generator(getattr(np.random, stream)(seed))
    branch = Sequential(
        conv=Conv2d(width, width, 3, padding=1, bias=False, rng=rng), norm=BatchNorm2d(width)
    )
    return Sequential(
        conv=Conv2d(2, width, 3, padding=1, rng=rng),
        norm=BatchNorm2d(width),
        relu=ReLU(),
        block=Residual(branch),
        relu2=ReLU(),
        drop=Dropout(0.3, rng=drop),
        pool=GlobalAvgPool2d(),
        fc=Dense(width, 3, rng=rng),
    )


def train(model, optimizer, steps=2):
    for _ in range(steps):
        train_step(model, SoftmaxCrossEntropy(), optimizer, X, LABELS)


def capture(model, optimizer):
    """A Checkpoint that shares no array with them."""
    arrays = model_state(model) | optimizer_state(optimizer)
    return copy.deepcopy(Checkpoint(arrays, {"streams": random_streams(model)}))


def assert_same(a, b):
    assert list(a.arrays) == list(b.arrays)
    for name, array in a.arrays.items():
        assert array.tobytes() == b.arrays[name].tobytes(), name
    assert a.meta == b.meta


def trained(seed=0, make=OPTIMIZERS[1], **options):
    model = network(seed, **options)
    optimizer = make(model.parameters())
    train(model, optimizer)
    return model, optimizer


def test_names_are_paths():
    model, optimizer = trained(make=OPTIMIZERS[0])
    names = list(capture(model, optimizer).arrays)
    assert names[:2] == ["weights/conv.weight", "weights/conv.bias"]
    assert [name for name in names if name.startswith("statistics")] == [
        "statistics/norm.running_mean",
        "statistics/norm.running_var",
        "statistics/block.branch.norm.running_mean",
        "statistics/block.branch.norm.running_var",
    ]
    count = len(optimizer.parameters)
    assert names[-count - 2 :] == [
        "optimizer/SGD/steps",
        "optimizer/SGD/lr",
        *(f"optimizer/SGD/velocity/{i}" for i in range(count)),
    ]
    assert list(random_streams(model)) == ["drop.rng"]


@pytest.mark.parametrize("stream", BIT_GENERATORS)
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_training_goes_on_bit_by_bit_from_a_file(make, stream, tmp_path):
    model, optimizer = trained(make=make, stream=stream)
    optimizer.lr = 0.03
    saved = capture(model, optimizer)
    save_checkpoint(tmp_path / "a.npz", *saved)
    train(model, optimizer)
    twin = network(seed=9, stream=stream)
    other = make(twin.parameters())
    train(twin, other, steps=1)
    restore(twin, other, load_checkpoint(tmp_path / "a.npz"))
    assert (other.steps, other.lr) == (2, 0.03)
    assert_same(capture(twin, other), saved)
    train(twin, other)
    assert_same(capture(twin, other), capture(model, optimizer))


def test_a_fused_twin_has_the_same_state_and_is_restored_with_its_model():
    model, optimizer = trained()
    fused = fuse(model)
    assert list(model_state(fused)) == list(model_state(model))
    assert random_streams(fused) == random_streams(model)
    train(fused, optimizer)
    saved = capture(model, optimizer)
    assert_same(capture(fused, optimizer), saved)
    expected = fused.forward(X)
    for one in (model, fused):
        train(fused, optimizer)
        assert (fused.forward(X) != expected).any()
        restore(one, optimizer, saved)
        assert (fused.forward(X) == expected).all()
        np.testing.assert_allclose(model.forward(X), expected, rtol=1e-4, atol=1e-5)
    restore(model, optimizer, saved)
    train(fused, optimizer)
    first = capture(model, optimizer)
    restore(fused, optimizer, saved)
    train(fused, optimizer)
    assert_same(capture(model, optimizer), first)


def test_weights_and_lists_are_written_in_place_and_snapshots_stay_as_they_were():
    model, optimizer = trained()
    saved = capture(model, optimizer)
    train(model, optimizer)
    arrays = [p.value for p in model.parameters()] + optimizer.m + optimizer.v
    mean = model.norm.running_mean
    before = mean.copy()
    restore(model, optimizer, saved)
    after = [p.value for p in model.parameters()] + optimizer.m + optimizer.v
    assert all(a is b for a, b in zip(arrays, after, strict=True))
    assert (mean == before).all()
    assert not np.shares_memory(
        model.norm.running_mean, saved.arrays["statistics/norm.running_mean"]
    )


class Twice(Layer):
    """Two layers with one Parameter, an array under a private name, and a counter."""

    def __init__(self):
        self.first, self.second = Dense(3, 3, rng=0), Dense(3, 3, rng=1)
        self.second.weight = self.first.weight
        self.offset, self._scratch, self.shift = np.zeros(3), np.zeros(5), Parameter(np.ones(2))
        self.seen = np.array(0)


def test_a_shared_parameter_is_kept_once_and_stays_shared():
    model, twin = Twice(), Twice()
    model.seen, model.offset = np.array(3), np.arange(3.0)
    arrays = model_state(model)
    assert list(arrays) == [
        *("weights/shift", "weights/first.weight", "weights/first.bias", "weights/second.bias"),
        *("statistics/offset", "statistics/seen"),
    ]
    model.first.weight.value[...] = 7
    restore(twin, None, Checkpoint(arrays, {}))
    assert twin.second.weight is twin.first.weight
    assert (twin.second.weight.value == 7).all()
    assert twin.seen == 3
    assert (twin.offset == [0, 1, 2]).all()


def test_without_an_optimiser_the_model_alone_is_restored():
    model, optimizer = trained()
    saved, expected = capture(model, optimizer), model.forward(X)
    twin = network(seed=5)
    restore(twin, None, saved)
    assert (twin.forward(X) == expected).all()


def test_what_others_have_put_into_a_checkpoint_is_left_alone():
    model, optimizer = trained()
    saved = capture(model, optimizer)
    saved.arrays["order"] = np.arange(3)
    restore(model, optimizer, saved)


def without(name):
    return lambda saved: saved.arrays.pop(name)


def put(name, value):
    return lambda saved: saved.arrays.update({name: value})


def put_stream(**fields):
    return lambda saved: saved.meta["streams"]["drop.rng"].update(fields)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("weights/fc.bias"), r"got 1 \(weights/fc\.bias\) too few and none too many"),
        (put("statistics/x", np.ones(1)), r"got none too few and 1 \(statistics/x\) too many"),
        (without("optimizer/Adam/v/3"), r"got 1 \(optimizer/Adam/v/3\) too few"),
        (without("optimizer/Adam/lr"), r"got 1 \(optimizer/Adam/lr\) too few"),
        (
            put("weights/fc.bias", np.ones(4, np.float32)),
            r"expects weights/fc\.bias of \(3,\) float32, got \(4,\) float32",
        ),
        (
            put("statistics/norm.running_var", np.ones(4)),
            r"expects statistics/norm\.running_var of \(4,\) float32, got \(4,\) float64",
        ),
        (
            put("optimizer/Adam/m/0", np.ones((3, 3), np.float32)),
            r"expects optimizer/Adam/m/0 of \(3, 3, 2, 4\) float32, got \(3, 3\) float32",
        ),
        (put("weights/fc.bias", [1.0, 2.0, 3.0]), r"of \(3,\) float32, got list"),
        (put("optimizer/AdamW/steps", np.array(1)), "an optimiser Adam, got Adam, AdamW"),
        (put("optimizer/Adam/steps", np.array(-1)), "expects steps >= 0 .*, got -1, 0.01"),
        (put("optimizer/Adam/lr", np.array(np.nan)), "a finite lr >= 0, got 2, nan"),
        (lambda saved: saved.meta.clear(), r"the random streams .*, got 1 \(drop\.rng\) too few"),
        (lambda saved: saved.meta.update(streams=[]), r"expects streams as a dict, got \[\]"),
        (put_stream(bit_generator="MT19937"), r"the state of a PCG64 as drop\.rng, got .*MT19937"),
        (put_stream(state={"state": -1, "inc": 1}), r"the state of a PCG64 as drop\.rng, got"),
        (put_stream(more=1), r"the state of a PCG64 as drop\.rng, got"),
        (lambda s: s.meta["streams"].update({"drop.rng": 5}), r"a PCG64 as drop\.rng, got 5"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(harm, message):
    saved = capture(*trained(seed=3))
    harm(saved)
    model, optimizer = trained()
    before = capture(model, optimizer)
    with pytest.raises(CheckpointError, match=message):
        restore(model, optimizer, saved)
    assert_same(capture(model, optimizer), before)


@pytest.mark.parametrize("stream", BIT_GENERATORS)
def test_a_stream_of_another_kind_or_cut_short_is_refused(stream):
    saved = capture(*trained(stream=stream))
    for other in set(BIT_GENERATORS) - {stream}:
        model, optimizer = trained(stream=other)
        with pytest.raises(CheckpointError, match=f"expects the state of a {other} as"):
            restore(model, optimizer, saved)
    saved.meta["streams"]["drop.rng"].pop("state")
    model, optimizer = trained(stream=stream)
    with pytest.raises(CheckpointError, match=f"expects the state of a {stream} as"):
        restore(model, optimizer, saved)


def test_another_network_and_another_optimiser_are_refused():
    saved = capture(*trained())
    model, optimizer = trained(make=OPTIMIZERS[2])
    with pytest.raises(CheckpointError, match="the state of an optimiser AdamW, got Adam"):
        restore(model, optimizer, saved)
    with pytest.raises(
        CheckpointError, match=r"weights/conv\.weight of .*, 5\) float32, got .*4\)"
    ):
        restore(network(width=5), None, saved)
    plain = Sequential(flatten=Flatten(), fc=Dense(72, 3, rng=0))
    with pytest.raises(CheckpointError, match=r"too few and 11 .*\.\.\.\) too many: build them"):
        restore(plain, None, saved)


def test_arguments_of_another_kind_are_refused():
    model, optimizer = trained()
    saved = capture(model, optimizer)
    calls = {
        "model_state expects model to be a Layer, got list": lambda: model_state([]),
        "optimizer_state expects optimizer to be an Optimizer": lambda: optimizer_state(model),
        "random_streams expects model to be a Layer": lambda: random_streams(None),
        "restore expects model to be a Layer": lambda: restore(optimizer, optimizer, saved),
        "restore expects optimizer to be an Optimizer": lambda: restore(model, model, saved),
        "restore expects checkpoint to be a Checkpoint": lambda: restore(model, optimizer, {}),
    }
    for message, call in calls.items():
        with pytest.raises(TypeError, match=message):
            call()
