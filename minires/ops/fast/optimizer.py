"""Adam in one pass: NumPy takes ten over arrays that are mostly small, and allocates each time."""

import math

import numpy as np

from minires.ops import reference
from minires.ops.fast.jit import PARTS, kernel, part_of
from minires.ops.fast.panels import FEW


def adam_step(w, g, m, v, *, lr, betas, eps, step):
    """Adam's update of w, m and v, all three in place; see `reference`, equal to it bit by bit."""
    if not covered(w, g, m, v):
        reference.adam_step(w, g, m, v, lr=lr, betas=betas, eps=eps, step=step)
        return
    b1, b2 = betas
    numbers = (1 - b1, b2, 1 - b2, math.sqrt(1 - b2**step), eps, lr / (1 - b1**step))
    run = adam.alone if w.size < FEW else adam
    run(PARTS, *(a.reshape(-1) for a in (w, g, m, v)), np.array(numbers, w.dtype))


def covered(*arrays):
    """Whether all have one dtype and are contiguous, so that flat views reach them in place."""
    dtype = arrays[0].dtype
    one = all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)
    return one and dtype in (np.float32, np.float64)


@kernel
def adam(k, w, g, m, v, numbers):
    c1, b2, c2 = numbers[0], numbers[1], numbers[2]
    root, eps, lr = numbers[3], numbers[4], numbers[5]
    w, g, m, v = part_of(w, k), part_of(g, k), part_of(m, k), part_of(v, k)
    for i in range(min(w.size, g.size, m.size, v.size)):
        m[i] += c1 * (g[i] - m[i])
        v[i] = v[i] * b2 + c2 * g[i] * g[i]
        w[i] -= lr * m[i] / (np.sqrt(v[i]) / root + eps)
