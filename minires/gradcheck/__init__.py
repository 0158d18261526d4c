"""Is a backward pass right? `check_gradients` compares it with finite differences.

`subject` makes one thing of layers, losses and pairs of functions; `numeric` compares slopes;
`report` prints what was found; the order of the questions stands in `check`.
"""

from minires.gradcheck.check import assert_gradients, check_gradients
from minires.gradcheck.report import GradientReport, GradientRow

__all__ = ["GradientReport", "GradientRow", "assert_gradients", "check_gradients"]
