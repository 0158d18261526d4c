"""What is written on a plot can be read: no two texts overlap, none is cut off or hides data."""

import functools
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_plots import (
    class_names,
    confusion,
    diverged_log,
    histories,
    lesion_studies,
    measured,
    multi_lesion_studies,
    norm_series,
    parameter_log,
    paths,
    recorded,
    residual_log,
    shuffle_studies,
    surface,
)

from minires import plots
from minires.experiments.grid import Cell, Grid

LONG = "resnet20 on a folder of images, fast20, label_smoothing=0.1, batch_size=1280, seed 12345678"
LAGS = np.arange(16)
AUTOCORRELATION = {
    "plain, depth 24": (LAGS, 0.0 * LAGS, np.full(16, 0.05)),
    "residual, depth 50, scale 0.1": (LAGS, 0.9**LAGS, np.full(16, 0.05)),
    "residual, depth 50, scale 1": (LAGS, 0.7**LAGS, None),
    "white noise": (LAGS, 0.0 * LAGS, None),
}
GROWTH = {
    "residual without norm": (LAGS, 2.0**LAGS, 0.8 * 2.0**LAGS, 1.2 * 2.0**LAGS),
    "residual": (LAGS, 1.0 + LAGS),
}
LOGS = {
    "plain-20": parameter_log(20),
    "residual-20": residual_log(9, layers=20),
    "plain-56": parameter_log(56),
    "residual-56": residual_log(27, layers=56),
}

GRID = Grid(
    [
        Cell(kind, norm, "He", depth, growth, 1 - abs(np.log10(growth)) / 4, 1e-3, 0.123)
        for kind, norm, growth in (
            ("plain", "batch", 3e3),
            ("plain", None, 1e-5),
            ("residual", "batch", 20.0),
            ("residual", None, 400.0),
        )
        for depth in (8, 20, 56)
    ],
    seeds=1,
    steps=60,
)

DRAWN = {
    "gradient_grid": lambda: plots.gradient_grid(GRID),
    "gradient_norms": lambda: plots.gradient_norms(norm_series()),
    "gradient_norm_figure": lambda: plots.gradient_norm_figure(
        {"at initialisation": norm_series(), "after training": norm_series()}
    ),
    "training_curves": lambda: plots.training_curves(histories()),
    "training_curves of seconds": lambda: plots.training_curves(histories(), column="seconds"),
    "training_figure": lambda: plots.training_figure(histories()),
    "gradient_heatmap, 56 layers": lambda: plots.gradient_heatmap(parameter_log(56)),
    "gradient_heatmap, one step": lambda: plots.gradient_heatmap(parameter_log(3, steps=1)),
    "gradient_heatmap of updates": lambda: plots.gradient_heatmap(
        parameter_log(8, bad=np.nan), what="update_ratio"
    ),
    "gradient_heatmap of dy": lambda: plots.gradient_heatmap(recorded(), what="dy_norm"),
    "ledger, 27 blocks": lambda: plots.ledger(residual_log(27)),
    "ledger, outside": lambda: plots.ledger(residual_log(5, shares=(7.0, -6.0, 1.2, -0.2, 0.5))),
    "ledger_norms": lambda: plots.ledger_norms(residual_log(27)),
    "path_spectrum": lambda: plots.path_spectrum(paths(27)),
    "path_spectrum, 1 block": lambda: plots.path_spectrum(paths(1)),
    "autocorrelation": lambda: plots.autocorrelation(AUTOCORRELATION),
    "variance_growth": lambda: plots.variance_growth(GROWTH),
    "update_ratios, 8 layers": lambda: plots.update_ratios(recorded()),
    "update_ratios, 56 layers": lambda: plots.update_ratios(parameter_log(56)),
    "dead_units": lambda: plots.dead_units(recorded()),
    "histograms of y": lambda: plots.histograms(recorded()),
    "histograms of dy": lambda: plots.histograms(recorded(), array="dy"),
    "histograms, wide": lambda: plots.histograms(recorded(scale=1e-6)),
    "lesions": lambda: plots.lesions(lesion_studies()),
    "multi_lesions": lambda: plots.multi_lesions(multi_lesion_studies()),
    "shuffles": lambda: plots.shuffles(shuffle_studies()),
    "loss_surface": lambda: plots.loss_surface(surface()),
    "loss_surface_figure": lambda: plots.loss_surface_figure(
        {"plain-56": surface(steep=20), "residual-56": surface()}
    ),
    **{
        f"confusion_matrix, {K} classes": lambda K=K: plots.confusion_matrix(
            confusion(K), class_names(K), title=LONG
        )
        for K in (1, 2, 3, 10, 20, 100)
    },
    "confusion_matrix, no mistake": lambda: plots.confusion_matrix(confusion(3, 0), ["a"] * 3),
    "confusion_matrix, long names": lambda: plots.confusion_matrix(confusion(20), [LONG] * 20),
    "confusion_matrix, long names, 2 classes": lambda: plots.confusion_matrix(
        confusion(2), [LONG, "b"]
    ),
    "run_figure": lambda: plots.run_figure(
        LONG, measured(*((2 / i, 0.5, 1 / i if i % 4 else None, 0.4) for i in range(1, 29)))
    ),
    "run_figure, 1 epoch": lambda: plots.run_figure("run", measured((2.0, 0.1, None, None))),
    "run_figure, broken": lambda: plots.run_figure("run", measured((0.0, 1.0, np.nan, 0.1))),
    "flow_figure, 4 models": lambda: plots.flow_figure(LOGS),
    "flow_figure, 5 models": lambda: plots.flow_figure(LOGS | {"residual-8": recorded()}),
    "flow_figure, broken down": lambda: plots.flow_figure({"residual-8": diverged_log()}),
    "flow_figure, broken down among others": lambda: plots.flow_figure(
        LOGS | {"residual-8": diverged_log()}
    ),
    "flow_figure, many steps": lambda: plots.flow_figure(
        {f"plain-{i}": parameter_log(3, steps=1010) for i in (8, 14, 20, 26)}
    ),
    "flow_figure, names": lambda: plots.flow_figure(
        {"_run": residual_log(3, layers=4), "a$\\frac$": parameter_log(4)}
    ),
    "flow_figure, 1 step": lambda: plots.flow_figure({"plain-20": parameter_log(20, steps=1)}),
}


