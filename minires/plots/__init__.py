"""Records to figures. Every plot takes `ax=None` and returns the Axes; none calls `show`.

The only importer of matplotlib, without pyplot, so no display is needed:
`plots.ledger(flow).figure.savefig("ledger.png")`. Read `style` first.
"""

from minires.plots.gradients import gradient_norm_figure, gradient_norms
from minires.plots.style import STYLES, new_axes, style_of
from minires.plots.training import training_curves, training_figure

__all__ = [
    "STYLES",
    "gradient_norm_figure",
    "gradient_norms",
    "new_axes",
    "style_of",
    "training_curves",
    "training_figure",
]
