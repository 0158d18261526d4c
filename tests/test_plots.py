"""Plots return their Axes, show every series, survive gaps and refuse to draw nothing.

The samples here are also those of `test_plots_layout`.
"""

import dataclasses
import functools
import math
import time

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from minires import plots
from minires.experiments.grid import Cell, Grid
from minires.flow import (
    FlowLog,
    FlowRecorder,
    GradientNorm,
    HistogramRecord,
    LayerRecord,
    ParameterRecord,
    ResidualRecord,
    residual_ledger,
)
from minires.flow.lesions import Lesion, MultiLesion, Shuffle
from minires.flow.paths import PathGradients, path_counts
from minires.flow.surface import LossSurface
from minires.history import Epoch, History
from minires.layers import Dense
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet
from minires.optimizers import SGD
from minires.plots.activations import percentile
from minires.plots.heatmaps import by_step, edges, some_steps
from minires.plots.style import COLORMAP, depth_of, kind_of
from minires.training import train_step

# ---- samples


def series(*values):
    return [GradientNorm(i, f"layer{i}.weight", v) for i, v in enumerate(values, start=1)]


def history(*losses):
    return History([Epoch(i, i, v, 0.5, None, None, 0.1, 1.0) for i, v in enumerate(losses, 1)])


def norm_series():
    return {"plain-20": series(*range(1, 21)), "residual-56": series(*range(56, 0, -1))}


def histories():
    return {"plain-20": history(2.0, 1.0), "residual-20": history(2.0, 0.5)}


def parameter(step, depth, grad, ratio=1e-2):
    path = f"stage1.block{depth}.conv.weight"
    return ParameterRecord(step, path, "weight", depth, 1.0, grad, ratio, ratio)


def parameter_log(layers, steps=4, bad=None):
    """Gradient norms of 10 * layer + step; one cell may be `bad`."""
    log = FlowLog()
    for step in range(1, steps + 1):
        for depth in range(1, layers + 1):
            worst = bad is not None and (step, depth) == (2, 3)
            grad = bad if worst else 10.0 * depth + step
            log.add(parameter(step, depth, grad, bad if worst else 1e-4 * depth))
    return log


def residual(block, share, cosine=0.5, step=1, dx_norm=3.0):
    return ResidualRecord(
        step, f"block{block}", 2.0, 2.0, 1.0, cosine, dx_norm, share, 1.0, 1.0, 1.0
    )


def residual_log(blocks, layers=0, shares=None, steps=2):
    log = parameter_log(layers, steps)
    shares = shares or [(i + 0.5) / blocks for i in range(blocks)]
    for step in range(1, steps + 1):
        for i, share in enumerate(shares):
            log.add(residual(i, share, 0.5 if step == 1 else 0.0, step))
    return log


