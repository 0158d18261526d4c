"""The figures of `minires reproduce`: (result, folder) -> names of the files in the folder."""

from itertools import chain

import numpy as np

from minires.experiments import mean_and_error
from minires.experiments.path_lengths import SHORT
from minires.flow import GradientNorm

DPI = 150
SINGLE = {"color": "#7a3e00", "linestyle": ":", "marker": "^", "markersize": 4}
PUBLISHED = {"facecolor": "0.9", "edgecolor": "0.6", "linewidth": 0.5, "zorder": 0}


def save(folder, axes):
    """Write {name: Axes or Figure} as PNG; returns the names."""
    for name, drawn in axes.items():
        getattr(drawn, "figure", drawn).savefig(folder / name, dpi=DPI)
    return list(axes)


def shattering(result, folder):
    """Autocorrelation of the nets that are centred, and of those that are not."""
    from minires import plots  # matplotlib takes a second to import

    lags = np.arange(next(iter(result.correlations.values())).shape[1])
    curves = {name: (lags, *mean_and_error(found)) for name, found in result.correlations.items()}
    noise = {name: curve for name, curve in curves.items() if "noise" in name}
    bare = {name: curve for name, curve in curves.items() if "not centred" in name} | noise
    centred = {name: curve for name, curve in curves.items() if name not in bare} | noise
    for name in [name for name in centred if name.startswith("plain")][1::2]:
        del centred[name]  # every other depth: they come close
    panels = {
        "autocorrelation.png": plots.autocorrelation(centred),
        "autocorrelation_not_centred.png": plots.autocorrelation(bare),
    }
    for ax, words in zip(panels.values(), ("", ", plain nets not centred"), strict=True):
        ax.set_title(ax.get_title() + words)
    return save(folder, panels)


def growth(result, folder):
    """Geometric mean of the variance, with one standard error."""
    from minires import plots

    curves = {}
    for kind, variance in result.variance.items():
        middle, error = mean_and_error(np.log(variance))
        ends = (middle, middle - error, middle + error)
        curves[kind] = np.arange(variance.shape[1]), *np.exp(ends)
    return save(folder, {"variance.png": plots.variance_growth(curves)})


def explosion(result, folder):
    """Gradient norm of each convolution, geometric mean over the seeds."""
    from minires import plots

    series = {}
    for kind, norms in result.weight_gradients.items():
        means = np.exp(np.log(norms).mean(axis=0))
        layers = enumerate(means, start=1)
        series[f"{kind}-{len(means) + 1}"] = [GradientNorm(i, "", norm) for i, norm in layers]
    title = "Gradient norm of each convolution, at initialisation"
    return save(folder, {"gradient_norms.png": plots.gradient_norms(series, title=title)})


def grid(result, folder):
    """The verdict on each network."""
    from minires import plots

    return save(folder, {"grid.png": plots.gradient_grid(result)})


def ledger(result, folder):
    """The parts at every block of the first seed, and their norms, new and trained."""
    from minires import plots

    axes = {}
    for when, runs in result.records.items():
        words = {"start": "at initialisation", "trained": "after training"}[when]
        axes[f"ledger_{when}.png"] = plots.ledger(runs[0])
        axes[f"ledger_norms_{when}.png"] = plots.ledger_norms(runs[0])
        for name in (f"ledger_{when}.png", f"ledger_norms_{when}.png"):
            axes[name].set_title(f"{axes[name].get_title()}, {words}")
    return save(folder, axes)


def paths(result, folder):
    """Sums of the first seed and single paths of all by length, new and trained."""
    from minires import plots
    from minires.plots.style import legend_below

    axes = {}
    for when, words in (("start", "at initialisation"), ("trained", "after training")):
        runs = getattr(result, when)
        ax = plots.path_spectrum(runs[0].sums, title=f"Gradient by path length, {words}")
        single = np.mean([run.shares["single paths"] for run in runs], axis=0)
        ax.plot(single, label="gradient, estimated from single paths", **SINGLE)
        ax.axvspan(SHORT[0] - 0.5, SHORT[1] + 0.5, label="5 to 17, Veit et al.", **PUBLISHED)
        ax.set_ylim(0, max(ax.get_ylim()[1], 1.05 * single.max()))
        legend_below(ax)
        axes[f"paths_{when}.png"] = ax
    return save(folder, axes)


def lesions(result, folder):
    """Single lesions of the first seed, several and shuffles of all seeds together."""
    from minires import plots

    name = f"residual-{result.depth}"
    single = {f"{kind}-{result.depth}": studies[0] for kind, studies in result.single.items()}
    multi, shuffles = (list(chain(*studies)) for studies in (result.multi, result.shuffles))
    axes = {
        "lesions.png": plots.lesions(single),
        "multi_lesions.png": plots.multi_lesions({name: multi}),
        "shuffles.png": plots.shuffles({name: shuffles}),
    }
    return save(folder, axes)


def surface(result, folder):
    """Plain beside residual, of the first seed."""
    from minires import plots

    figures = {}
    for depth in result.depths:
        names = (f"plain-{depth}", f"residual-{depth}")
        panels = {name: result.surfaces[name][0] for name in names}
        figures[f"surface_{depth}.png"] = plots.loss_surface_figure(panels)
    return save(folder, figures)
