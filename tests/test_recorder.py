"""FlowRecorder: the right numbers, no bit changed, nothing left behind."""

import itertools
import math
import pickle
import warnings

import numpy as np
import pytest

from minires import (
    Adam,
    NonFiniteError,
    SoftmaxCrossEntropy,
    evaluate,
    fit,
    fuse,
    ops,
    retain_caches,
    train_step,
)
from minires.core import Layer, Observer, Parameter, observe
from minires.data import load_digits
from minires.flow import (
    FlowRecorder,
    gradient_by_path_length,
    gradient_norms,
    lesion_study,
    residual_ledger,
)
from minires.layers import BatchNorm2d, Dense, Flatten, ReLU, Residual, Sequential
from minires.models import cifar_resnet

DIGITS = load_digits()
X, Y = DIGITS.x_train[:32], DIGITS.y_train[:32]


def network(depth=8, **options):
    return cifar_resnet(depth, input_shape=(8, 8, 1), rng=0, **options)


def train(model, steps, x=X, **options):
    """Some steps of Adam; the logits of each."""
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    return [train_step(model, loss, optimizer, x, Y[: len(x)], **options)[1] for _ in range(steps)]


def record_of(records, path):
    return next(record for record in records if record.path == path)


class Keep(Observer):
    """Copies of all that a layer sees."""

    def __init__(self, layer):
        self.layer = layer

    def after_forward(self, layer, x, y, training):
        if layer is self.layer:
            self.x, self.y = x.copy(), y.copy()

    def after_backward(self, layer, dy, dx):
        if layer is self.layer:
            self.dy, self.dx = dy.copy(), dx.copy()


@pytest.mark.parametrize("path", ["conv", "stage1.block0.sum", "stage2.block0.relu", "fc", ""])
@pytest.mark.parametrize("kit", [ops.fast, ops.reference])
def test_the_numbers_are_those_of_numpy(path, kit):
    model = network(ops=kit)
    keep = Keep(dict(model.named_layers())[path])
    with observe(model, keep), FlowRecorder(model, ops=kit) as flow:
        train(model, 1)
    record = record_of(flow.layers, path)
    for name in ("y", "dy", "dx"):
        array = getattr(keep, name).astype(np.float64)
        close = {"rel": 1e-9, "abs": 1e-12}
        assert getattr(record, f"{name}_norm") == pytest.approx(np.linalg.norm(array), **close)
        assert getattr(record, f"{name}_mean") == pytest.approx(array.mean(), **close)
        assert getattr(record, f"{name}_std") == pytest.approx(array.std(), **close)
        assert getattr(record, f"{name}_zeros") == pytest.approx((array == 0).mean(), **close)


def test_parameters_are_recorded_with_the_update_that_followed():
    model, twin = network(), network()
    optimizer, loss = Adam(twin.parameters(), 1e-3), SoftmaxCrossEntropy()
    twin.backward((loss.forward(twin.forward(X, training=True), Y), loss.backward())[1])
    before = twin.conv.weight.value.copy()
    gradient = np.linalg.norm(twin.conv.weight.grad.astype(np.float64))
    optimizer.step()
    update = np.linalg.norm((twin.conv.weight.value - before).astype(np.float64))
    with FlowRecorder(model) as flow:
        train(model, 1)
    record = record_of(flow.parameters, "conv.weight")
    norm = np.linalg.norm(before.astype(np.float64))
    assert record.value_norm == pytest.approx(norm, rel=1e-9)
    assert record.grad_norm == pytest.approx(gradient, rel=1e-6)
    assert record.update_norm == pytest.approx(update, rel=1e-6)
    assert record.update_ratio == pytest.approx(update / norm, rel=1e-6)
    assert (record.role, record.depth, record.step) == ("weight", 1, 1)
    assert record_of(flow.parameters, "fc.bias").depth is None


def test_each_update_belongs_to_its_own_step():
    model = network()
    values = [model.fc.weight.value.astype(np.float64)]
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        for _ in range(3):
            train_step(model, loss, optimizer, X, Y)
            values.append(model.fc.weight.value.astype(np.float64))
    found = [r.update_norm for r in flow.parameters if r.path == "fc.weight"]
    wanted = [np.linalg.norm(b - a) for a, b in itertools.pairwise(values)]
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kit", [ops.fast, ops.reference])
def test_recording_changes_no_bit(every, kit):
    model, twin = network(ops=kit), network(ops=kit)
    with FlowRecorder(model, every=every, keep_arrays=True, histograms=True):
        recorded = train(model, 4)
    for a, b in zip(recorded, train(twin, 4), strict=True):
        assert a.tobytes() == b.tobytes()
    assert pickle.dumps(model) == pickle.dumps(twin)