@functools.cache
def recorded(scale=1.0):
    """Three steps of a small residual network; small weights make its layers differ in size."""
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0, norm="batch" if scale == 1 else None)
    for parameter in model.parameters()[4:8]:
        parameter.value = parameter.value * np.float32(scale)
    optimizer, loss = SGD(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    with FlowRecorder(model, histograms=True) as flow:
        for _ in range(3):
            train_step(model, loss, optimizer, x, np.arange(8))
    return flow


def paths(blocks):
    """One number each length: the part of length k is 2^-k."""
    parts = 0.5 ** np.arange(blocks + 1.0)[:, None]
    return PathGradients(parts, parts.sum(axis=0), path_counts(blocks))


def lesion_studies():
    """A plain network of which the second block cannot be dropped, and its residual twin."""
    plain = [Lesion("", 0.1, 0.9), Lesion("block0", 2.0, 0.1), Lesion("block2", 2.0, 0.2)]
    accuracies = ("block0.sum", 0.8), ("block1.sum", 0.85), ("block2.sum", 0.88)
    residual = [Lesion("", 0.1, 0.95), *(Lesion(path, 0.3, value) for path, value in accuracies)]
    return {"plain-20": plain, "residual-20": residual}


def multi_lesion_studies():
    found = ((0, 0, 0.9), (1, 0, 0.5), (1, 1, 0.8), (1, 2, 0.6))
    return {"residual-20": [MultiLesion(n, repeat, 1.0, a) for n, repeat, a in found]}


def shuffle_studies():
    found = ((0, 0, 0.9), (2, 0, 0.5), (2, 1, 0.7))
    return {"residual-20": [Shuffle(n, repeat, 1.0, 1.0, a) for n, repeat, a in found]}


def surface(steep=3.0, points=9):
    """exp of a bowl that is steeper along alpha."""
    grid = np.linspace(-1, 1, points)
    loss = 0.1 * np.exp(steep * grid[:, None] ** 2 + grid**2)
    return LossSurface(grid, grid.copy(), loss, ("weight",))


def relu(step, path, dead):
    return LayerRecord(step, path, "ReLU", *[0.0] * 12, dead=dead)


def diverged_log():
    """The second of two steps is all NaN, behind an update of 8e30."""
    log = FlowLog()
    for step, share in ((1, 0.5), (2, math.nan)):
        norm = 3.0 if step == 1 else math.nan
        for depth in range(1, 9):
            log.add(parameter(step, depth, norm, 8e30 if step == 1 else math.nan))
        for block in range(3):
            log.add(residual(block, share, share, step, norm))
    return log


def curve(value=0.5, n=4):
    return np.arange(n), np.full(n, value), None


def measured(*epochs):
    """A History of (loss, accuracy, test loss, test accuracy)."""
    return History([Epoch(i, 10 * i, *four, 0.1, 1.0) for i, four in enumerate(epochs, 1)])


def confusion(classes, mistakes=1):
    """Ten right in every class, and mistakes in the cells beside the diagonal."""
    return 10 * np.eye(classes, dtype=int) + mistakes * np.eye(classes, k=1, dtype=int)


def class_names(classes):
    return [f"class_{k}" for k in range(classes)]


def save(ax):
    ax.figure.savefig("/dev/null", format="png")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    """x and y of a line, by its label."""
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def heights(container):
    return [patch.get_height() for patch in container]


def colors(ax):
    """The numbers of a map, masked where there is a gap."""
    return ax.collections[0].get_array()


# ---- what all plots promise

ONE_OF_EACH = {
    "gradient_norms": (plots.gradient_norms, norm_series),
    "training_curves": (plots.training_curves, histories),
    "gradient_heatmap": (plots.gradient_heatmap, lambda: parameter_log(5)),
    "ledger": (plots.ledger, lambda: residual_log(3)),
    "ledger_norms": (plots.ledger_norms, lambda: residual_log(3)),
    "path_spectrum": (plots.path_spectrum, lambda: paths(3)),
    "autocorrelation": (plots.autocorrelation, lambda: {"plain-8": curve()}),
    "variance_growth": (plots.variance_growth, lambda: {"plain-8": curve()[:2]}),
    "update_ratios": (plots.update_ratios, lambda: parameter_log(5)),
    "dead_units": (plots.dead_units, lambda: FlowLog([relu(1, "relu", 0.5)])),
    "histograms": (plots.histograms, recorded),
    "lesions": (plots.lesions, lesion_studies),
    "multi_lesions": (plots.multi_lesions, multi_lesion_studies),
    "shuffles": (plots.shuffles, shuffle_studies),
    "loss_surface": (plots.loss_surface, surface),
    "confusion_matrix": (
        functools.partial(plots.confusion_matrix, class_names=["a", "b"]),
        lambda: confusion(2),
    ),
}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_axes_that_are_given_are_used_and_returned(name):
    plot, sample = ONE_OF_EACH[name]
    ax = Figure().add_subplot()
    assert plot(sample(), ax=ax) is ax
    assert ax.has_data()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_plot_makes_axes_of_its_own_with_title_and_labels(name):
    plot, sample = ONE_OF_EACH[name]
    ax = plot(sample())
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.figure.get_layout_engine() is not None
    save(ax)


NOTHING = {
    "gradient_norms": (plots.gradient_norms, {}, "list of GradientNorm"),
    "gradient_norms of one": (plots.gradient_norms, {"a": []}, "list of GradientNorm for 'a'"),
    "gradient_norm_figure": (plots.gradient_norm_figure, {}, "title|label"),
    "training_curves": (plots.training_curves, {}, "History"),
    "training_figure": (plots.training_figure, {"a": History()}, "History for 'a'"),
    "gradient_heatmap": (plots.gradient_heatmap, FlowLog(), r"grad_norm .*got FlowLog\(0 steps"),
    "ledger": (plots.ledger, FlowLog(), r"residual blocks, got FlowLog\(0 steps"),
    "ledger of a list": (plots.ledger, [], r"residual blocks, got \[\]"),
    "ledger_norms": (plots.ledger_norms, [], "residual blocks"),
    "path_spectrum": (plots.path_spectrum, PathGradients(np.ones((0, 1)), np.ones(1), []), "paths"),
    "autocorrelation": (plots.autocorrelation, {}, "lags, mean"),
    "autocorrelation of one": (plots.autocorrelation, {"a": curve(n=0)}, "points for 'a'"),
    "variance_growth": (plots.variance_growth, {}, "blocks, variance"),
    "update_ratios": (plots.update_ratios, FlowLog(), "records of weights"),
    "dead_units": (plots.dead_units, parameter_log(2), "ReLUs"),
    "histograms": (plots.histograms, parameter_log(2), "histograms of 'y'"),
    "lesions": (plots.lesions, {}, "Lesion"),
    "multi_lesions": (plots.multi_lesions, {"a": []}, "MultiLesion"),
    "shuffles": (plots.shuffles, {}, "Shuffle"),
    "loss_surface": (plots.loss_surface, surface(points=0), "points"),
    "loss_surface_figure": (plots.loss_surface_figure, {}, "LossSurface"),
    "flow_figure": (plots.flow_figure, {}, "FlowLog"),
    "run_figure": (functools.partial(plots.run_figure, "run"), History(), "History for 'run'"),
    "flow_figure of one": (plots.flow_figure, {"a": FlowLog([relu(1, "r", 0.0)])}, "weights or"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_draw_is_refused_with_what_was_expected(name):
    plot, nothing, message = NOTHING[name]
    with pytest.raises(ValueError, match=message) as error:
        plot(nothing)
    assert " expects " in str(error.value)
    assert "got" in str(error.value)


def test_a_list_where_labels_are_expected_is_refused():
    with pytest.raises(TypeError, match=r"\{label: list of GradientNorm\}, got list"):
        plots.gradient_norms(series(1, 2))


def test_the_colours_of_maps_rise_in_lightness_so_that_grey_prints_keep_their_order():
    red, green, blue, _ = colormaps[COLORMAP](np.linspace(0, 1, 64)).T
    assert (np.diff(0.299 * red + 0.587 * green + 0.114 * blue) > 0).all()


NAMES = "_run", "a$\\frac$", "a$b$_^{", "$", "%_#&~"


@pytest.mark.parametrize("name", NAMES)
def test_names_with_an_underscore_or_dollars_are_in_the_legend_as_they_are(name):
    drawn = [
        plots.gradient_norms({name: series(1, 2)}),
        plots.training_curves({name: history(2.0, 1.0)}),
        plots.autocorrelation({name: curve()}),
        plots.lesions({name: lesion_studies()["residual-20"]}),
        plots.multi_lesions({name: multi_lesion_studies()["residual-20"]}),
        plots.update_ratios(FlowLog([ParameterRecord(1, name, "weight", 1, *[1.0] * 4)])),
        plots.dead_units(FlowLog([relu(1, name, 0.5)])),
    ]
    for ax in drawn:
        save(ax)
        shown = ax.get_legend().get_texts()[0]
        text, formula = shown._preprocess_math(shown.get_text())
        assert not formula
        assert text.strip().startswith(name)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_titles_and_beside_rows_are_no_formulas(name):
    logs = {name: residual_log(3, layers=4), "other": parameter_log(2)}
    figure = plots.flow_figure(logs)
    figure.savefig("/dev/null", format="png")
    assert sum(plots.style.plain(name) in title for title in titles(figure)) == 3
    (legend, *_) = [legend for part in figure.subfigs for legend in part.legends]
    assert len(legend.get_texts()) == 2
    save(plots.loss_surface(surface(), title=name))
    plots.loss_surface_figure({name: surface()}).savefig("/dev/null", format="png")
    plots.gradient_norm_figure({name: {"a": series(1)}}).savefig("/dev/null", format="png")
    ax = plots.histograms(FlowLog([HistogramRecord(1, name, "y", 0.0, 1.0, (1, 1))]))
    save(ax)
    assert ax.get_yticklabels()[0].get_text() == plots.style.plain(name)


# ---- styles of labels


@pytest.mark.parametrize(
    ("label", "kind", "depth"),
    [
        ("plain20", "plain", 20),
        ("plain-56", "plain", 56),
        ("resnet20", "residual", 20),
        ("residual-56 without norm", "residual", 56),
        ("preact_resnet110 end", "preactivation", 110),
        ("preactivation-20", "preactivation", 20),
        ("plain, depth 24", "plain", 24),
        ("residual", "residual", None),
        ("mlp 3", None, None),
    ],
)
def test_labels_of_all_models_tell_kind_and_depth(label, kind, depth):
    assert kind_of(label) == kind
    assert depth_of(label) == depth


def test_kinds_differ_in_line_and_marker_not_only_in_colour():
    styles = [plots.style_of(label) for label in ("plain56", "resnet56", "preact_resnet56")]
    assert len({style["linestyle"] for style in styles}) == 3
    assert len({style["marker"] for style in styles}) == 3


def test_depths_of_one_kind_differ_in_width_and_filling():
    styles = plots.styles_of(["resnet20", "resnet32", "resnet44", "resnet56"]).values()
    widths = [style["linewidth"] for style in styles]
    fills = [sum(style["markerfacecolor"]) for style in styles]
    assert widths == sorted(set(widths))
    assert fills == sorted(set(fills), reverse=True)
    assert fills[0] == 3  # white


def test_start_and_end_differ_in_the_marker():
    for start, end in (("plain20 start", "plain20 end"), ("resnet20 initial", "resnet20 trained")):
        assert plots.style_of(start)["marker"] != plots.style_of(end)["marker"]


def test_without_norm_the_line_is_dotted():
    assert plots.style_of("plain-56 without norm")["linestyle"] == ":"


def test_no_two_series_of_a_plot_look_alike():
    known = ["residual-56, scale 1", "residual-56, scale 0.1", "plain-8 start", "plain-8"]
    unknown = [f"net {letter}" for letter in "abcdefghijklmnop"]
    for labels in (known + unknown, unknown + known):
        styles = plots.styles_of(labels).values()
        looks = {(style.get("linestyle", "-"), style["marker"]) for style in styles}
        assert len(looks) == len(labels)


# ---- gradient norms and training curves


def test_gradient_norms_are_drawn_on_a_log_scale_with_a_legend():
    ax = plots.gradient_norms({"plain-8": series(1, 10), "residual-8": series(2, 3)})
    assert ax.get_yscale() == "log"
    assert legend(ax) == ["plain-8", "residual-8"]
    assert line(ax, "plain-8") == ([1, 2], [1, 10])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_norm_that_cannot_stand_on_a_log_scale_leaves_a_gap(value):
    ax = plots.gradient_norms({"a": series(1, value, 3)})
    assert math.isnan(ax.lines[0].get_ydata()[1])
    save(ax)


def test_norms_of_which_none_can_be_drawn_leave_empty_axes():
    save(plots.gradient_norms({"a": series(0.0, math.nan)}))


def test_a_column_that_was_not_measured_leaves_a_gap():
    ax = plots.training_curves({"a": history(1.0, 0.5)}, column="test_accuracy")
    assert all(math.isnan(v) for v in ax.lines[0].get_ydata())
    assert ax.get_yscale() == "linear"


def test_figures_have_their_panels():
    figure = plots.gradient_norm_figure({"start": {"a": series(1, 2)}, "end": {"b": series(3, 4)}})
    assert [ax.get_title() for ax in figure.axes] == ["start", "end"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    figure = plots.training_figure({"a": history(2.0, 1.0)})
    assert [ax.get_title() for ax in figure.axes] == ["Training loss", "Test accuracy"]


# ---- maps


def test_a_heat_map_has_a_row_a_layer_and_a_column_a_step_on_a_log_scale():
    ax = plots.gradient_heatmap(parameter_log(3, steps=2))
    assert colors(ax).tolist() == [[11, 12], [21, 22], [31, 32]]
    assert isinstance(ax.collections[0].norm, LogNorm)
    assert ax.get_ylim() == (0.5, 3.5)  # layer 1 at the bottom
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "||dL/dw||"


def test_a_heat_map_of_updates_and_of_upstream_gradients():
    ax = plots.gradient_heatmap(parameter_log(3, steps=2), what="update_ratio")
    np.testing.assert_allclose(colors(ax)[:, 0], [1e-4, 2e-4, 3e-4])
    flow = recorded()
    ax = plots.gradient_heatmap(flow, what="dy_norm")
    first = next(record for record in flow.layers if record.path == "conv")
    assert colors(ax).shape == (8, 3)
    assert colors(ax)[0, 0] == first.dy_norm


def test_the_ticks_below_a_map_are_recorded_steps():
    for steps in ([1, 4, 7], [1], [1, 2, 3, 1000], range(1, 97, 5), range(1, 40_000, 200)):
        log = FlowLog([parameter(step, depth, 1.0) for step in steps for depth in (1, 2)])
        ticks = plots.gradient_heatmap(log).get_xticks()
        assert set(ticks) <= set(steps)
        assert 1 <= len(ticks) <= 7
    assert some_steps([1, 4, 7]) == [1, 4, 7]


def test_a_model_that_is_one_layer_is_drawn():
    model = Dense(6, 3, rng=0)
    optimizer, loss = SGD(model.parameters(), 1e-3), SoftmaxCrossEntropy()
    with FlowRecorder(model, histograms=True) as flow:
        for _ in range(2):
            train_step(model, loss, optimizer, np.ones((3, 6), np.float32), np.arange(3))
    flow.parameters = [
        dataclasses.replace(record, depth=1) if record.path == "weight" else record
        for record in flow.parameters
    ]
    assert legend(plots.update_ratios(flow))[0] == "weight"
    for what in ("grad_norm", "update_ratio", "dy_norm"):
        assert colors(plots.gradient_heatmap(flow, what=what)).shape == (1, 2)
    assert plots.histograms(flow).get_yticklabels()[0].get_text() == "the model"
    assert legend(plots.dead_units(FlowLog([relu(1, "", 0.5)]))) == ["the model"]
    plots.flow_figure({"dense": flow}).savefig("/dev/null", format="png")


def test_two_weights_of_one_layer_have_rows_of_their_own():
    records = [
        ParameterRecord(1, f"mix.{q}", "weight", i, 1, i, 1, 1) for i, q in ((1, "q"), (2, "k"))
    ]
    assert colors(plots.gradient_heatmap(FlowLog(records))).tolist() == [[1], [2]]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_cell_without_a_logarithm_is_left_out_and_the_axis_says_so(bad):
    ax = plots.gradient_heatmap(parameter_log(4, bad=bad))
    assert np.ma.getmaskarray(colors(ax)).sum() == 1
    assert "hatched" in ax.get_xlabel()
    assert ax.patch.get_hatch()
    save(ax)


def test_a_map_of_gaps_only_is_drawn():
    save(plots.gradient_heatmap(FlowLog([parameter(1, 1, math.nan)])))


def test_an_unknown_quantity_is_refused():
    with pytest.raises(ValueError, match="'grad_norm', 'update_ratio', 'dy_norm', got 'loss'"):
        plots.gradient_heatmap(parameter_log(2), what="loss")


def test_tables_have_a_gap_where_a_record_is_missing():
    log = FlowLog([parameter(1, 1, 5.0), parameter(3, 1, 6.0), parameter(3, 2, 7.0)])
    keys, steps, table = by_step(log.parameters, lambda record: record.grad_norm)
    assert len(keys) == 2
    assert steps == [1, 3]
    np.testing.assert_equal(table, [[5, 6], [math.nan, 7]])


def test_edges_lie_between_centres():
    assert edges([1, 3, 7]).tolist() == [0, 2, 5, 9]
    assert edges([4]).tolist() == [3.5, 4.5]


# ---- the ledger


def test_the_shares_of_a_block_are_stacked_to_one():
    ax = plots.ledger([residual(0, 0.25), residual(1, 0.75)])
    shortcut, branch = ax.containers
    assert heights(shortcut) == [0.25, 0.75]
    assert heights(branch) == [0.75, 0.25]
    assert [patch.get_y() for patch in branch] == [0.25, 0.75]
    assert [patch.get_x() + patch.get_width() / 2 for patch in branch] == [1, 2]


def test_shortcut_and_branch_differ_in_their_hatching():
    shortcut, branch = plots.ledger(residual_log(2)).containers
    assert shortcut[0].get_hatch() is None
    assert branch[0].get_hatch()


def test_a_negative_share_hangs_below_zero():
    ax = plots.ledger([residual(0, 1.25), residual(1, -0.5)])
    shortcut, branch = ax.containers
    assert [(p.get_y(), p.get_height()) for p in shortcut] == [(0, 1.25), (0, -0.5)]
    assert [(p.get_y(), p.get_height()) for p in branch] == [(0, -0.25), (0, 1.5)]
    assert ax.get_ylim() == (-0.5, 1.5)


def test_a_share_far_outside_does_not_flatten_the_others():
    assert plots.ledger([residual(0, 50.0), residual(1, 0.5)]).get_ylim() == (-1, 2)


def test_the_angle_of_orthogonal_parts_stands_beside_the_share_of_one_half():
    ax = plots.ledger([residual(0, 0.5, 0.0), residual(1, 1.2, -1.0)])
    twin = ax.figure.axes[1]
    np.testing.assert_allclose(twin.lines[0].get_ydata(), [90, 180])
    np.testing.assert_allclose(twin.get_ylim(), 180 * np.array(ax.get_ylim()))
    assert legend(ax) == ["share of the shortcut", "share of the branch", "angle between them"]


def test_the_ledger_of_a_log_is_that_of_the_step_or_of_the_last_one():
    log = residual_log(2)
    angle = {1: 60, 2: 90}
    for step in (1, 2, None):
        twin = plots.ledger(log, step=step).figure.axes[1]
        np.testing.assert_allclose(twin.lines[0].get_ydata(), angle[step or 2])
    assert "step 2" in plots.ledger(log).get_title()
    with pytest.raises(ValueError, match=r"ledger expects a recorded step \(1, 2\), got 3"):
        plots.ledger(log, step=3)


def test_the_ledger_of_a_run_that_broke_down_is_that_of_the_last_finite_step():
    for plot in (plots.ledger, plots.ledger_norms):
        assert plot(diverged_log()).get_title().endswith("step 1")
        assert plot(diverged_log(), step=2).get_title().endswith("step 2")


def test_the_pair_of_records_and_arrays_is_refused_with_what_to_pass():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    pair = residual_ledger(model, np.ones((4, 8, 8, 1), "f"), np.arange(4), keep_arrays=True)
    for plot in (plots.ledger, plots.ledger_norms):
        with pytest.raises(TypeError, match=r"got a tuple.*keep_arrays=True.*pass the first"):
            plot(pair)
        with pytest.raises(TypeError, match="expects ResidualRecords, got a ParameterRecord"):
            plot(parameter_log(2).parameters)
        save(plot(tuple(pair[0])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_block_without_gradient_leaves_a_gap(value):
    ax = plots.ledger([residual(0, value, value), residual(1, 0.5)])
    assert math.isnan(heights(ax.containers[0])[0])
    save(ax)
    save(plots.ledger([residual(0, value, value)]))


def test_the_ledger_draws_what_residual_ledger_returns():
    model = cifar_resnet(8, input_shape=(8, 8, 1), rng=0)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    records = residual_ledger(model, x, np.arange(4))
    ax = plots.ledger(records)
    assert heights(ax.containers[0]) == [record.shortcut_share for record in records]
    assert "step" not in ax.get_title()


def test_ledger_norms_are_four_lines_on_a_log_scale_with_gaps():
    ax = plots.ledger_norms([residual(0, 0.5), residual(1, 0.5, dx_norm=0.0)])
    assert ax.get_yscale() == "log"
    np.testing.assert_equal(line(ax, "dx, goes out")[1], [3, math.nan])
    assert line(ax, "branch part") == ([1, 2], [1, 1])
    assert len({one.get_linestyle() for one in ax.lines[1:]}) == 3
    save(ax)


# ---- path lengths


def test_the_spectrum_shows_the_gradient_beside_the_paths():
    ax = plots.path_spectrum(paths(2))
    np.testing.assert_allclose(heights(ax.containers[0]), np.array([4, 2, 1]) / 7)
    np.testing.assert_allclose(line(ax, "gradient, along the total")[1], np.array([4, 2, 1]) / 7)
    assert line(ax, "paths") == ([0, 1, 2], [0.25, 0.5, 0.25])
    assert len(legend(ax)) == 3


def test_parts_that_cancel_have_a_negative_share():
    gradients = PathGradients(np.array([[3.0], [-1.0]]), np.array([2.0]), [1, 1])
    ax = plots.path_spectrum(gradients)
    assert line(ax, "gradient, along the total")[1] == [1.5, -0.5]
    assert ax.get_ylim()[0] < -0.5
    assert ax.get_ylim()[1] > 1.5
    assert heights(ax.containers[0]) == [0.75, 0.25]


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_gradient_of_zero_or_nan_has_no_shares(value):
    gradients = PathGradients(np.full((2, 1), value), np.full(1, value), [1, 1])
    ax = plots.path_spectrum(gradients)
    assert np.isnan(heights(ax.containers[0])).all()
    save(ax)


# ---- curves of experiments


def test_the_autocorrelation_has_error_bars_where_they_are_known():
    lags, mean = np.arange(3), np.array([1, 0.5, math.nan])
    curves = {"plain-24": (lags, mean, np.full(3, 0.1)), "residual-50": (lags, mean, None)}
    ax = plots.autocorrelation(curves)
    assert legend(ax) == ["plain-24", "residual-50"]
    with_bars, without = ax.containers
    assert with_bars.has_yerr
    assert not without.has_yerr
    bars = with_bars.lines[2][0].get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [0.4, 0.6])
    low, high = ax.get_ylim()
    assert low == -0.2
    assert 1 <= high < 1.1
    save(ax)


def test_growth_by_doubling_is_a_straight_line_on_a_scale_of_base_two():
    blocks, doubled = np.arange(4), 2.0 ** np.arange(4)
    ax = plots.variance_growth({"residual without norm": (blocks, doubled, doubled / 2, doubled)})
    places = ax.transData.transform(np.c_[blocks, doubled])[:, 1]
    np.testing.assert_allclose(np.diff(places, 2), 0, atol=1e-9)
    assert ax.yaxis.get_transform().base == 2
    segments = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segments[2][:, 1], [2, 4])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_variance_without_a_logarithm_leaves_a_gap(value):
    ax = plots.variance_growth({"a": (np.arange(3), np.array([1, value, 2]))})
    assert math.isnan(ax.containers[0].lines[0].get_ydata()[1])
    save(ax)


# ---- updates


def test_few_layers_get_a_line_each_in_the_order_of_depth_and_the_guide():
    ax = plots.update_ratios(parameter_log(3))
    names = [f"stage1.block{i}.conv" for i in (1, 2, 3)]
    assert legend(ax) == [*names, "guide: 1e-3"]
    np.testing.assert_allclose(line(ax, names[2])[1], 3e-4)
    assert ax.lines[-1].get_ydata()[0] == 1e-3
    assert ax.get_yscale() == "log"
    assert len({(one.get_linestyle(), one.get_marker()) for one in ax.lines[:3]}) == 3


def test_of_many_layers_the_middle_and_the_ends_are_drawn():
    ax = plots.update_ratios(parameter_log(21))
    np.testing.assert_allclose(line(ax, "median of 21 layers")[1], 11e-4)
    np.testing.assert_allclose(line(ax, "first: stage1.block1.conv")[1], 1e-4)
    np.testing.assert_allclose(line(ax, "last: stage1.block21.conv")[1], 21e-4)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [6e-4, 16e-4])


@pytest.mark.parametrize("ratio", [8e30, 1e-30, 1e-3, math.nan, 1e300, 5e-324])
def test_the_guide_is_in_the_view_however_far_off_the_updates_are(ratio):
    log = FlowLog([parameter(step, 1, 1.0, ratio) for step in (1, 2)])
    figure = plots.flow_figure({"plain-8": log})
    figure.savefig("/dev/null", format="png")
    for ax in (plots.update_ratios(log), figure.subfigs[0].axes[-1]):
        low, high = ax.get_ylim()
        assert low < 1e-3 < high
        if 1e-100 < ratio < 1e100:
            assert low < ratio < high


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("layers", [4, 21])
def test_an_update_that_is_not_positive_and_finite_leaves_a_gap(layers, bad):
    save(plots.update_ratios(parameter_log(layers, bad=bad)))
    save(plots.update_ratios(FlowLog([parameter(1, i, 1.0, bad) for i in range(1, layers + 1)])))


def test_chosen_parameters_are_drawn_and_unknown_ones_refused():
    flow = recorded()
    ax = plots.update_ratios(flow, paths=["norm.gamma", "fc.bias"])
    assert legend(ax)[:2] == ["norm.gamma", "fc.bias"]
    with pytest.raises(ValueError, match=r"paths out of \['conv.weight', .*got 'head'"):
        plots.update_ratios(flow, paths=["head"])


# ---- activations


def test_dead_units_are_percent_of_each_relu():
    records = [relu(step, path, 0.25 * step) for step in (1, 2) for path in ("relu", "b.sum.relu")]
    ax = plots.dead_units(FlowLog(records))
    assert legend(ax) == ["relu", "b.relu"]
    assert line(ax, "relu") == ([1, 2], [25, 50])


def test_two_relus_of_one_block_have_names_of_their_own():
    flow = FlowLog([relu(1, "block0.sum.branch.relu", 0.0), relu(1, "block0.relu", 0.0)])
    assert legend(plots.dead_units(flow)) == ["block0.branch.relu", "block0.relu"]


def test_dead_units_of_many_relus_are_a_map_with_an_honest_zero():
    ax = plots.dead_units(FlowLog([relu(1, f"relu{i}", i / 100) for i in range(20)]))
    np.testing.assert_allclose(colors(ax)[:, 0], np.arange(20))
    assert ax.collections[0].norm.vmin == 0
    save(ax)


def test_histograms_are_nested_bars_of_the_layers_with_weights():
    flow = recorded()
    ax = plots.histograms(flow, step=1)
    assert legend(ax) == ["all", "middle 98 %", "middle 80 %", "middle half"]
    every, *_, half = ax.containers
    record = next(r for r in flow.histograms if (r.path, r.array, r.step) == ("conv", "y", 1))
    assert every[0].get_x() == record.low
    np.testing.assert_allclose(every[0].get_width(), record.high - record.low)
    assert 0 < half[0].get_width() < every[0].get_width()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert (names[0], names[1], names[-1]) == ("conv", "stage1.block0.conv1", "fc")


def test_layers_of_very_different_size_get_a_logarithmic_axis():
    records = [HistogramRecord(1, str(i), "y", -(10.0**-i), 10.0**-i, (1, 1)) for i in range(6)]
    ax = plots.histograms(FlowLog(records))
    assert ax.get_xscale() == "symlog"
    assert "log scale" in ax.get_xlabel()
    save(ax)
    assert plots.histograms(FlowLog(records[:2])).get_xscale() == "linear"


def test_layers_without_numbers_or_with_one_number_are_survived():
    nothing = HistogramRecord(1, "a", "y", math.nan, math.nan, ())
    zeros = HistogramRecord(1, "b", "y", 0.0, 0.0, (5,))
    save(plots.histograms(FlowLog([nothing, zeros])))
    with pytest.raises(ValueError, match="layers with finite numbers"):
        plots.histograms(FlowLog([nothing]))


def test_percentiles_are_those_of_numbers_spread_evenly_inside_bins():
    numbers = np.random.default_rng(0).normal(size=10_000)
    counts, _ = np.histogram(numbers, 400)
    record = HistogramRecord(1, "a", "y", numbers.min(), numbers.max(), tuple(counts.tolist()))
    for percent in (0, 1, 25, 50, 99, 100):
        found, expected = percentile(record, percent), np.percentile(numbers, percent)
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_histograms_of_a_run_that_broke_down_are_those_of_the_last_finite_step():
    records = [
        HistogramRecord(1, "a", "y", 0.0, 1.0, (1, 1)),
        HistogramRecord(2, "a", "y", math.nan, math.nan, ()),
    ]
    assert plots.histograms(FlowLog(records)).get_title().endswith("step 1")


def test_the_arrays_steps_and_paths_of_histograms_are_checked():
    flow = recorded()
    with pytest.raises(ValueError, match="array to be one of 'y', 'dy', 'dx', got 'z'"):
        plots.histograms(flow, array="z")
    with pytest.raises(ValueError, match="step to be one of 1, 2, 3, got 9"):
        plots.histograms(flow, step=9)
    with pytest.raises(ValueError, match="got 'nowhere'"):
        plots.histograms(flow, paths=["nowhere"])


# ---- lesions


def test_a_lesion_study_is_the_error_without_each_block_and_the_error_of_the_whole():
    ax = plots.lesions(lesion_studies())
    np.testing.assert_allclose(line(ax, "residual-20")[1], [20, 15, 12])
    np.testing.assert_allclose(line(ax, "residual-20, intact")[1], 5)
    assert line(ax, "residual-20")[0] == [1, 2, 3]


def test_the_block_that_a_plain_network_cannot_lose_leaves_a_gap_beside_its_residual_twin():
    studies = lesion_studies()
    np.testing.assert_allclose(line(plots.lesions(studies), "plain-20")[1], [90, math.nan, 80])
    ax = plots.lesions({"plain-20": studies["plain-20"]})
    np.testing.assert_allclose(line(ax, "plain-20")[1], [90, 80])


def test_several_lesions_show_median_and_range():
    ax = plots.multi_lesions(multi_lesion_studies())
    (bars,) = ax.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[0, 10], [1, 40]])
    np.testing.assert_allclose(bars.lines[2][0].get_segments()[1][:, 1], [20, 50])


def test_shuffles_stand_at_their_number_of_swaps():
    ax = plots.shuffles(shuffle_studies())
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xydata(), [[0, 10], [2, 40]])


