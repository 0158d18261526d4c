"""Records to figures. Every plot takes `ax=None` and returns the Axes; none calls `show`.

The only importer of matplotlib, without pyplot, so no display is needed:
`plots.ledger(flow).figure.savefig("ledger.png")`. Read `style` first.
"""

from minires.plots.activations import dead_units, histograms
from minires.plots.classification import confusion_matrix, labelled_images
from minires.plots.curves import autocorrelation, variance_growth
from minires.plots.gradients import gradient_heatmap, gradient_norm_figure, gradient_norms
from minires.plots.grid import gradient_grid
from minires.plots.lesioned import lesions, multi_lesions, shuffles
from minires.plots.overview import flow_figure
from minires.plots.paths import path_spectrum
from minires.plots.residual import ledger, ledger_norms
from minires.plots.style import STYLES, new_axes, style_of, styles_of
from minires.plots.surface import loss_surface, loss_surface_figure
from minires.plots.training import run_figure, training_curves, training_figure
from minires.plots.updates import update_ratios

__all__ = [
    "STYLES",
    "autocorrelation",
    "confusion_matrix",
    "dead_units",
    "flow_figure",
    "gradient_grid",
    "gradient_heatmap",
    "gradient_norm_figure",
    "gradient_norms",
    "histograms",
    "labelled_images",
    "ledger",
    "ledger_norms",
    "lesions",
    "loss_surface",
    "loss_surface_figure",
    "multi_lesions",
    "new_axes",
    "path_spectrum",
    "run_figure",
    "shuffles",
    "style_of",
    "styles_of",
    "training_curves",
    "training_figure",
    "update_ratios",
    "variance_growth",
]