def test_every_third_step_is_recorded_from_the_first_on():
    model = network()
    with FlowRecorder(model, every=3) as flow:
        train(model, 8)
    assert flow.steps == [1, 4, 7]
    assert flow.passes == 8


def test_between_recorded_steps_nothing_is_attached_but_a_gate_at_the_model():
    model = network()
    with FlowRecorder(model, every=5):
        train(model, 2)
        watched = [path for path, layer in model.named_layers() if layer.observers]
        assert watched == [""]
        assert all(observer.forward_only for observer in model.observers)
    assert not any(layer.observers for _, layer in model.named_layers())


def everything(flow):
    arrays = {
        (step, path, name): array.tobytes()
        for step, paths in flow.arrays.items()
        for path, named in paths.items()
        for name, array in named.items()
    }
    return flow.records, arrays, flow.passes


def recorded_with(what):
    """What is recorded of three steps with something done after each, and while it waits."""
    model = network()
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model, every=2, keep_arrays=["conv"], histograms=["conv"]) as flow:
        for _ in range(3):
            train_step(model, loss, optimizer, X, Y)
            what(model)
    assert not any(layer.observers for _, layer in model.named_layers())
    return everything(flow)


@pytest.mark.parametrize(
    "what",
    [
        lambda model: evaluate(model, X[:7], Y[:7]),
        lambda model: gradient_norms(model, X[:7], Y[:7]),
        lambda model: residual_ledger(model, X[:7], Y[:7]),
        lambda model: gradient_by_path_length(model, X[:2], Y[:2]),
        lambda model: lesion_study(model, X[:7], Y[:7]),
    ],
    ids=["evaluate", "gradient_norms", "residual_ledger", "path lengths", "lesions"],
)
def test_what_is_no_training_is_not_recorded_and_changes_no_record(what):
    assert recorded_with(what) == recorded_with(lambda model: None)


def test_a_second_backward_pass_is_not_recorded():
    model, loss = network(), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow, retain_caches(model):
        loss.forward(model.forward(X, training=True), Y)
        dy = loss.backward()
        model.backward(dy)
        model.backward(np.zeros_like(dy))
    assert len(flow.residuals) == 3
    assert record_of(flow.layers, "fc").dy_norm > 0


def test_after_a_nan_that_was_repaired_recording_goes_on_and_comes_off():
    model = network()
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        train_step(model, loss, optimizer, X, Y)
        good = model.fc.weight.value.copy()
        model.fc.weight.value[0, 0] = np.nan
        with pytest.raises(NonFiniteError):
            train_step(model, loss, optimizer, X, Y)
        model.fc.weight.value[...] = good
        train_step(model, loss, optimizer, X, Y)
    assert flow.steps == [1, 2, 3]
    assert not any(layer.observers for _, layer in model.named_layers())


def test_where_a_backward_pass_does_not_come_the_next_step_is_recorded_instead():
    model = network()
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model, every=2) as flow:
        for _ in range(4):
            model.forward(X, training=True)  # as to estimate batch statistics anew
            train_step(model, loss, optimizer, X, Y)
    assert flow.steps == [2, 4, 6, 8]


def test_training_passes_without_a_backward_pass_are_told():
    model = network()

    def run():
        with FlowRecorder(model):
            model.forward(X, training=True)

    with pytest.warns(UserWarning, match="no backward pass behind 1 forward passes in training"):
        run()


def test_a_block_that_leaves_out_a_path_is_left_out_of_the_ledger():
    class Skipping(Residual):
        def _forward(self, x, training):
            if not training:
                return super()._forward(x, training)
            return self.shortcut.forward(x, training=training), ()

        def _backward(self, dy, cache):
            return self.shortcut.backward(dy)

    model = Sequential(a=Residual(ReLU()), b=Skipping(ReLU()))
    with FlowRecorder(model) as flow:
        model.backward(model.forward(np.ones((2, 3)), training=True))
    assert [record.path for record in flow.residuals] == ["a"]


def test_a_model_may_change_between_steps():
    model = Sequential(flat=Flatten(), body=Dense(64, 16, rng=0), fc=Dense(16, 10, rng=0))
    with FlowRecorder(model) as flow:
        train(model, 1)
        old, model.fc = model.fc, Dense(16, 10, rng=1)
        train(model, 1)
    assert not old.observers
    assert [r.step for r in flow.parameters if r.path == "body.weight"] == [1, 2]
    assert [r.step for r in flow.parameters if r.path == "fc.weight"] == [2]


