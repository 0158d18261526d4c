"""diagnose: a healthy run is left in peace, each thing that is wrong is named."""

import dataclasses
import math

import numpy as np
import pytest

from minires import SGD, Adam, NonFiniteError, SoftmaxCrossEntropy, train_step
from minires.data import load_digits
from minires.flow import FlowLog, FlowRecorder, LayerRecord, ParameterRecord, diagnose
from minires.layers import Conv2d, Dense, Flatten, GlobalAvgPool2d, ReLU, Sequential
from minires.models import cifar_resnet

DIGITS = load_digits()
X, Y = DIGITS.x_train[:64], DIGITS.y_train[:64]
NUMBERS = ("norm", "mean", "std", "zeros")
GROWN = [(1, 1.0), (2, 1e3)]  # step, gradient norm


def diagnosis(model, optimizer=None, steps=3, **options):
    optimizer = optimizer or Adam(model.parameters(), 1e-3)
    loss = SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        for _ in range(steps):
            train_step(model, loss, optimizer, X, Y)
    return diagnose(flow, **options)


def network(depth=8, **options):
    return cifar_resnet(depth, input_shape=(8, 8, 1), rng=0, **options)


def mlp(hidden=2):
    """Softmax regression, or with hidden layers."""
    layers = [Dense(64 if i == 0 else 32, 32, rng=i) for i in range(hidden)]
    chain = [part for layer in layers for part in (layer, ReLU())]
    return Sequential(Flatten(), *chain, Dense(32 if hidden else 64, 10, rng=9))


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_a_residual_network_is_healthy(depth):
    found = diagnosis(network(depth))
    assert found.ok
    assert str(found) == "Healthy: nothing to report in 3 recorded steps."


def test_a_deep_plain_network_with_batch_norm_explodes_and_its_first_layers_are_named():
    found = diagnosis(network(56, kind="plain"), steps=1)
    assert "conv.weight" in found.paths("exploding")
    assert "stage1.block0.conv1.weight" in found.paths("exploding")
    assert not any(path.startswith("stage3") for path in found.paths("exploding"))
    assert "put an identity path around the layers, with batch norm in the branch" in str(found)


def test_a_gradient_that_shrinks_is_seen_where_the_weight_gradients_are_of_one_size():
    layers = [Dense(64, 64, rng=i) for i in range(12)]
    for layer in layers:
        layer.weight.value *= 0.4
    chain = [part for layer in layers for part in (layer, ReLU())]
    found = diagnosis(Sequential(Flatten(), *chain, Dense(64, 10, rng=0)), steps=1)
    assert found.paths("vanishing")[0] == "1"
    assert "upstream gradient norm" in found.findings[0].message


def test_a_layer_that_stops_the_gradient_is_named_and_so_is_what_it_starves():
    model = Sequential(flat=Flatten(), first=Dense(64, 8, rng=0), relu=ReLU(), fc=Dense(8, 10))
    model.first.weight.value[...] = -1
    model.first.bias.value[...] = -1
    found = diagnosis(model, steps=2)
    assert found.paths("no gradient") == ["relu", "first.weight", "first.bias", "fc.weight"]
    assert found.paths("dead units") == ["relu"]
    (relu,) = [f for f in found.findings if f.kind == "dead units"]
    assert relu.message == "100% of its units gave 0 for all examples"
    assert (relu.step, relu.steps) == (1, 2)


def test_the_first_layer_that_is_not_finite_comes_first_and_hides_what_follows_from_it():
    model = network()
    optimizer, loss = Adam(model.parameters()), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        train_step(model, loss, optimizer, X, Y)
        model.stage2.block0.sum.branch.conv2.weight.value[0, 0, 0, 0] = np.nan
        with pytest.raises(NonFiniteError):
            train_step(model, loss, optimizer, X, Y)
    found = diagnose(flow)
    weight, layer = found.findings[:2]
    assert (weight.path, weight.step) == ("stage2.block0.sum.branch.conv2.weight", 1)
    assert weight.message == "the norm of its update nan"  # we made it
    assert (layer.path, layer.step) == ("stage2.block0.sum.branch.conv2", 2)
    assert layer.message == "the norm of its output is nan"
    assert {f.kind for f in found.findings} == {"not finite"}


def test_steps_that_are_too_large_or_too_small_are_named():
    def model():
        return Sequential(
            conv=Conv2d(1, 8, 3, rng=0), pool=GlobalAvgPool2d(), fc=Dense(8, 10, rng=0)
        )

    wild, timid = model(), model()
    found = diagnosis(wild, Adam(wild.parameters(), 0.3))
    assert found.paths("update too large") == ["conv.weight", "fc.weight"]
    found = diagnosis(timid, SGD(timid.parameters(), 1e-7))
    assert found.paths("update too small") == ["conv.weight", "fc.weight"]
    assert "the guide is 0.001" in str(found)


@pytest.mark.parametrize("optimizer", [Adam, lambda p, lr: SGD(p, 100 * lr, momentum=0.9)])
@pytest.mark.parametrize("make", [network, lambda: network(20), mlp, lambda: mlp(0)])
def test_ordinary_training_raises_no_alarm(make, optimizer):
    model = make()
    assert str(diagnosis(model, optimizer(model.parameters(), 1e-3), steps=20)).startswith(
        "Healthy"
    )


def test_a_gradient_that_is_zero_at_the_first_step_alone_is_not_called_missing():
    model = network()
    for path, parameter in model.named_parameters():
        if path.endswith("norm2.gamma"):
            parameter.value[...] = 0
    assert diagnosis(model, steps=3).paths("no gradient") == []


