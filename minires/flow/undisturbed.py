"""Measuring without leaving a trace."""

import contextlib

from minires.core import unobserved


@contextlib.contextmanager
def undisturbed(model):
    """Gradients start at 0 inside the `with` block; what it changes is put back after it.

    That is: the gradients of the Parameters, running statistics and random streams, but not what
    layers keep between a forward and its backward pass. Observers that
    are attached do not see what happens inside, so that a recorder takes no measurement for
    training. Weights are nobody's business here: a measurement does not write to them.
    """
    parameters = model.parameters()
    grads = [parameter.grad.copy() for parameter in parameters]
    before = model.snapshot()
    try:
        with unobserved(model):
            for parameter in parameters:
                parameter.grad[...] = 0
            yield
    finally:
        model.restore(before)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad[...] = grad