def test_weights_of_ones_own_layers_and_of_a_lone_layer_have_a_depth():
    class Own(Layer):
        def __init__(self):
            self.matrix = Parameter(np.eye(3))
            self.scale = Parameter(np.ones(3))

        def _forward(self, x, training):
            return x @ self.matrix.value, x

        def _backward(self, dy, x):
            self.matrix.grad += x.T @ dy
            return dy @ self.matrix.value.T

    for model, paths in (
        (Sequential(a=Own(), b=Own()), ["a.matrix", "b.matrix"]),
        (Own(), ["matrix"]),
    ):
        with FlowRecorder(model) as flow:
            model.backward(model.forward(np.ones((2, 3)), training=True))
        assert [norm.path for norm in flow.gradient_norms(1)] == paths


@pytest.mark.parametrize(("rows", "share"), [(15, None), (16, 1.0), (257, 1.0)])
def test_from_16_rows_on_units_can_be_called_dead_and_the_last_row_counts(rows, share):
    for alive in (False, True):
        x = -np.ones((rows, 2))
        x[-1, 1] = 1 if alive else -1
        model = Sequential(relu=ReLU())
        with FlowRecorder(model) as flow:
            model.backward(model.forward(x, training=True))
        wanted = share / 2 if alive and share else share
        assert record_of(flow.layers, "relu").dead == wanted


def test_a_norm_that_a_layer_runs_in_inference_mode_is_left_out():
    class Frozen(Layer):
        def __init__(self):
            self.inner = BatchNorm2d(3, dtype=np.float64)

        def _forward(self, x, training):
            return self.inner.forward(x, training=False), ()

        def _backward(self, dy, cache):
            return self.inner.backward(dy)

    model = Sequential(a=Frozen())
    with FlowRecorder(model) as flow:
        model.backward(model.forward(np.ones((4, 3)), training=True))
    assert [record.path for record in flow.layers] == ["", "a"]
    assert not model.observers


def test_for_a_few_rows_no_unit_is_called_dead():
    model = Sequential(relu=ReLU())
    with FlowRecorder(model) as flow:
        model.backward(model.forward(-np.ones((1, 4)), training=True))
    assert record_of(flow.layers, "relu").dead is None


def test_it_records_a_whole_fit():
    model = network()
    with FlowRecorder(model, every=10) as flow:
        fit(model, (DIGITS.x_train[:256], DIGITS.y_train[:256]), Adam(model.parameters()), 4, rng=0)
    assert flow.steps == [1, 11]


def test_it_comes_off_after_an_error_and_keeps_what_it_has():
    model = network()
    flow = FlowRecorder(model)

    def run():
        with flow:
            train(model, 1)
            model.forward(X[..., [0, 0]], training=True)

    with pytest.raises(ValueError, match="expects x of shape"):
        run()
    assert not any(layer.observers for _, layer in model.named_layers())
    assert flow.steps == [1]
    assert all(math.isfinite(record.update_norm) for record in flow.parameters)


def test_it_comes_off_when_a_step_fails_half_way():
    model = network()
    flow = FlowRecorder(model)

    def run():
        with flow:
            model.forward(X, training=True)
            model.backward(np.zeros((1, 1), np.float32))

    with pytest.raises(ValueError, match="dy of shape"):
        run()
    assert not any(layer.observers for _, layer in model.named_layers())
    assert flow.records == []


def test_other_observers_stay():
    model, other = network(), Observer()
    with observe(model, other):
        with FlowRecorder(model):
            train(model, 1)
        assert all(layer.observers == (other,) for _, layer in model.named_layers())


def test_two_recorders_see_the_same():
    model = network()
    with FlowRecorder(model) as a, FlowRecorder(model, every=2) as b:
        train(model, 3)
    assert (a.steps, b.steps) == ([1, 2, 3], [1, 3])
    assert b.layers == [record for record in a.layers if record.step != 2]


def test_a_recorder_can_be_entered_again_and_goes_on_counting():
    model = network()
    flow = FlowRecorder(model)
    for _ in range(2):
        with flow:
            train(model, 1)
    assert flow.steps == [1, 2]
    with flow, pytest.raises(RuntimeError, match="one `with` block at a time"):
        flow.__enter__()


def test_a_step_without_a_backward_pass_leaves_no_record():
    model = network()
    with FlowRecorder(model) as flow:
        model.forward(X, training=True)
        train(model, 1)
    assert flow.steps == [2]