def test_an_accuracy_that_is_nan_leaves_a_gap():
    save(plots.lesions({"a": [Lesion("", 1.0, 0.9), Lesion("b", math.nan, math.nan)]}))
    save(plots.multi_lesions({"a": [MultiLesion(1, 0, math.nan, math.nan)]}))


def test_a_lesion_study_without_a_lesion_is_refused():
    with pytest.raises(ValueError, match=r"lesions expects blocks .* got only the model as it is"):
        plots.lesions({"a": [Lesion("", 1.0, 0.9)]})


# ---- loss surfaces


def test_alpha_is_the_x_axis_of_a_loss_surface():
    alphas, betas = np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)
    loss = np.tile(np.exp(3 * alphas)[:, None], (1, 5))  # rises along alpha only
    ax = plots.loss_surface(LossSurface(alphas, betas, loss, ()))
    _, lines = ax.collections
    (segment,) = lines.allsegs[5]
    assert np.ptp(segment[:, 0]) < 1e-9
    assert np.ptp(segment[:, 1]) == 2
    assert "alpha" in ax.get_xlabel()


def test_a_loss_surface_has_log_levels_a_marked_centre_and_equal_axes():
    ax = plots.loss_surface(surface())
    filled = ax.collections[0]
    np.testing.assert_allclose(np.diff(np.log(filled.levels), 2), 0, atol=1e-9)
    assert ax.lines[0].get_xydata().tolist() == [[0, 0]]
    assert legend(ax) == ["the model itself"]
    assert ax.get_aspect() == 1
    assert ax.texts  # numbers on the contours


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_loss_that_is_not_positive_and_finite_is_a_hole(value):
    found = surface()
    found.loss[0, :3] = value
    save(plots.loss_surface(found))
    found.loss[...] = value
    save(plots.loss_surface(found))


