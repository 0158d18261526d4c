"""One pass over all Parameters at once.

NumPy takes ten passes for each of them, and most are so small that calling it takes longer than
the sums: 59 arrays in a ResNet-20, of which 38 have 64 numbers at most. So the kernels get a table
of addresses, and each part of their work is a run of the numbers of all arrays, laid end to end.
"""

import math
import weakref

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from minires.ops import reference
from minires.ops.fast.jit import PARTS, inlined, kernel
from minires.ops.fast.panels import FEW


def adam_step(w, g, m, v, *, lr, betas, eps, step):
    """Adam's update of w, m and v, all three in place; see `reference`, equal to it bit by bit."""
    settings = {"lr": lr, "betas": betas, "eps": eps, "step": step}
    adam_steps([w], [g], [m], [v], **settings, weight_decay=[0.0])


def adam_steps(w, g, m, v, *, lr, betas, eps, step, weight_decay):
    """Adam's update of several Parameters; see `reference`, equal to it bit by bit."""
    table = table_of(w, g, m, v)
    if table is None or not writeable(w, m, v):
        settings = {"lr": lr, "betas": betas, "eps": eps, "step": step}
        reference.adam_steps(w, g, m, v, **settings, weight_decay=weight_decay)
        return
    b1, b2 = betas
    numbers = (1 - b1, b2, 1 - b2, math.sqrt(1 - b2**step), eps, lr / (1 - b1**step))
    update(adam, table, numbers, weight_decay)


def sgd_step(w, g, v, *, lr, momentum, nesterov):
    """SGD's update of w and v, both in place; see `reference`, equal to it bit by bit."""
    settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
    sgd_steps([w], [g], [v], **settings, weight_decay=[0.0])


def sgd_steps(w, g, v, *, lr, momentum, nesterov, weight_decay):
    """SGD's update of several Parameters; see `reference`, equal to it bit by bit."""
    table = table_of(w, g, v)
    if table is None or not writeable(w, v):
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        reference.sgd_steps(w, g, v, **settings, weight_decay=weight_decay)
        return
    update(sgd, table, (lr, momentum, bool(nesterov)), weight_decay)


def squared_norm(arrays):
    """The sum of all squares in a list of arrays, added in float64; see `reference`."""
    table = table_of(arrays)
    if table is None:
        return reference.squared_norm(arrays)
    found = np.zeros((PARTS, WIDTH))
    run = squares.alone if table.ends[-1] < FEW else squares
    run(PARTS, table.addresses, table.ends, np.empty(0, table.dtype), found)
    return float(found.sum())


def update(run, table, numbers, weight_decay):
    """One of the kernels that change the arrays of a table."""
    if len(weight_decay) != len(table.ends):
        raise ValueError(
            f"a step expects one weight_decay for each of {len(table.ends)} arrays, "
            f"got {len(weight_decay)}"
        )
    run = run.alone if table.ends[-1] < FEW else run
    numbers, decays = np.array(numbers, table.dtype), np.array(weight_decay, table.dtype)
    run(PARTS, table.addresses, table.ends, numbers, decays)


# ---- the table


class Table:
    """Where the numbers of some lists of arrays are.

    Attributes
    ----------
    addresses : (lists, arrays) int
    ends : (arrays,) int
        Numbers in the first array, in the first two, ...
    dtype : of all arrays
    """

    def __init__(self, lists):
        self.addresses = np.array([[a.ctypes.data for a in arrays] for arrays in lists])
        self.ends = np.cumsum([array.size for array in lists[0]])
        self.dtype = lists[0][0].dtype


_tables = {}  # {(number of lists, ids of the arrays): (Table, references to the arrays)}