def test_frozen_layers_are_told_as_such_and_accumulation_is_not():
    model = network()
    found = diagnosis(model, Adam(model.fc.parameters(), 1e-3))
    assert "conv.weight" in found.paths("not updated")
    assert "fc.weight" not in found.paths("not updated")
    assert {f.kind for f in found.findings} == {"not updated"}
    model = network()
    optimizer, loss = Adam(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        for step in range(8):
            loss.forward(model.forward(X, training=True), Y)
            model.backward(loss.backward())
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert diagnose(flow).ok


def test_a_single_measured_step_without_an_optimiser_is_no_alarm_but_several_are():
    for steps in (1, 3):
        model, loss = network(), SoftmaxCrossEntropy()
        with FlowRecorder(model) as flow:
            for _ in range(steps):
                loss.forward(model.forward(X, training=True), Y)
                model.backward(loss.backward())
        assert diagnose(flow).paths("not updated") == ([""] if steps > 1 else [])


def records_of(norms, step=1):
    """The records of a chain of weights with these gradient norms."""
    return [
        ParameterRecord(step, f"{i}.weight", "weight", i, 1.0, norm, 1e-3, 1e-3)
        for i, norm in enumerate(norms, start=1)
    ]


def test_two_layers_are_compared_with_each_other_and_only_the_first_is_judged():
    found = diagnose(FlowLog(records_of([1e-5, 1.0])))
    assert [(f.kind, f.path) for f in found.findings] == [("vanishing", "1.weight")]
    found = diagnose(FlowLog(records_of([1e3, 1.0])))
    assert [(f.kind, f.path) for f in found.findings] == [("exploding", "1.weight")]


def with_ratio(ratio):
    return FlowLog([ParameterRecord(1, "w", "weight", 1, 1.0, 1.0, ratio, ratio)])


@pytest.mark.parametrize(
    ("ratio", "kind"),
    [(9e-6, "update too small"), (1.1e-5, None), (0.09, None), (0.11, "update too large")],
)
def test_updates_are_off_beyond_a_hundred_times_the_guide_either_way(ratio, kind):
    assert [f.kind for f in diagnose(with_ratio(ratio)).findings] == ([kind] if kind else [])


def test_half_of_the_steps_are_enough_to_be_named():
    norms = [[1.0, 1.0]] * 2 + [[1e3, 1.0]] * 2
    logs = [records_of(given, step) for step, given in enumerate(norms, start=1)]
    found = diagnose(FlowLog([record for records in logs for record in records]))
    assert found.paths("exploding") == ["1.weight"]


def test_only_weights_are_said_to_grow():
    grown = [dataclasses.replace(records_of([g], step)[0], role="bias") for step, g in GROWN]
    assert diagnose(FlowLog(grown)).paths("growing") == []
    assert diagnose(FlowLog([records_of([g], step)[0] for step, g in GROWN])).paths("growing")


def test_one_wild_step_among_many_is_not_the_networks_fault():
    logs = [records_of([1.0, 1.0], step) for step in range(1, 10)]
    logs[4] = records_of([1e3, 1.0], 5)
    found = diagnose(FlowLog([record for records in logs for record in records]))
    assert found.paths("exploding") == []


def test_not_finite_numbers_are_found_wherever_they_are_and_dated_by_their_first_step():
    fields = dict.fromkeys((f"{a}_{n}" for a in ("y", "dy", "dx") for n in NUMBERS), 0.5)
    layers = [
        LayerRecord(step, path, "Dense", **(fields | {"dy_norm": bad if step >= since else 0.5}))
        for step in (1, 2, 3, 4)
        for path, since, bad in (("a", 3, math.nan), ("b", 4, math.inf))
    ]
    found = diagnose(FlowLog(layers)).findings
    assert [(f.path, f.step, f.steps) for f in found] == [("a", 3, 2), ("b", 4, 1)]
    for name in ("value_norm", "grad_norm", "update_norm"):
        record = dataclasses.replace(records_of([1.0])[0], **{name: math.inf})
        assert diagnose(FlowLog([record])).paths("not finite") == ["1.weight"]


def test_biases_and_norms_are_not_held_to_the_guide():
    found = diagnosis(network(), ratio=1.01)
    assert found.findings
    assert all(f.path.endswith("weight") for f in found.findings)


def test_limits_can_be_moved():
    model = network(20, kind="plain")
    assert diagnosis(model, steps=1).ok
    assert diagnosis(network(20, kind="plain"), steps=1, growth=2).paths("exploding")


def test_a_long_list_is_cut_in_the_text_and_not_in_the_findings():
    found = diagnosis(network(56, kind="plain"), steps=1)
    count = len(found.paths("exploding"))
    assert count > 4
    assert f"and {count - 4} more" in str(found)


def test_a_gradient_that_grows_over_the_steps_is_named():
    model = network()
    optimizer, loss = SGD(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        train_step(model, loss, optimizer, X, Y)
        model.fc.weight.value *= 1e4
        train_step(model, loss, optimizer, X, Y)
    assert "conv.weight" in diagnose(flow).paths("growing")


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="expects a FlowLog or FlowRecorder, got str"):
        diagnose("flow.csv")
    with pytest.raises(ValueError, match="with recorded steps, got an empty one"):
        diagnose(FlowLog())
    with pytest.raises(ValueError, match="growth to be a number"):
        diagnose(FlowLog(), growth=1)