def test_a_flat_surface_is_drawn():
    found = surface()
    found.loss[...] = 2.0
    save(plots.loss_surface(found))


def test_surfaces_side_by_side_share_their_levels():
    figure = plots.loss_surface_figure({"plain": surface(steep=5), "residual": surface(steep=1)})
    left, right = figure.axes[:2]
    assert [left.get_title(), right.get_title()] == ["plain", "residual"]
    assert left.collections[0].levels.tolist() == right.collections[0].levels.tolist()


# ---- the overview


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_the_overview_has_norms_updates_a_map_of_each_model_and_the_largest_ledger():
    logs = {
        "plain-8": parameter_log(8),
        "residual-8": residual_log(3, 8),
        "residual-20": recorded(),
    }
    logs["residual-56"] = residual_log(9, 20)
    found = titles(plots.flow_figure(logs))
    assert found[:3] == [
        "Gradient norms, first recorded step (1)",
        "Gradient norms, last recorded step (2 to 4)",
        "Updates, median of the layers",
    ]
    assert found[3:7] == [f"Gradient norms, {label}" for label in logs]
    assert found[7].endswith("residual-56")


def test_the_norms_of_the_overview_stand_on_one_scale():
    figure = plots.flow_figure({"plain-8": parameter_log(8, steps=40)})
    first, last = figure.axes[:2]
    assert first.get_ylim() == last.get_ylim()
    assert first.get_ylim()[0] < 11
    assert last.get_ylim()[1] > 120


