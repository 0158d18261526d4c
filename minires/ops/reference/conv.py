"""Convolution as one matrix product (im2col), and its transpose for the backward pass.

Every output pixel looks at a window of KH*KW*C numbers. Lay the windows out as the rows of a
matrix, the columns of the layer's name, and convolution is a `dense` layer: cols @ weight. Its
backward pass is the transpose of both steps: dy @ weight.T gives the gradient of the columns, and
`col2im` adds each of them back onto the pixel that it was read from.

Layout is NHWC with weights (KH, KW, C, F), so the product *is* the output. Read next:
`batchnorm.py`.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minires.ops.reference.sums import channel_sum
from minires.ops.window import Window, resolve_window


class ConvCache(NamedTuple):
    """What the backward pass needs: the input, never the columns, which are KH*KW times larger."""

    x: np.ndarray  # (N, H, W, C)
    weight: np.ndarray  # (KH, KW, C // groups, F)
    window: Window
    groups: int


def conv2d_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlate images with filters, the "convolution" of neural networks.

    Parameters
    ----------
    x : (N, H, W, C) float
    weight : (KH, KW, C // groups, F) float
        Same dtype as `x`. Filter f sees the channels of its own group.
    bias : (F,) float, optional
    stride, dilation : int or pair of int
        (vertical, horizontal).
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Zeros around the image; "same" is TensorFlow's.
    groups : int
        Number of groups that C and F are divided into.

    Returns
    -------
    y : (N, OH, OW, F)
        Same dtype as `x`; OH = (H + top + bottom - dilation * (KH - 1) - 1) // stride + 1.
    cache : ConvCache

    Raises
    ------
    ValueError
        If the channels do not match or the kernel does not fit.
    """
    _, H, W, C = x.shape
    KH, KW, _, F = weight.shape
    if weight.shape[2] * groups != C or F % groups:
        raise ValueError(
            f"conv2d expects weight of shape (KH, KW, C / {groups} groups, F), F divisible by "
            f"{groups}, for x with {C} channels, got {weight.shape}"
        )
    window = resolve_window("conv2d", (H, W), (KH, KW), stride, padding, dilation)
    return correlate(x, weight, bias, window, groups)


def correlate(x, weight, bias, window, groups):
    """`conv2d_forward` once the window is known."""
    C, F = x.shape[-1], weight.shape[-1]
    cols = im2col(x, window)  # (N, OH, OW, KH, KW, C)
    y = join(rows(cols[..., c]) @ filters(weight[..., f]) for c, f in group_slices(C, F, groups))
    y = y.reshape(len(x), *window.out, F)
    if bias is not None:
        y += bias
    return y, ConvCache(x, weight, window, groups)


def conv2d_backward(dy, cache):
    """Gradients of `conv2d_forward`.

    Parameters
    ----------
    dy : (N, OH, OW, F) float
        Gradient of the loss with respect to the output.
    cache : ConvCache
        What `conv2d_forward` returned.

    Returns
    -------
    dx : (N, H, W, C), dweight : (KH, KW, C // groups, F), dbias : (F,)
        Same dtype as `dy`. No argument is written to.

    Notes
    -----
    With the windows as rows of a matrix, y = cols w and x = the pixels that cols were read from:

        dw = cols^T dy,  dcols = dy w^T,  dx = col2im(dcols).

    The columns are built again: keeping them for every layer of a ResNet-20 at batch 128 would
    take 779 MB, its inputs take 96 MB.
    """
    x, weight, window, groups = cache
    cols = im2col(x, window)  # (N, OH, OW, KH, KW, C)
    dweight, dcols = [], []
    for c, f in group_slices(x.shape[-1], dy.shape[-1], groups):
        g = np.ascontiguousarray(dy[..., f]).reshape(-1, f.stop - f.start)  # (N*OH*OW, F // groups)
        w = weight[..., f]
        dweight.append((rows(cols[..., c]).T @ g).reshape(w.shape))
        dcols.append((g @ filters(w).T).reshape(*cols.shape[:-1], -1))
    return col2im(join(dcols), x.shape, window), join(dweight), channel_sum(dy)


def conv2d_weight_backward(dy, cache):
    """dweight and dbias alone, for the first layer of a network: nobody trains its images."""
    x, weight, window, groups = cache
    cols = im2col(x, window)  # (N, OH, OW, KH, KW, C)
    slices = group_slices(x.shape[-1], dy.shape[-1], groups)
    dweight = join(
        (rows(cols[..., c]).T @ dy[..., f].reshape(-1, f.stop - f.start)).reshape(
            weight[..., f].shape
        )
        for c, f in slices
    )
    return dweight, channel_sum(dy)


def im2col(x, window):
    """The window of every output pixel: (N, H, W, C) -> (N, OH, OW, KH, KW, C), a view."""
    return windows(pad(x, window.padding), window)


def windows(x, window):
    """The windows of a padded image as a strided view: no number is copied, most appear often.

    Moving one output pixel down moves `stride` rows down; moving one tap down moves `dilation`.
    """
    N, _, _, C = x.shape
    (KH, KW), (SH, SW), _, (DH, DW), (OH, OW) = window
    n, h, w, c = x.strides
    shape = (N, OH, OW, KH, KW, C)
    return as_strided(x, shape, (n, h * SH, w * SW, h * DH, w * DW, c), writeable=False)


def col2im(dcols, shape, window):
    """The transpose of `im2col`: add the gradient of every window onto the pixels it was read from.

    Parameters
    ----------
    dcols : (N, OH, OW, KH, KW, C) float
    shape : tuple
        (N, H, W, C) of the unpadded image.
    window : Window

    Returns
    -------
    dx : (N, H, W, C)
        Pixels that lie in several windows get the sum.
    """
    N, H, W, C = shape
    (KH, KW), (SH, SW), ((top, bottom), (left, right)), (DH, DW), (OH, OW) = window
    dx = np.zeros((N, top + H + bottom, left + W + right, C), dcols.dtype)
    for kh in range(KH):
        rows = slice(kh * DH, kh * DH + (OH - 1) * SH + 1, SH)
        for kw in range(KW):
            across = slice(kw * DW, kw * DW + (OW - 1) * SW + 1, SW)
            dx[:, rows, across] += dcols[:, :, :, kh, kw]
    return np.ascontiguousarray(dx[:, top : top + H, left : left + W])


def pad(x, padding, value=0):
    """`x` with a border of `value`; `x` itself where there is none."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return x
    N, H, W, C = x.shape
    padded = np.full((N, top + H + bottom, left + W + right, C), value, x.dtype)
    padded[:, top : top + H, left : left + W] = x
    return padded


def group_slices(C, F, groups):
    """The input channels and the filters of each group."""
    c, f = C // groups, F // groups
    return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(groups)]


def rows(cols):
    """(N, OH, OW, KH, KW, C) -> (N*OH*OW, KH*KW*C): here the columns are written out."""
    N, OH, OW, KH, KW, C = cols.shape
    return cols.reshape(N * OH * OW, KH * KW * C)


def filters(weight):
    """(KH, KW, C, F) -> (KH*KW*C, F)."""
    return weight.reshape(-1, weight.shape[-1])


def join(parts):
    """The groups side by side on the last axis."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
