"""Where a NaN or infinity came from: found by running the step again and watching every layer."""

import math

import numpy as np

from minires.core import Observer, observe, unobserved


class NonFiniteError(ArithmeticError):
    """A NaN or infinity turned up in training. The weights are those before the step.

    Attributes
    ----------
    path : str
        The layer (or "input", "loss") where it came up first.
    where : {"forward", "backward"}
        In which pass.
    step : int
        The step, counted from 1.
    """

    def __init__(self, path, where, step, what):
        super().__init__(
            f"training expects finite numbers, got {what} in the {where} pass of {path} "
            f"at step {step}; the weights are those before this step"
        )
        self.path, self.where, self.step = path, where, step


def explain(model, loss, x, labels, step, value, norm):
    """The NonFiniteError for a step that gave the loss `value` and the gradient norm `norm`."""
    return find_non_finite(model, loss, x, labels, step) or not_again(value, norm, step)


class FindNonFinite(Observer):
    """Raises at the first layer that turns finite numbers into NaN or infinity."""

    coarse = True

    def __init__(self, model, step):
        self.paths = {id(layer): path or "the model" for path, layer in model.named_layers()}
        self.step = step

    def after_forward(self, layer, x, y, training):
        self.check(layer, "forward", y)

    def after_backward(self, layer, dy, dx):
        self.check(layer, "backward", dx)
        for parameter in layer.parameters():  # inside too: the parts of a fused layer are not seen
            self.check(layer, "backward", parameter.grad)

    def check(self, layer, where, array):
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            what = describe_non_finite(array)
            raise NonFiniteError(self.paths[id(layer)], where, self.step, what)


def find_non_finite(model, loss, x, labels, step):
    """Run the step again, watching every layer; return the NonFiniteError, if it comes again."""
    if not np.isfinite(x).all():
        return NonFiniteError("input", "forward", step, describe_non_finite(x))
    for parameter in model.parameters():
        parameter.grad[...] = 0
    try:
        with unobserved(model), observe(model, FindNonFinite(model, step)):
            logits = model.forward(x, training=True)
            value = loss.forward(logits, labels)
            if not math.isfinite(value):
                return NonFiniteError("loss", "forward", step, f"a loss of {value}")
            model.backward(loss.backward())
    except NonFiniteError as error:
        return error
    return None


def not_again(value, norm, step):
    """What to raise when the second run of a step was finite: something in it is random."""
    if math.isfinite(value):
        what = f"a gradient norm of {norm} that did not come again when the step was repeated"
        return NonFiniteError("the model", "backward", step, what)
    what = f"a loss of {value} that did not come again when the step was repeated"
    return NonFiniteError("the model", "forward", step, what)


def describe_non_finite(array):
    """How many NaNs and infinities, as text."""
    counts = {"NaN": int(np.isnan(array).sum()), "infinity": int(np.isinf(array).sum())}
    found = " and ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    return f"{found} among {array.size:,} numbers"