def test_the_overview_leaves_out_what_was_not_recorded():
    assert len(titles(plots.flow_figure({"plain-8": parameter_log(8)}))) == 4
    assert len(titles(plots.flow_figure({"plain-8": parameter_log(8, steps=1)}))) == 2
    assert len(titles(plots.flow_figure({"residual-8": residual_log(3)}))) == 2


def test_the_maps_of_the_overview_share_their_colours():
    figure = plots.flow_figure({"plain-8": parameter_log(8), "plain-20": parameter_log(20)})
    maps = [ax.collections[0] for ax in figure.axes if ax.get_title().endswith(("-8", "-20"))]
    assert maps[0].norm is maps[1].norm
    assert maps[0].norm.vmax == 204


def test_the_overview_of_a_run_that_broke_down_shows_its_last_finite_step():
    figure = plots.flow_figure({"residual-8": diverged_log(), "plain-8": parameter_log(8)})
    assert "Gradient norms, last finite step (1 to 4)" in titles(figure)
    last = figure.subfigs[0].axes[1]
    assert line(last, "residual-8")[1] == [3.0] * 8
    assert [title for title in titles(figure) if "step 1" in title][-2:] == [
        "Gradient at each block, step 1, residual-8",
        "Gradient norms at each block, step 1, residual-8",
    ]


