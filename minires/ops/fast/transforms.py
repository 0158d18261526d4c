"""Winograd's five transforms, on one register of channels at a time.

The transforms of `winograd.py` are products with small constant matrices,

    A' = 1 1  1 1  1 0     B' = 4  0 -5  0 1 0     G =  1/4     0    0
         0 1 -1 2 -2 0          0 -4 -4  1 1 0         -1/6  -1/6 -1/6
         0 1  1 4  4 0          0  4 -4 -1 1 0         -1/6   1/6 -1/6
         0 1 -1 8 -8 1          0 -2 -1  2 1 0         1/24  1/12  1/6
                                0  2 -1 -2 1 0         1/24 -1/12  1/6
                                0  4  0 -5 0 1            0     0    1

and are written out as the sums that are left when common parts are computed once. In one dimension
they take tuples of registers; in two they act on the columns, then on the rows.

References
----------
Lavin and Gray (2016), arXiv:1509.09308, section 4.
"""

from minires.ops.fast.jit import inlined
from minires.ops.fast.simd import axpy, lanes, load, store

TILES = 16  # tiles side by side in a block: V and M are [register of channels][tile][36][lane]


# ---- in one dimension


@inlined
def bt(d):
    """B' d: 6 pixels -> 6."""
    p, q = axpy(-4, d[2], d[4]), axpy(-4, d[1], d[3])
    r, t = d[4] - d[2], d[3] - d[1]
    first = axpy(4, d[0], axpy(-5, d[2], d[4]))
    last = axpy(4, d[1], axpy(-5, d[3], d[5]))
    return first, p + q, p - q, axpy(2, t, r), axpy(-2, t, r), last


@inlined
def at(m):
    """A' m: 6 products -> 4 pixels."""
    p, q, r, t = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return m[0] + p + r, axpy(2, t, q), axpy(4, r, p), axpy(8, t, q) + m[5]


@inlined
def a(y):
    """A y, the transpose of `at`: 4 -> 6."""
    p, q, r, t = y[0] + y[2], y[1] + y[3], axpy(4, y[2], y[0]), axpy(4, y[3], y[1])
    return y[0], p + q, p - q, axpy(2, t, r), axpy(-2, t, r), y[3]


@inlined
def g(w):
    """G w: 3 taps -> 6."""
    p, q = w[0] + w[2], axpy(4.0, w[2], w[0])
    zero = w[0] - w[0]
    return (
        axpy(1 / 4, w[0], zero),
        axpy(-1 / 6, p + w[1], zero),
        axpy(-1 / 6, p - w[1], zero),
        axpy(1 / 24, axpy(2, w[1], q), zero),
        axpy(1 / 24, axpy(-2, w[1], q), zero),
        w[2],
    )


@inlined
def gt(u):
    """G' u, the transpose of `g`: 6 -> 3."""
    zero = u[0] - u[0]
    p, q = u[1] + u[2], u[2] - u[1]
    r, t = axpy(1 / 24, u[3] + u[4], zero), axpy(1 / 12, u[3] - u[4], zero)
    first = axpy(1 / 4, u[0], axpy(-1 / 6, p, r))
    return first, axpy(1 / 6, q, t), axpy(-1 / 6, p, axpy(4, r, u[5]))


@inlined
def load3(x, i, s):
    return load(x, i), load(x, i + s), load(x, i + 2 * s)


@inlined
def load4(x, i, s):
    return load(x, i), load(x, i + s), load(x, i + 2 * s), load(x, i + 3 * s)


@inlined
def load6(x, i, s):
    p, q = load3(x, i, s), load3(x, i + 3 * s, s)
    return p[0], p[1], p[2], q[0], q[1], q[2]


@inlined
def store3(x, i, s, t):
    store(x, i, t[0])
    store(x, i + s, t[1])
    store(x, i + 2 * s, t[2])


@inlined
def store4(x, i, s, b, t):
    """x[i], x[i + s], ... = b + t."""
    store(x, i, b + t[0])
    store(x, i + s, b + t[1])
    store(x, i + 2 * s, b + t[2])
    store(x, i + 3 * s, b + t[3])


@inlined
def store6(x, i, s, t):
    store3(x, i, s, t)
    store3(x, i + 3 * s, s, (t[3], t[4], t[5]))


# ---- in two dimensions: one tile, one register of channels after the other


@inlined
def bt_columns(x, i, row, pixel):
    """B' on each of the 6 columns of the 6x6 pixels at x[i]."""
    return (
        bt(load6(x, i, row)),
        bt(load6(x, i + pixel, row)),
        bt(load6(x, i + 2 * pixel, row)),
        bt(load6(x, i + 3 * pixel, row)),
        bt(load6(x, i + 4 * pixel, row)),
        bt(load6(x, i + 5 * pixel, row)),
    )


