"""The sum of two paths: one pass over memory on all threads."""

import numpy as np

from minires.ops import reference
from minires.ops.fast.jit import PARTS, kernel, part_of
from minires.ops.fast.memory import empty


def add_forward(a, b):
    """y = a + b; see `reference`, to which different shapes and dtypes are left."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return reference.add_forward(a, b)
    y = empty(a.shape, a.dtype)
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    add(PARTS, a.reshape(-1), b.reshape(-1), y.reshape(-1))
    return y


def add_backward(da, db):
    """dx = da + db; see `reference`."""
    return add_forward(da, db)


@kernel
def add(k, a, b, y):
    a, b, y = part_of(a, k), part_of(b, k), part_of(y, k)
    for i in range(min(a.size, b.size, y.size)):
        y[i] = a[i] + b[i]
