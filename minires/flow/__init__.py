"""How the gradient flows through a model, as numbers. Drawing them is `minires.plots`' job."""

from minires.flow.norms import GradientNorm, gradient_norms

__all__ = ["GradientNorm", "gradient_norms"]