@inlined
def at_columns(M, i, v):
    """A' on each of the 6 columns of the products at M[i]."""
    return (
        at(load6(M, i, 6 * v)),
        at(load6(M, i + v, 6 * v)),
        at(load6(M, i + 2 * v, 6 * v)),
        at(load6(M, i + 3 * v, 6 * v)),
        at(load6(M, i + 4 * v, 6 * v)),
        at(load6(M, i + 5 * v, 6 * v)),
    )


@inlined
def a_columns(y, i, row, pixel):
    """A on each of the 4 columns of the 4x4 pixels at y[i]."""
    return (
        a(load4(y, i, row)),
        a(load4(y, i + pixel, row)),
        a(load4(y, i + 2 * pixel, row)),
        a(load4(y, i + 3 * pixel, row)),
    )


@inlined
def tile_in(x, i, row, pixel, V, o, channels):
    """V[o] = B' x B for the 6x6 pixels at x[i]."""
    v = lanes(x)
    for c in range(0, channels, v):
        p, q, r, s, t, u = bt_columns(x, i + c, row, pixel)
        k = o + c * TILES * 36
        store6(V, k, v, bt((p[0], q[0], r[0], s[0], t[0], u[0])))
        store6(V, k + 6 * v, v, bt((p[1], q[1], r[1], s[1], t[1], u[1])))
        store6(V, k + 12 * v, v, bt((p[2], q[2], r[2], s[2], t[2], u[2])))
        store6(V, k + 18 * v, v, bt((p[3], q[3], r[3], s[3], t[3], u[3])))
        store6(V, k + 24 * v, v, bt((p[4], q[4], r[4], s[4], t[4], u[4])))
        store6(V, k + 30 * v, v, bt((p[5], q[5], r[5], s[5], t[5], u[5])))


@inlined
def tile_dy(y, i, row, pixel, M, o, filters):
    """M[o] = A dY A' for the 4x4 pixels at y[i]."""
    v = lanes(y)
    for f in range(0, filters, v):
        p, q, r, s = a_columns(y, i + f, row, pixel)
        k = o + f * TILES * 36
        store6(M, k, v, a((p[0], q[0], r[0], s[0])))
        store6(M, k + 6 * v, v, a((p[1], q[1], r[1], s[1])))
        store6(M, k + 12 * v, v, a((p[2], q[2], r[2], s[2])))
        store6(M, k + 18 * v, v, a((p[3], q[3], r[3], s[3])))
        store6(M, k + 24 * v, v, a((p[4], q[4], r[4], s[4])))
        store6(M, k + 30 * v, v, a((p[5], q[5], r[5], s[5])))


@inlined
def tile_out(M, i, bias, y, o, row, pixel, filters):
    """The 4x4 pixels at y[o] = bias + A' M A, for filters (first, last)."""
    v = lanes(y)
    for f in range(filters[0], filters[1], v):
        p, q, r, s, t, u = at_columns(M, i + f * TILES * 36, v)
        k, b = o + f, load(bias, f)
        store4(y, k, pixel, b, at((p[0], q[0], r[0], s[0], t[0], u[0])))
        store4(y, k + row, pixel, b, at((p[1], q[1], r[1], s[1], t[1], u[1])))
        store4(y, k + 2 * row, pixel, b, at((p[2], q[2], r[2], s[2], t[2], u[2])))
        store4(y, k + 3 * row, pixel, b, at((p[3], q[3], r[3], s[3], t[3], u[3])))


@inlined
def weight_in(w, i, tap, U, o, step):
    """U[o], U[o + step], ... = G w G' for the 3x3 taps at w[i], w[i + tap], ..."""
    p = g(load3(w, i, 3 * tap))
    q = g(load3(w, i + tap, 3 * tap))
    r = g(load3(w, i + 2 * tap, 3 * tap))
    store6(U, o, step, g((p[0], q[0], r[0])))
    store6(U, o + 6 * step, step, g((p[1], q[1], r[1])))
    store6(U, o + 12 * step, step, g((p[2], q[2], r[2])))
    store6(U, o + 18 * step, step, g((p[3], q[3], r[3])))
    store6(U, o + 24 * step, step, g((p[4], q[4], r[4])))
    store6(U, o + 30 * step, step, g((p[5], q[5], r[5])))


@inlined
def weight_out(dU, i, step, dw, o, tap):
    """dw[o], dw[o + tap], ... = G' dU G for the 36 registers at dU[i], dU[i + step], ..."""
    p = gt(load6(dU, i, 6 * step))
    q = gt(load6(dU, i + step, 6 * step))
    r = gt(load6(dU, i + 2 * step, 6 * step))
    s = gt(load6(dU, i + 3 * step, 6 * step))
    t = gt(load6(dU, i + 4 * step, 6 * step))
    u = gt(load6(dU, i + 5 * step, 6 * step))
    store3(dw, o, tap, gt((p[0], q[0], r[0], s[0], t[0], u[0])))
    store3(dw, o + 3 * tap, tap, gt((p[1], q[1], r[1], s[1], t[1], u[1])))
    store3(dw, o + 6 * tap, tap, gt((p[2], q[2], r[2], s[2], t[2], u[2])))
