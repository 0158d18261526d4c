"""The rectifier y = max(x, 0)."""

import numpy as np


def relu_forward(x):
    """y = max(x, 0).

    Parameters
    ----------
    x : any shape, float

    Returns
    -------
    y : like x
    cache : like x
        y itself: the next layer keeps it anyway, so the mask costs no memory.
    """
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dy, y):
    """dx = dy where x > 0, else 0; the derivative at exactly 0 is taken as 0.

    Parameters
    ----------
    dy : any shape, float
    y : like dy
        What `relu_forward` returned.

    Returns
    -------
    dx : like dy
    """
    return np.where(y > 0, dy, 0)
