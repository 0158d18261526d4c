"""Plots return their Axes, show every series, and survive gaps."""

import math

import pytest
from matplotlib.figure import Figure

from minires import plots
from minires.flow import GradientNorm
from minires.history import Epoch, History


def series(*values):
    return [GradientNorm(i, f"layer{i}.weight", v) for i, v in enumerate(values, start=1)]


def history(*losses):
    return History([Epoch(i, i, v, 0.5, None, None, 0.1, 1.0) for i, v in enumerate(losses, 1)])


def test_gradient_norms_are_drawn_on_a_log_scale_with_a_legend():
    ax = plots.gradient_norms({"plain-8": series(1, 10), "residual-8": series(2, 3)})
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain-8", "residual-8"]
    assert list(ax.lines[0].get_ydata()) == [1, 10]
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_plain_and_residual_differ_in_line_and_marker_not_only_in_colour():
    plain, residual = (plots.style_of(label) for label in ("plain-56", "residual-56"))
    assert plain["linestyle"] != residual["linestyle"]
    assert plain["marker"] != residual["marker"]


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_norm_that_cannot_stand_on_a_log_scale_leaves_a_gap(value):
    ax = plots.gradient_norms({"a": series(1, value, 3)})
    assert math.isnan(ax.lines[0].get_ydata()[1])
    ax.figure.savefig("/dev/null", format="png")


def test_axes_that_are_given_are_used_and_returned():
    ax = Figure().add_subplot()
    assert plots.gradient_norms({"a": series(1, 2)}, ax=ax) is ax
    assert plots.training_curves({"a": history(1, 2)}, ax=ax) is ax


def test_a_column_that_was_not_measured_leaves_a_gap():
    ax = plots.training_curves({"a": history(1.0, 0.5)}, column="test_accuracy")
    assert all(math.isnan(v) for v in ax.lines[0].get_ydata())
    assert ax.get_yscale() == "linear"


def test_figures_have_their_panels():
    figure = plots.gradient_norm_figure({"start": {"a": series(1, 2)}, "end": {"a": series(3, 4)}})
    assert [ax.get_title() for ax in figure.axes] == ["start", "end"]
    figure = plots.training_figure({"a": history(2.0, 1.0)})
    assert [ax.get_title() for ax in figure.axes] == ["Training loss", "Test accuracy"]
