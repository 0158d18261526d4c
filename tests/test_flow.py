"""Gradient norms by depth."""

import pickle

import numpy as np
import pytest

from minires.data import load_digits
from minires.flow import gradient_norms
from minires.layers import Dense, Flatten, Sequential
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet

DIGITS = load_digits()
X, Y = DIGITS.x_train[:128], DIGITS.y_train[:128]


def norms(depth, **options):
    model = cifar_resnet(depth, input_shape=(8, 8, 1), rng=0, **options)
    return [norm.norm for norm in gradient_norms(model, X, Y)][:-1]  # without the dense layer


def test_there_is_one_norm_a_layer_with_weights_in_order():
    model = cifar_resnet(8, input_shape=(8, 8, 1), shortcut="B", rng=0)
    found = gradient_norms(model, X, Y)
    assert [norm.depth for norm in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found[0].path == "conv.weight"
    assert found[1].path == "stage1.block0.sum.branch.conv1.weight"
    assert found[-1].path == "fc.weight"


def test_the_norm_is_the_norm_of_the_gradient():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    found = gradient_norms(model, X, Y)
    loss = SoftmaxCrossEntropy()
    loss.forward(model.forward(X, training=True), Y)
    model.backward(loss.backward())
    assert found[0].norm == pytest.approx(float(np.linalg.norm(model.conv.weight.grad)), rel=1e-6)


def test_measuring_leaves_the_model_as_it_was():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    model.conv.weight.grad[...] = 7
    before = pickle.dumps(model)
    gradient_norms(model, X, Y)
    assert pickle.dumps(model) == before


def test_batch_norm_turns_vanishing_into_exploding_and_the_identity_path_cures_both():
    assert max(norms(56, kind="plain", norm=None)) < 1e-4  # vanishes
    plain, residual = norms(56, kind="plain"), norms(56, kind="residual")
    assert plain[0] > 100 * plain[-1]  # explodes towards the input
    assert max(residual) < 10 * min(residual)
    assert min(norms(56, kind="residual", norm=None)) > 1


def test_gradients_from_before_do_not_count_and_the_loss_can_be_chosen():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    clean = gradient_norms(model, X, Y)
    for parameter in model.parameters():
        parameter.grad[...] = 7
    assert gradient_norms(model, X, Y) == clean
    smoothed = gradient_norms(model, X, Y, loss=SoftmaxCrossEntropy(label_smoothing=0.5))
    assert smoothed[0].norm != clean[0].norm


def test_only_a_layer_called_shortcut_is_left_out_and_a_shared_weight_comes_once():
    model = Sequential(flat=Flatten(), noshortcut=Dense(64, 10, rng=0), b=Dense(10, 10, rng=1))
    assert [norm.path for norm in gradient_norms(model, X, Y)] == ["noshortcut.weight", "b.weight"]
    model.c = Dense(10, 10, rng=2)
    model.c.weight = model.b.weight
    assert [norm.path for norm in gradient_norms(model, X, Y)] == ["noshortcut.weight", "b.weight"]
