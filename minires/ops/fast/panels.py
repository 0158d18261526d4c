"""Weights in the order in which the kernels read them."""

import numpy as np
from numba import prange

from minires.ops.fast.jit import kernel
from minires.ops.fast.memory import empty
from minires.ops.fast.simd import BITS


def panel_width(dtype):
    """Filters side by side in a panel: two registers."""
    return 2 * BITS // (8 * np.dtype(dtype).itemsize)


def pack(weight):
    """(KH, KW, C, F) -> (ceil(F / width), KH*KW*C, width) in one dimension, filled up with zeros.

    A tile that runs through the taps then reads the weights of its filters from first to last.
    """
    KH, KW, C, F = weight.shape
    width = panel_width(weight.dtype)
    panels = empty((-(-F // width), KH * KW * C, width), weight.dtype)
    if weight.flags.c_contiguous:
        fill(weight, panels)
    else:
        fill(any_strides(weight), panels)
    return panels.reshape(-1)


def any_strides(a):
    """A view that Numba compiles one kernel for, whatever the strides."""
    return np.lib.stride_tricks.as_strided(a, a.shape, a.strides)


def padded(bias):
    """(F,) -> a whole number of panels, filled up with zeros."""
    width = panel_width(bias.dtype)
    full = np.zeros(-(-len(bias) // width) * width, bias.dtype)
    full[: len(bias)] = bias
    return full


@kernel
def fill(weight, panels):
    KH, KW, C, F = weight.shape
    blocks, _, width = panels.shape
    for item in prange(blocks * KH * KW):
        block, tap = item // (KH * KW), item % (KH * KW)
        kh, kw = tap // KW, tap % KW
        f0 = block * width
        filters = min(width, F - f0)
        for c in range(C):
            row = panels[block, tap * C + c]
            for f in range(filters):
                row[f] = weight[kh, kw, c, f0 + f]
            for f in range(filters, width):
                row[f] = 0
