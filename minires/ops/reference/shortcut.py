"""The shortcut without parameters of He et al. (2015): subsample, and pad channels with zeros."""

import numpy as np


def pad_shortcut_forward(x, *, stride, channels):
    """Every `stride`-th pixel, with zeros for the channels that x does not have.

    Parameters
    ----------
    x : (N, H, W, C) float
    stride : (int, int)
    channels : int
        Channels of the output, at least C.

    Returns
    -------
    y : (N, ceil(H / stride), ceil(W / stride), channels)
    cache : tuple
        Shape of x and the stride.

    References
    ----------
    He et al. (2015), arXiv:1512.03385, section 3.3, option A.
    """
    SH, SW = stride
    pixels = x[:, ::SH, ::SW]
    y = np.zeros((*pixels.shape[:-1], channels), x.dtype)
    y[..., : x.shape[-1]] = pixels
    return y, (x.shape, stride)


def pad_shortcut_backward(dy, cache):
    """Put the gradient back onto the pixels that were read; all others get 0.

    Parameters
    ----------
    dy : (N, OH, OW, channels) float
    cache : tuple

    Returns
    -------
    dx : (N, H, W, C)
    """
    dx = np.zeros(cache[0], dy.dtype)
    pad_shortcut_backward_onto(dx, dy, cache)
    return dx


def pad_shortcut_backward_onto(dx, dy, cache):
    """Add the gradient to the pixels of `dx` that were read, in place."""
    (*_, C), (SH, SW) = cache
    dx[:, ::SH, ::SW] += dy[..., :C]
