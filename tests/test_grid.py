"""The grid of networks: verdicts follow from the numbers, and the numbers from the networks."""

import dataclasses
import math

import numpy as np
import pytest

from minires import BatchNorm2d
from minires.data import load_digits
from minires.experiments import grid
from minires.experiments.grid import Cell
from minires.models import cifar_resnet, plain8


def cell(growth, autocorrelation):
    return Cell("plain", "batch", "He", 56, growth, autocorrelation, 1.0, 0.5)


@pytest.mark.parametrize(
    ("growth", "autocorrelation", "verdict"),
    [
        (1.0, 0.9, "healthy"),
        (99.0, 0.31, "healthy"),
        (0.011, 0.9, "healthy"),
        (101.0, 0.9, "exploding"),
        (0.009, 0.9, "vanishing"),
        (0.0, math.nan, "vanishing"),
        (1.0, 0.29, "shattering"),
        (1e4, -0.01, "exploding, shattering"),
        (math.nan, math.nan, "not finite"),
        (math.inf, 0.9, "not finite"),
    ],
)
def test_the_verdict_follows_from_the_two_numbers(growth, autocorrelation, verdict):
    assert cell(growth, autocorrelation).verdict == verdict


@pytest.fixture(scope="module")
def measured():
    return grid.measure(seeds=1, depths=(8, 56), steps=2, progress=False)


def test_every_kind_norm_weights_and_depth_has_a_cell(measured):
    assert len(measured.cells) == 2 * 2 * 3 * 2
    assert len(measured.select(kind="plain", norm=None)) == 6
    (one,) = measured.select(kind="residual", norm="batch", initializer="He", depth=8)
    assert one.verdict == "healthy"


def test_without_norm_deep_plain_networks_vanish_and_with_it_they_explode_and_shatter(measured):
    for one in measured.select(kind="plain", depth=56):
        wanted = "vanishing" if one.norm is None else "exploding, shattering"
        assert one.verdict == wanted, one


def test_the_identity_path_keeps_them_healthy_but_for_he_weights_without_a_norm(measured):
    for one in measured.select(kind="residual", depth=56):
        bare_he = one.norm is None and one.initializer == "He"
        assert one.verdict == ("exploding" if bare_he else "healthy"), one


def test_the_claims_about_gradients_hold_and_are_counted_from_the_cells(measured):
    rows = grid.rows(measured)[:-1]
    assert [row for row in rows if not row.agrees] == rows[-1:]  # an accuracy, after two steps
    tame = [dataclasses.replace(one, growth=1.0, autocorrelation=0.9) for one in measured.cells]
    broken = grid.Grid(tame, seeds=1, steps=2)
    (explode,) = [row for row in grid.rows(broken) if "explode, of 3" in row.quantity]
    assert (explode.expected, explode.got, explode.agrees) == (3, 0, False)


def test_the_table_has_a_line_a_network(measured):
    lines = grid.details(measured).splitlines()
    assert len(lines) == 1 + len(measured.cells)
    assert lines[3].split()[:3] == ["plain-8", "batch", "Glorot"]


def test_growth_is_the_ratio_of_the_gradients_behind_stem_and_last_block():
    data = load_digits()
    model = plain8(input_shape=(8, 8, 1), rng=0)
    growth, gradient, _ = grid.gradients(model, data, 0)
    assert 1 < growth < 10
    assert gradient > 0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_the_statistics_of_a_batch_become_the_running_ones():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    x = load_digits().x_train[:64]
    grid.take_statistics(model, x)
    out = model.conv.forward(x).astype(np.float64)
    np.testing.assert_allclose(model.norm.running_mean, out.mean(axis=(0, 1, 2)), atol=1e-5)
    norms = [layer for _, layer in model.named_layers() if isinstance(layer, BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
