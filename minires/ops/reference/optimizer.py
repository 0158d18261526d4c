"""The update of one Parameter, in place: the one op that writes to its arguments."""

import math

import numpy as np


def adam_step(w, g, m, v, *, lr, betas, eps, step):
    """Adam's update of w, m and v, all three in place.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
        w -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)

    Parameters
    ----------
    w, g, m, v : any shape, float
        Value, gradient, and the running means of the gradient and its square.
    lr : float
    betas : (float, float)
        b1 and b2.
    eps : float
    step : int
        t, 1 at the first update.

    References
    ----------
    Kingma and Ba (2015), arXiv:1412.6980, algorithm 1; order of operations as in PyTorch.
    """
    b1, b2 = betas
    m += (1 - b1) * (g - m)
    v *= b2
    v += (1 - b2) * g * g
    root = np.sqrt(v) / math.sqrt(1 - b2**step) + eps
    w -= lr / (1 - b1**step) * m / root
