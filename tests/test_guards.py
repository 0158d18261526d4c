"""diagnose: a healthy run is left in peace, each thing that is wrong is named."""

import numpy as np
import pytest

from minires import SGD, Adam, NonFiniteError, SoftmaxCrossEntropy, train_step
from minires.data import load_digits
from minires.flow import FlowLog, FlowRecorder, diagnose
from minires.layers import Conv2d, Dense, Flatten, GlobalAvgPool2d, ReLU, Sequential
from minires.models import cifar_resnet

DIGITS = load_digits()
X, Y = DIGITS.x_train[:64], DIGITS.y_train[:64]


def diagnosis(model, optimizer=None, steps=3, **options):
    optimizer = optimizer or Adam(model.parameters(), 1e-3)
    loss = SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        for _ in range(steps):
            train_step(model, loss, optimizer, X, Y)
    return diagnose(flow, **options)


def network(depth=8, **options):
    return cifar_resnet(depth, input_shape=(8, 8, 1), rng=0, **options)


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
    assert "An identity path around the layers keeps it level" in str(found)


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
    assert found.findings[0].path == "stage2.block0.sum.branch.conv2"
    assert found.findings[0].message == "the norm of its output is nan"
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