@functools.cache
def drawn(name):
    """The figure of a plot, after drawing."""
    found = DRAWN[name]()
    figure = found if isinstance(found, Figure) else found.figure
    FigureCanvasAgg(figure).draw()
    return figure


def boxes(figure):
    """[(text, box in pixels)] of all that is written, but not inside of legends."""
    texts = list(figure.texts)
    for part in figure.subfigs:
        texts += part.texts
    texts += [t for f in (figure, *figure.subfigs) if (t := f._suptitle) is not None]
    for ax in figure.axes:
        if ax.axison:
            texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
            for axis in (ax.xaxis, ax.yaxis):
                texts += [*tick_labels(axis), axis.get_offset_text()]
    seen = {id(t): t for t in texts if t.get_visible() and t.get_text()}.values()
    return [(t.get_text(), t.get_window_extent()) for t in seen]


def tick_labels(axis):
    """Those inside the limits; matplotlib keeps more."""
    low, high = sorted(axis.get_view_interval())
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        if low <= tick.get_loc() <= high:
            yield from (label for label in (tick.label1, tick.label2) if label.get_visible())


def legends(figure):
    """[(name, box)] of the frames of legends."""
    found = [ax.get_legend() for ax in figure.axes] + figure.legends
    found += [legend for part in figure.subfigs for legend in part.legends]
    return [("legend", legend.get_window_extent()) for legend in found if legend is not None]


def overlap(one, other, slack=1):
    """Whether two boxes share more than a pixel both ways."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > slack and height > slack


@pytest.mark.parametrize("name", DRAWN)
def test_no_two_texts_overlap_and_none_leaves_the_figure(name):
    figure = drawn(name)
    written = boxes(figure) + legends(figure)
    pairs = itertools.combinations(written, 2)
    assert [(a[0], b[0]) for a, b in pairs if overlap(a[1], b[1])] == []
    width, height = figure.bbox.size
    for text, box in written:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text


@pytest.mark.parametrize("name", DRAWN)
def test_no_legend_hides_data(name):
    figure = drawn(name)
    for _, legend in legends(figure):
        for ax in figure.axes:
            assert not (ax.axison and overlap(ax.get_window_extent(), legend))


@pytest.mark.parametrize("name", DRAWN)
def test_every_panel_says_what_it_shows(name):
    panels = [ax for ax in drawn(name).axes if ax.axison]
    for ax in panels:
        assert ax.get_title() or ax.get_label() == "<colorbar>" or ax.get_ylabel()
    assert any(ax.get_xlabel() for ax in panels)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 32])
@pytest.mark.parametrize("words", ["cat", "large_omnivores_and_herbivores"])
def test_captions_of_images_do_not_overlap_each_other_or_an_image(count, words):
    images = np.zeros((count, 4, 4, 3))
    figure = plots.labelled_images(images, [f"100 % {words}\ntrue: {words}"] * count, title=LONG)
    FigureCanvasAgg(figure).draw()
    written = [("title", figure._suptitle.get_window_extent())]
    written += [("caption", ax.title.get_window_extent()) for ax in figure.axes[:count]]
    drawn = [("image", ax.get_window_extent()) for ax in figure.axes[:count]]
    pairs = itertools.combinations(written + drawn, 2)
    assert [(a[0], b[0]) for a, b in pairs if overlap(a[1], b[1])] == []
    width, height = figure.bbox.size
    for text, box in written:
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text


def test_a_text_upon_another_is_found():
    figure = Figure()
    ax = figure.add_subplot()
    ax.text(0.5, 0.5, "one")
    ax.text(0.5, 0.5, "other")
    FigureCanvasAgg(figure).draw()
    (one, other) = [box for text, box in boxes(figure) if text in ("one", "other")]
    assert overlap(one, other)
