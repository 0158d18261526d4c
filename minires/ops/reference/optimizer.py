"""Updates of Parameters, in place: the only ops that write to their arguments.

`adam_steps`, `sgd_steps` and `squared_norm` take lists with one array for each Parameter, since a
network has many small ones.
"""

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


def adam_steps(w, g, m, v, *, lr, betas, eps, step, weight_decay):
    """`adam_step` for several Parameters, after adding weight_decay * w to each gradient.

    Parameters
    ----------
    w, g, m, v : list of arrays
    lr, betas, eps, step
        As for `adam_step`.
    weight_decay : list of float
        One for each Parameter.
    """
    for wi, gi, mi, vi, decay in zip(w, g, m, v, weight_decay, strict=True):
        adam_step(wi, decayed(gi, wi, decay), mi, vi, lr=lr, betas=betas, eps=eps, step=step)


def sgd_step(w, g, v, *, lr, momentum, nesterov):
    """v = momentum v + g, w -= lr v, both in place; without momentum w -= lr g.

    Parameters
    ----------
    w, g, v : any shape, float
        Value, gradient and velocity.
    lr, momentum : float
    nesterov : bool
        Step along g + momentum v instead of v.

    References
    ----------
    Sutskever et al. (2013), ICML, section 2, in PyTorch's form, in which v does not hold lr.
    """
    if momentum:
        v *= momentum
        v += g
        g = g + momentum * v if nesterov else v
    w -= lr * g


def sgd_steps(w, g, v, *, lr, momentum, nesterov, weight_decay):
    """`sgd_step` for several Parameters, after adding weight_decay * w to each gradient.

    Parameters
    ----------
    w, g, v : list of arrays
    lr, momentum, nesterov
        As for `sgd_step`.
    weight_decay : list of float
        One for each Parameter.
    """
    for wi, gi, vi, decay in zip(w, g, v, weight_decay, strict=True):
        sgd_step(wi, decayed(gi, wi, decay), vi, lr=lr, momentum=momentum, nesterov=nesterov)


def decayed(g, w, weight_decay):
    """The gradient of the loss plus weight_decay * |w|^2 / 2."""
    return g + weight_decay * w if weight_decay else g


def squared_norm(arrays):
    """The sum of all squares in a list of arrays, added in float64: a float."""
    # not a dot product: BLAS would wake its threads, which get in the way of other kernels'
    flat = [array.reshape(-1) for array in arrays]
    parts = [a[i : i + IN_CACHE] for a in flat for i in range(0, a.size, IN_CACHE)]
    return float(sum(np.square(part, dtype=np.float64).sum() for part in parts))


IN_CACHE = 2**15  # numbers