def test_forgetting_training_true_is_told():
    model = network()

    def run():
        with FlowRecorder(model):
            model.forward(X)
            model.forward(X)

    with pytest.warns(UserWarning, match="no training step, only 2 forward passes"):
        run()
    with warnings.catch_warnings(), FlowRecorder(model):
        warnings.simplefilter("error")  # a block in which nothing ran is fine


def test_arrays_are_copies_of_what_was_asked_for():
    model = network()
    keep = Keep(model.conv)
    with observe(model, keep), FlowRecorder(model, keep_arrays=["conv", "fc"]) as flow:
        train(model, 2)
    assert set(flow.arrays) == {1, 2}
    assert set(flow.arrays[1]) == {"conv", "fc"}
    for name in ("y", "dy", "dx"):
        kept = flow.arrays[2]["conv"][name]
        assert kept.tobytes() == getattr(keep, name).tobytes()
        assert kept.base is None


def test_histograms_count_every_number():
    model = network()
    with FlowRecorder(model, histograms="conv", keep_arrays="conv") as flow:
        train(model, 1)
    assert [h.array for h in flow.histograms] == ["y", "dy", "dx"]
    for h in flow.histograms:
        array = flow.arrays[1]["conv"][h.array]
        assert (h.low, h.high) == (array.min(), array.max())
        assert list(h.counts) == np.histogram(array, len(h.counts))[0].tolist()


def test_dead_units_are_channels_that_are_0_for_every_example():
    model = Sequential(dense=Dense(4, 8, rng=0), relu=ReLU(), fc=Dense(8, 10, rng=1))
    model.dense.weight.value[:, :3] = 0
    model.dense.bias.value[:3] = -1
    x = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    with FlowRecorder(model) as flow:
        loss = SoftmaxCrossEntropy()
        loss.forward(model.forward(x, training=True), np.zeros(1000, int))
        model.backward(loss.backward())
    assert record_of(flow.layers, "relu").dead == 3 / 8
    assert record_of(flow.layers, "dense").dead is None


def test_a_unit_that_lives_for_the_last_example_alone_is_not_dead():
    model = Sequential(relu=ReLU())
    x = -np.ones((1000, 2))
    x[-1, 1] = 1
    with FlowRecorder(model) as flow:
        model.backward(model.forward(x, training=True))
    assert record_of(flow.layers, "relu").dead == 0.5


def test_nan_is_recorded_in_silence():
    model = Sequential(flat=Flatten(), fc=Dense(64, 10, rng=0))
    model.fc.weight.value[0, 0] = np.nan
    with FlowRecorder(model, histograms=True) as flow:
        model.backward(model.forward(X + 1, training=True))
    record = record_of(flow.layers, "fc")
    assert math.isnan(record.y_norm)
    assert math.isnan(record.y_std)
    assert record.dx_zeros == 0


def test_a_users_own_layers_are_recorded():
    class Double(Layer):
        def _forward(self, x, training):
            return 2 * x, ()

        def _backward(self, dy, cache):
            return 2 * dy

    model = Residual(Double())
    with FlowRecorder(model) as flow:
        model.backward(model.forward(np.ones((2, 3)), training=True))
    (ledger,) = flow.residuals
    assert ledger.cosine == pytest.approx(1)
    assert ledger.shortcut_share == pytest.approx(1 / 3)
    assert ledger.branch_ratio == 2
    assert [record.layer for record in flow.layers] == ["Residual", "Double", "Identity"]


def test_mistakes_are_named():
    model = network()
    with pytest.raises(TypeError, match="model to be a Layer, got list"):
        FlowRecorder([model])
    with pytest.raises(ValueError, match="every to be an integer >= 1, got 0"):
        FlowRecorder(model, every=0)
    with pytest.raises(ValueError, match=r"paths of layers \(conv, norm, relu, ...\), got 'conv9'"):
        FlowRecorder(model, keep_arrays=["conv9"])


def test_a_fused_model_refuses_before_training_begins():
    model = fuse(network())
    flow = FlowRecorder(model)
    with pytest.raises(RuntimeError, match="record the model that `fuse` was given"), flow:
        pytest.fail("the block was entered")
    assert not any(layer.observers for _, layer in model.named_layers())


def test_batch_norm_in_a_plain_model_is_recorded_too():
    model = Sequential(norm=BatchNorm2d(3))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with FlowRecorder(model) as flow:
        model.backward(model.forward(x, training=True))
    assert record_of(flow.layers, "norm").y_std == pytest.approx(1, rel=1e-4)