def test_the_overview_of_a_long_log_takes_seconds_at_most():
    log = FlowLog()
    for step in range(1, 201):
        for i in range(1, 57):
            log.add(parameter(step, i, 1.0 + i))
            log.add(residual(i, 0.5, step=step))
            log.add(relu(step, f"relu{i}", 0.1))
    start = time.perf_counter()
    plots.flow_figure({"residual-56": log}).savefig("/dev/null", format="png")
    assert time.perf_counter() - start < 15  # about 2; quadratic in the steps, a minute


def test_the_overview_of_gradients_of_nan_is_drawn():
    log = FlowLog([parameter(step, 1, math.nan, math.nan) for step in (1, 2)])
    plots.flow_figure({"plain-8": log}).savefig("/dev/null", format="png")


# ---- the grid


def test_the_grid_has_a_cell_a_network_with_its_verdict_and_its_numbers():
    cells = [
        Cell("plain", "batch", "He", 56, 3e3, -0.001, 200.0, 0.15),
        Cell("residual", None, "small", 8, 0.0, math.nan, 0.0, 0.1),
    ]
    ax = plots.gradient_grid(Grid(cells, seeds=1, steps=60))
    texts = [text.get_text() for text in ax.texts]
    assert texts == [
        "exploding\nshattering",
        "growth 3.0e+03\nR 0.00   test 15%",
        "vanishing",
        "growth 0\nR -   test 10%",
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["plain-56", "residual-8"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["vanishing", "exploding and shattering"]


def test_a_confusion_matrix_shows_shares_of_the_true_class_and_the_diagonal_white():
    matrix = np.array([[90, 10, 0], [1, 3, 0], [0, 0, 0]])  # one class has no image
    ax = plots.confusion_matrix(matrix, ["cat", "dog", "fox"])
    (image,) = ax.images
    shares = [[np.nan, 10, 0], [25, np.nan, 0], [0, 0, np.nan]]
    np.testing.assert_allclose(image.get_array().filled(np.nan), shares)
    assert image.get_clim() == (0, 25)
    assert [text.get_text() for text in ax.texts] == [str(n) for n in matrix.ravel()]
    assert [text.get_color() for text in ax.texts[:4]] == ["black", "black", "black", "white"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog", "fox"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "dog", "fox"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("class given by the model", "true class")


@pytest.mark.parametrize("matrix", [np.zeros((2, 2), int), confusion(3, 0), [[5]]])
def test_without_a_mistake_the_scale_ends_at_one_percent(matrix):
    ax = plots.confusion_matrix(matrix, class_names(len(matrix)))
    assert ax.images[0].get_clim() == (0, 1)
    save(ax)


def test_cells_of_many_classes_have_no_numbers():
    assert len(plots.confusion_matrix(confusion(20), class_names(20)).texts) == 400
    assert len(plots.confusion_matrix(confusion(21), class_names(21)).texts) == 0


@pytest.mark.parametrize(
    ("matrix", "names", "got"),
    [
        (np.ones((2, 3)), ["a", "b"], "each of 2 class names, got (2, 3)"),
        (np.ones((2, 2)), ["a", "b", "c"], "each of 3 class names, got (2, 2)"),
        (np.ones((0, 0)), [], "each of 0 class names, got (0, 0)"),
    ],
)
def test_a_confusion_matrix_needs_a_row_a_name(matrix, names, got):
    with pytest.raises(ValueError, match="confusion_matrix expects a square matrix") as error:
        plots.confusion_matrix(matrix, names)
    assert got in str(error.value)


def test_labelled_images_are_the_pixels_that_were_given(rng):
    colour = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    figure = plots.labelled_images(colour, ["a", "b", "c"], columns=2, title="of three")
    assert figure.get_suptitle() == "of three"
    first, second, third, empty = figure.axes
    for ax, image, caption in zip((first, second, third), colour, "abc", strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title() == caption
    assert not empty.images
    assert not any(ax.axison for ax in figure.axes)


@pytest.mark.parametrize("white", [np.uint8(255), np.float32(1)])
def test_grey_images_are_as_bright_as_they_are(white):
    """A dark image is not stretched to white, as matplotlib would do."""
    dark = np.full((2, 4, 4, 1), white // 4 if white > 1 else white / 4)
    figure = plots.labelled_images(dark, ["a", "b"])
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), dark[0, ..., 0])
    assert image.get_clim() == (0, white)
    assert image.get_cmap().name == "gray"


def test_floats_outside_of_zero_to_one_are_cut_off():
    image = np.array([-0.5, 0.25, 2.0]).reshape(1, 1, 1, 3)
    drawn = plots.labelled_images(image, ["a"]).axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, [[[0, 0.25, 1]]])
    assert image.max() == 2


def test_names_and_captions_longer_than_the_room_are_cut_and_dollars_are_no_formula():
    name = "a$b$ " + 30 * "x"
    ax = plots.confusion_matrix(confusion(2), [name, "b"])
    assert ax.get_xticklabels()[0].get_text() == r"a\$b\$ " + 18 * "x" + "…"
    (ax,) = plots.labelled_images(np.zeros((1, 2, 2, 3)), [f"{name}\n$"]).axes
    assert ax.get_title() == r"a\$b\$ " + 18 * "x" + "…\n" + r"\$"


@pytest.mark.parametrize(("images", "captions"), [(0, 0), (2, 1), (1, 2)])
def test_every_image_needs_a_caption(images, captions):
    got = f"got {images} images and {captions} captions"
    with pytest.raises(ValueError, match=f"labelled_images expects a caption .* {got}"):
        plots.labelled_images(np.zeros((images, 2, 2, 3)), ["a"] * captions)


def test_the_figure_of_a_run_has_losses_on_a_log_scale_and_errors_in_percent():
    run = measured((2.0, 0.5, None, None), (1.0, 0.75, 1.5, 0.6), (0.5, 1.0, 1.2, 0.9))
    figure = plots.run_figure("my_run $1", run)
    left, right = figure.axes
    assert figure.get_suptitle() == r"my_run \$1"
    assert left.get_yscale() == "log"
    assert line(left, "training") == ([1, 2, 3], [2.0, 1.0, 0.5])
    assert line(left, "test") == ([2, 3], [1.5, 1.2])
    assert line(right, "training") == ([1, 2, 3], [50, 25, 0])
    np.testing.assert_allclose(line(right, "test"), ([2, 3], [40, 10]))
    assert right.get_ylim()[0] == 0
    assert legend(left) == legend(right) == ["training", "test"]


def test_a_run_without_tests_has_one_line_a_panel():
    for ax in plots.run_figure("run", measured((2.0, 0.5, None, None))).axes:
        assert legend(ax) == ["training"]


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_loss_of_a_run_that_cannot_stand_on_a_log_scale_leaves_a_gap(value):
    figure = plots.run_figure("run", measured((value, 0.5, value, 0.5), (1.0, 0.5, value, 0.5)))
    np.testing.assert_array_equal(line(figure.axes[0], "training")[1], [math.nan, 1.0])
    np.testing.assert_array_equal(line(figure.axes[0], "test")[1], [math.nan, math.nan])
    save(figure.axes[0])
    save(plots.run_figure("run", measured((value, 1.0, value, 1.0))).axes[0])


def test_a_grid_without_cells_is_refused():
    with pytest.raises(ValueError, match="expects a grid with cells, got one without"):
        plots.gradient_grid(Grid([], seeds=1, steps=60))
