"""Inverted dropout: the survivors are scaled up, so that inference has nothing to do."""


def dropout_forward(x, *, rate, rng):
    """Zero each number with probability `rate` and divide the others by 1 - rate.

    Parameters
    ----------
    x : any shape, float
    rate : float
        In [0, 1).
    rng : numpy.random.Generator

    Returns
    -------
    y : like x
        Its expectation is x.
    mask : like x
        0 or 1 / (1 - rate).

    References
    ----------
    Srivastava et al. (2014), JMLR 15, 1929-1958, section 10.
    """
    mask = (rng.random(x.shape) >= rate).astype(x.dtype) / (1 - rate)
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy * mask.

    Parameters
    ----------
    dy, mask : any shape, float

    Returns
    -------
    dx : like dy
    """
    return dy * mask
