"""Hypothesis strategies: shapes, strides, paddings, memory layouts, and problems made of them."""

import numpy as np

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'minires.testing expects Hypothesis to be installed: pip install "minires[test]"'
    ) from error


def image_shapes(max_batch=3, max_size=8, max_channels=4):
    """(N, H, W, C), each at least 1; H and W differ as often as not."""
    sizes = st.integers(1, max_size)
    return st.tuples(st.integers(1, max_batch), sizes, sizes, st.integers(1, max_channels))


def strides(largest=3):
    """An int, or a pair of ints that may differ, from 1 to `largest`."""
    one = st.integers(1, largest)
    return st.one_of(one, st.tuples(one, one))


def paddings(largest=2):
    """Every accepted form: int, pair, ((top, bottom), (left, right)), "same" and "valid"."""
    one = st.integers(0, largest)
    pair = st.tuples(one, one)
    return st.one_of(one, pair, st.tuples(pair, pair), st.sampled_from(["same", "valid"]))


def array_layouts():
    """A function that returns an equal array with another memory layout.

    C order, Fortran order, every second element of a larger array, negative strides, read-only.
    """
    return st.sampled_from([np.ascontiguousarray, np.asfortranarray, sliced, backwards, read_only])


def sliced(a):
    """`a` as every second element of a larger array."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def backwards(a):
    """`a` with a negative stride in every axis."""
    turned = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[turned])[turned]


def read_only(a):
    """A copy of `a` that cannot be written to."""
    a = a.copy()
    a.flags.writeable = False
    return a


@st.composite
def normal_arrays(draw, shape, dtype=np.float64):
    """Standard normal numbers of a shape, in any memory layout."""
    seed = draw(st.integers(0, 2**32 - 1))
    a = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return draw(array_layouts())(a)


@st.composite
def convolutions(draw, max_kernel=3, max_filters=4):
    """A convolution that fits: {"x_shape", "w_shape", "stride", "padding", "dilation", "groups"}.

    Includes 1x1 kernels, kernels as large as the image, and images that the stride does not divide.
    """
    groups = draw(st.integers(1, 2))
    C = groups * draw(st.integers(1, 2))
    F = groups * draw(st.integers(1, max(1, max_filters // groups)))
    KH, KW = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_kernel))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    H = dilation[0] * (KH - 1) + 1 + draw(st.integers(0, 4))
    W = dilation[1] * (KW - 1) + 1 + draw(st.integers(0, 4))
    return {
        "x_shape": (draw(st.integers(1, 2)), H, W, C),
        "w_shape": (KH, KW, C // groups, F),
        "stride": draw(strides()),
        "padding": draw(paddings()),
        "dilation": dilation,
        "groups": groups,
    }


@st.composite
def pools(draw, max_kernel=3):
    """A pooling that fits: {"x_shape", "kernel_size", "stride", "padding"}."""
    KH, KW = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_kernel))
    H, W = KH + draw(st.integers(0, 4)), KW + draw(st.integers(0, 4))
    sides = [st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)) for k in (KH, KW)]
    return {
        "x_shape": (draw(st.integers(1, 2)), H, W, draw(st.integers(1, 3))),
        "kernel_size": (KH, KW),
        "stride": draw(strides()),
        "padding": draw(st.one_of(st.tuples(*sides), st.sampled_from(["same", "valid"]))),
    }