def table_of(*lists):
    """The Table of lists of arrays, as it was in the step before; None if the kernels do not apply.

    They take contiguous arrays of one dtype, of one size at each place of the lists. A Table goes
    when the first of its arrays does.
    """
    key = len(lists), tuple([id(array) for arrays in lists for array in arrays])
    if key in _tables:
        return _tables[key][0]
    if not covered(lists):
        return None
    table = Table(lists)
    ends = [weakref.ref(a, lambda _: _tables.pop(key, None)) for arrays in lists for a in arrays]
    _tables[key] = table, ends
    return table


def covered(lists):
    """Whether flat views reach all arrays in place, and those of one Parameter have one size."""
    if not lists[0]:
        return False
    dtype = lists[0][0].dtype
    flat = all(a.dtype == dtype and a.flags.c_contiguous for arrays in lists for a in arrays)
    sizes = {tuple([array.size for array in arrays]) for arrays in lists}
    return flat and len(sizes) == 1 and dtype in (np.float32, np.float64)


def writeable(*lists):
    """Whether NumPy would let these arrays change; asked each time, for a flag can be set."""
    return all(array.flags.writeable for arrays in lists for array in arrays)


@intrinsic
def pointer(typing, address, like):
    """The pointer to the number at an address, of the dtype of `like`."""

    def emit(context, b, signature, values):
        return b.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), emit


@inlined
def run_of(addresses, a, first, last, like):
    """Numbers first, first + 1, ... of array a of a list, as an array."""
    return carray(pointer(addresses[a] + first * like.itemsize, like), (last - first,))


@inlined
def bounds(k, a, ends):
    """Which numbers of array a belong to part k: (first, last)."""
    start = ends[a - 1] if a > 0 else 0
    first, last = k * ends[-1] // PARTS, (k + 1) * ends[-1] // PARTS
    return max(first, start) - start, min(last, ends[a]) - start


# ---- kernels


@kernel
def adam(k, addresses, ends, numbers, decays):
    """Part k of Adam's update of w, g, m, v."""
    c1, b2, c2 = numbers[0], numbers[1], numbers[2]
    root, eps, lr = numbers[3], numbers[4], numbers[5]
    for a in range(len(ends)):
        first, last = bounds(k, a, ends)
        if first < last:
            w = run_of(addresses[0], a, first, last, numbers)
            g = run_of(addresses[1], a, first, last, numbers)
            m = run_of(addresses[2], a, first, last, numbers)
            v = run_of(addresses[3], a, first, last, numbers)
            for i in range(last - first):
                d = g[i] + decays[a] * w[i] if decays[a] != 0 else g[i]
                m[i] += c1 * (d - m[i])
                v[i] = v[i] * b2 + c2 * d * d
                w[i] -= lr * m[i] / (np.sqrt(v[i]) / root + eps)


@kernel
def sgd(k, addresses, ends, numbers, decays):
    """Part k of SGD's update of w, g, v."""
    lr, momentum, nesterov = numbers[0], numbers[1], numbers[2] != 0
    for a in range(len(ends)):
        first, last = bounds(k, a, ends)
        if first < last:
            w = run_of(addresses[0], a, first, last, numbers)
            g = run_of(addresses[1], a, first, last, numbers)
            v = run_of(addresses[2], a, first, last, numbers)
            for i in range(last - first):
                d = g[i] + decays[a] * w[i] if decays[a] != 0 else g[i]
                if momentum != 0:
                    v[i] = v[i] * momentum + d
                    d = d + momentum * v[i] if nesterov else v[i]
                w[i] -= lr * d


WIDTH = 32  # sums side by side


@kernel
def squares(k, addresses, ends, like, found):
    """Part k of the sum of squares, as WIDTH sums."""
    sums = found[k]
    for a in range(len(ends)):
        first, last = bounds(k, a, ends)
        if first < last:
            x = run_of(addresses[0], a, first, last, like)
            whole = x.size - x.size % WIDTH
            for i in range(0, whole, WIDTH):
                for c in range(WIDTH):
                    number = np.float64(x[i + c])
                    sums[c] += number * number
            for i in range(whole, x.size):
                number = np.float64(x[i])
                sums[0] += number * number
