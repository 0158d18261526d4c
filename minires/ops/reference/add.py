"""The sum of two paths, where a residual block joins them."""


def add_forward(a, b):
    """y = a + b.

    Parameters
    ----------
    a, b : any shape, float
        Of one shape and dtype.

    Returns
    -------
    y : like a
    """
    return a + b


def add_backward(da, db):
    """The gradient at the fork: both paths read the same x, so dx = da + db.

    Parameters
    ----------
    da, db : any shape, float
        What the two paths give back.

    Returns
    -------
    dx : like da
    """
    return da + db
