"""The fast ops say what the reference says: any shape, both dtypes, bit by bit on any threads."""

import contextlib
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops import fast, reference

conv_norm = pytest.importorskip("minires.ops.fast.conv_norm")
memory = pytest.importorskip("minires.ops.fast.memory")
winograd = pytest.importorskip("minires.ops.fast.winograd")

EPS = {np.float64: 1e-12, np.float32: 8 * np.finfo(np.float32).eps}
DTYPES = st.sampled_from([np.float32, np.float64])


def assert_close(found, expected, terms, dtype):
    """Within the rounding of a sum whose terms have the absolute sum `terms`."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= EPS[dtype] * (terms + np.finfo(dtype).tiny)).all()


def arrays(seed, *shapes, dtype):
    """Normal numbers, by a seed that Hypothesis draws: quicker than letting it draw each."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def layouts(a):
    """The same numbers: contiguous, Fortran-ordered, every second of a larger array, read-only."""
    wide = np.repeat(a, 2, axis=-1)
    locked = a.copy()
    locked.setflags(write=False)
    return [a, np.asfortranarray(a), wide[..., ::2], locked]


@pytest.mark.parametrize("name", reference.__all__)
def test_signatures_are_equal(name):
    ours, theirs = getattr(fast, name), getattr(reference, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.signature(fast.implementation(name)) == inspect.signature(theirs)


# ---- convolution


@st.composite
def convolutions(draw):
    """Shapes of a convolution, odd ones included."""
    small = st.integers(1, 5)
    H, W = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    KH, KW = draw(small), draw(small)
    sides = st.integers(0, 6)
    padding = (draw(sides), draw(sides)), (draw(sides), draw(sides))
    padding = tuple(
        (a + max(0, k - size - a - b), b)
        for (a, b), k, size in zip(padding, (KH, KW), (H, W), strict=True)
    )
    x = (
        draw(st.sampled_from([1, 2, 5, 9])),
        H,
        W,
        draw(st.one_of(st.integers(1, 4), st.integers(1, 40))),
    )
    w = KH, KW, x[3], draw(st.integers(1, 40))
    stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return x, w, {"stride": stride, "padding": padding}, draw(st.integers(0, 2**32 - 1))


def convolution_terms(x, w, b, dy, options):
    """The sums of absolute terms of y, dx, dweight, dbias."""
    x, w, b, dy = (np.abs(a.astype(np.float64)) for a in (x, w, b, dy))
    y, cache = reference.conv2d_forward(x, w, b, **options)
    return y, *reference.conv2d_backward(dy, cache)


def convolution(ops, x, w, b, dy, options):
    y, cache = ops.conv2d_forward(x, w, b, **options)
    return y, *ops.conv2d_backward(dy, cache)


def check_convolution(problem, dtype):
    x, w, options, seed = problem
    y, cache = reference.conv2d_forward(np.zeros(x, dtype), np.zeros(w, dtype), **options)
    quick = winograd.pays(x, np.dtype(dtype), w, cache.window)
    x, w, b, dy = arrays(seed, x, w, w[3:], y.shape, dtype=dtype)
    found = convolution(fast, x, w, b, dy, options)
    exact = convolution(reference, *(a.astype(np.float64) for a in (x, w, b, dy)), options)
    terms = convolution_terms(x, w, b, dy, options)
    for a, e, t in zip(found, exact, terms, strict=True):
        if quick:
            assert a.dtype == dtype
            assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())
        else:
            assert_close(a, e, t, dtype)


@given(convolutions(), DTYPES)
def test_convolution_equals_the_reference(problem, dtype):
    check_convolution(problem, dtype)


@st.composite
def winograd_convolutions(draw):
    """3x3 at stride 1, with enough channels."""
    side = st.integers(0, 4)
    x = draw(st.integers(1, 5)), draw(st.integers(3, 20)), draw(st.integers(3, 20))
    channels = st.integers(winograd.FEWEST, 70)
    C, F = draw(channels), draw(channels)
    padding = (draw(side), draw(side)), (draw(side), draw(side))
    return (*x, C), (3, 3, C, F), {"padding": padding}, draw(st.integers(0, 2**32 - 1))


@given(winograd_convolutions())
def test_winograd_equals_the_reference(problem):
    check_convolution(problem, np.float32)


@pytest.mark.parametrize("x_shape", [(1, 16, 16, 16), (2, 16, 20, 16)])
def test_calls_leave_no_denormal_numbers_that_the_next_are_slow_at(x_shape):
    x, weight = arrays(0, x_shape, (3, 3, 16, 16), dtype=np.float32)
    weight /= 12  # so that numbers keep their size, as in a network
    fast.conv2d_forward(x, weight, padding=1)
    for work in memory._scratch.values():
        work[...] = 1
    for _ in range(30):
        fast.conv2d_forward(x, weight, padding=1)
        left = np.abs(memory._scratch[x.dtype])
        assert not np.any((left > 0) & (left < np.finfo(np.float32).tiny))


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 12, 12, 256), (5, 5, 256, 32), {"padding": 2}),
        ((2, 64, 64, 3), (7, 7, 3, 64), {"stride": 2, "padding": 3}),
        ((2, 16, 16, 64), (3, 3, 64, 128), {"stride": 2, "padding": 1}),
    ],
)
def test_the_error_of_long_sums_stays_small(x, w, options, positive):
    y, _ = reference.conv2d_forward(np.zeros(x), np.zeros(w), **options)
    given = arrays(0, x, w, w[3:], y.shape, dtype=np.float32)
    given = [np.abs(a) if positive else a for a in given]  # sums of one sign round most
    found = convolution(fast, *given, options)
    exact = convolution(reference, *(a.astype(np.float64) for a in given), options)
    for a, e, t in zip(found, exact, convolution_terms(*given, options), strict=True):
        assert_close(a, e, t, np.float32)


@pytest.mark.parametrize("x", [(1, 16, 16, 512), (2, 16, 16, 96), (3, 7, 13, 64), (1, 4, 16, 200)])
def test_many_channels_do_not_spoil_winograd(x):
    for seed in range(4):
        check_convolution((x, (3, 3, x[3], 48), {"padding": 1}, seed), np.float32)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}])
def test_convolution_leaves_what_it_does_not_cover_to_the_reference(options, rng):
    x, w = rng.standard_normal((2, 9, 9, 4)), rng.standard_normal((3, 3, 4, 6))
    w = w[:, :, : 4 // options.get("groups", 1)]
    y, cache = reference.conv2d_forward(x, w, **options)
    dy = rng.standard_normal(y.shape)
    expected = y, *reference.conv2d_backward(dy, cache)
    for a, e in zip(convolution(fast, x, w, None, dy, options), expected, strict=True):
        assert_array_equal(a, e)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution_takes_any_layout_and_leaves_it_alone(dtype):
    x, w, b, dy = arrays(0, (2, 6, 5, 16), (3, 3, 16, 16), (16,), (2, 6, 5, 16), dtype=dtype)
    expected = convolution(fast, x, w, b, dy, {"padding": 1})
    before = [a.copy() for a in (x, w, b, dy)]
    for kind in range(4):
        given_arrays = [layouts(a)[kind] for a in (x, w, b, dy)]
        found = convolution(fast, *given_arrays, {"padding": 1})
        for a, e in zip(found, expected, strict=True):
            assert_array_equal(a, e)
        for a, e in zip(given_arrays, before, strict=True):
            assert_array_equal(a, e)


@given(convolutions() | winograd_convolutions(), DTYPES, st.booleans())
def test_what_a_convolution_does_on_the_way_equals_the_reference(problem, dtype, relu):
    x, w, options, seed = problem
    shape = reference.conv2d_forward(np.zeros(x, dtype), np.zeros(w, dtype), **options)[0].shape
    x, w, b, dy, residual, other = arrays(seed, x, w, w[3:], shape, shape, x, dtype=dtype)
    results = []
    for ops, kind in ((fast, dtype), (reference, np.float64)):
        given_arrays = [a.astype(kind) for a in (x, w, b)]
        y = ops.conv2d_add_relu_forward(*given_arrays, residual.astype(kind), relu=relu, **options)
        z, cache, moments = ops.conv2d_moments_forward(*given_arrays, **options)
        dx, *gradients = ops.conv2d_add_backward(dy.astype(kind), cache, other.astype(kind))
        alone = ops.conv2d_weight_backward(dy.astype(kind), cache)
        results.append((y, z, *moments, dx, *gradients, *alone))
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for a, e in zip(*results, strict=True):
        assert a.dtype == dtype
        assert_allclose(a, e, rtol=tolerance, atol=3 * tolerance * max(1, np.abs(e).max()))


def test_a_residual_of_another_shape_is_refused():
    x, w = np.ones((2, 8, 8, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    for ops in (fast, reference):
        with pytest.raises(ValueError, match=r"expects residual of shape \(2, 6, 6, 16\), got"):
            ops.conv2d_add_relu_forward(x, w, None, np.ones_like(x))


def test_the_moments_of_a_convolution_survive_a_large_mean(rng):
    x = rng.standard_normal((8, 12, 10, 16), dtype=np.float32)
    w = (0.1 * rng.standard_normal((3, 3, 16, 32))).astype(np.float32)
    y, _, (mean, var) = fast.conv2d_moments_forward(x, w, np.full(32, 1e3, np.float32), padding=1)
    exact = y.astype(np.float64)
    assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-7)
    assert_allclose(var, exact.var(axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (15, 13)])  # whole tiles, and some that are cut
def test_the_moments_of_blocks_with_different_means_are_joined(size, rng):
    x = rng.standard_normal((80, *size, 16), dtype=np.float32)
    x += np.arange(80, dtype=np.float32)[:, None, None, None]  # a part holds several blocks
    w = (0.1 * rng.standard_normal((3, 3, 16, 16))).astype(np.float32)
    y, _, (mean, var) = fast.conv2d_moments_forward(x, w, padding=1)
    exact = y.astype(np.float64)
    assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-5)
    assert_allclose(var, exact.var(axis=(0, 1, 2)), rtol=1e-5)


# few pixels and many weights (cut by filters), few tiles (shared filters), small images in groups
LARGE = [
    ((2, 7, 7, 130), (3, 3, 130, 300), 1),
    ((1, 5, 6, 70), (3, 3, 70, 200), 1),
    ((40, 2, 3, 9), (3, 3, 9, 40), 1),
    ((33, 3, 1, 24), (1, 1, 24, 40), 0),
    ((3, 17, 2, 31), (5, 5, 31, 18), 2),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x", "w", "padding"), LARGE)
def test_every_way_through_images_and_filters_equals_the_reference(x, w, padding, dtype):
    check_convolution((x, w, {"padding": padding}, 7), dtype)


# ---- batch norm


@st.composite
def images(draw):
    """Shapes (N, H, W, C) or (N, C), from two values a channel."""
    shape = draw(st.tuples(st.integers(2, 40), st.integers(1, 12), st.integers(1, 12)))
    C = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 20, 64, 100, 1100]))
    return (shape[0], C) if draw(st.booleans()) else (*shape[: 1 if C > 64 else 3], 1, 1, C)[-4:]


def batchnorm(ops, x, gamma, beta, dy):
    y, cache = ops.batchnorm_forward(x, gamma, beta, eps=1e-5)
    return cache.mean, cache.var, y, *ops.batchnorm_backward(dy, cache)


def batchnorm_terms(x, gamma, beta, dy):
    """The sums of absolute terms; var and rstd count as data, their own error comes on top."""
    axes = tuple(range(x.ndim - 1))
    x, gamma, beta, dy = (a.astype(np.float64) for a in (x, gamma, beta, dy))
    mean, var = np.abs(x).mean(axes), x.var(axes)
    rstd = 1 / np.sqrt(var + 1e-5)
    centred = np.abs(x) + mean
    var = (centred**2).mean(axes)
    dgamma, dbeta = (np.abs(dy) * centred).sum(axes) * rstd, np.abs(dy).sum(axes)
    M = x.size // x.shape[-1]
    dx = np.abs(gamma) * rstd * (np.abs(dy) + dbeta / M + centred * rstd * dgamma / M)
    # rstd is wrong by half the relative error of var + eps
    y = centred * np.abs(gamma) * rstd * (1 + var * rstd**2) + np.abs(beta)
    return mean, var, y, dx * (1 + var * rstd**2), dgamma * (1 + var * rstd**2), dbeta


@given(images(), DTYPES, st.sampled_from([0.0, 3.0, 100.0]), st.integers(0, 2**32 - 1))
def test_batchnorm_equals_the_reference(shape, dtype, mean, seed):
    x, gamma, beta, dy = arrays(seed, shape, shape[-1:], shape[-1:], shape, dtype=dtype)
    x += dtype(mean)
    exact = batchnorm(reference, *(a.astype(np.float64) for a in (x, gamma, beta, dy)))
    terms = batchnorm_terms(x, gamma, beta, dy)
    for a, e, t in zip(batchnorm(fast, x, gamma, beta, dy), exact, terms, strict=True):
        assert_close(a, e, t, dtype)


def test_variance_survives_a_large_mean(rng):
    x = (1e4 + rng.standard_normal((64, 8, 8, 16))).astype(np.float32)
    x[:3] = 0  # and a start that does not know it
    ones = np.ones(16, np.float32)
    _, cache = fast.batchnorm_forward(x, ones, ones, eps=1e-5)
    assert_allclose(cache.var, x.astype(np.float64).var(axis=(0, 1, 2)), rtol=1e-6)


@given(images(), DTYPES, st.integers(0, 2**32 - 1))
def test_batchnorm_in_inference_equals_the_reference(shape, dtype, seed):
    C = shape[-1:]
    x, gamma, beta, mean, var, dy = arrays(seed, shape, C, C, C, C, shape, dtype=dtype)
    var = 0.1 + var * var
    results = []
    for ops in (fast, reference):
        y, cache = ops.batchnorm_inference_forward(x, gamma, beta, mean, var, eps=1e-5)
        results.append((y, *ops.batchnorm_inference_backward(dy, cache)))
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    for a, e in zip(*results, strict=True):
        assert a.dtype == dtype
        assert_allclose(a, e, rtol=rtol, atol=rtol * max(1, np.abs(e).max()))


# ---- number by number, pooling


@given(images(), DTYPES, st.integers(0, 2**32 - 1))
def test_relu_and_add_equal_the_reference_exactly(shape, dtype, seed):
    x, dy = arrays(seed, shape, shape, dtype=dtype)
    x.reshape(-1)[::7] = 0
    for ops in (fast, reference):
        y, cache = ops.relu_forward(x)
        results = y, ops.relu_backward(dy, cache), ops.add_forward(x, dy), ops.add_backward(x, dy)
        if ops is fast:
            found = results
    for a, e in zip(found, results, strict=True):
        assert a.dtype == dtype
        assert_array_equal(a, e)


def test_relu_lets_nan_through():
    x = np.array([np.nan, -1, 2, -np.inf, np.inf, -0.0], np.float32)
    assert_array_equal(fast.relu_forward(x)[0], [np.nan, 0, 2, 0, np.inf, 0])


@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 12)] * 2, st.sampled_from([1, 3, 16, 21])),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    DTYPES,
    st.data(),
)
def test_pooling_equals_the_reference(shape, kernel, stride, dtype, data):
    sides = tuple(
        (data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in kernel
    )
    kernel = tuple(min(k, n + sum(s)) for k, n, s in zip(kernel, shape[1:], sides, strict=False))
    sides = tuple((min(a, k - 1), min(b, k - 1)) for (a, b), k in zip(sides, kernel, strict=True))
    kernel = tuple(min(k, n + sum(s)) for k, n, s in zip(kernel, shape[1:], sides, strict=False))
    sides = tuple((min(a, k - 1), min(b, k - 1)) for (a, b), k in zip(sides, kernel, strict=True))
    kernel = tuple(min(k, n + sum(s)) for k, n, s in zip(kernel, shape[1:], sides, strict=False))
    options = {"kernel_size": kernel, "stride": stride, "padding": sides}
    (x,) = arrays(data.draw(st.integers(0, 2**32 - 1)), shape, dtype=dtype)
    x = np.round(x)  # ties
    y, cache = fast.maxpool2d_forward(x, **options)
    expected, expected_cache = reference.maxpool2d_forward(x, **options)
    assert_array_equal(y, expected)
    (dy,) = arrays(1, y.shape, dtype=dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    dx = reference.maxpool2d_backward(dy, expected_cache)
    assert_allclose(fast.maxpool2d_backward(dy, cache), dx, rtol=0, atol=tolerance)
    y, cache = fast.global_avgpool2d_forward(x)
    assert_allclose(y, reference.global_avgpool2d_forward(x)[0], rtol=tolerance, atol=tolerance)
    dx = reference.global_avgpool2d_backward(y, shape)
    assert_array_equal(fast.global_avgpool2d_backward(y, cache), dx)


def test_maxpool_lets_nan_win():
    x = np.array([1, np.nan, 3, np.nan], np.float32).reshape(1, 2, 2, 1)
    for ops in (fast, reference):
        y, cache = ops.maxpool2d_forward(x, kernel_size=2, stride=2)
        assert np.isnan(y).all()
        dx = ops.maxpool2d_backward(np.ones_like(y), cache)
        assert_array_equal(dx.ravel(), [0, 1, 0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (9, 31, 33, 17)])  # few numbers, and many
@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_the_padded_shortcut_equals_the_reference_exactly(shape, stride, dtype):
    (x,) = arrays(5, shape, dtype=dtype)
    for layout in layouts(x):
        y, cache = fast.pad_shortcut_forward(layout, stride=stride, channels=shape[3] + 4)
        expected, _ = reference.pad_shortcut_forward(x, stride=stride, channels=shape[3] + 4)
        assert y.dtype == dtype
        assert_array_equal(y, expected)
    for dy in layouts(arrays(6, y.shape, dtype=dtype)[0]):
        dx = fast.pad_shortcut_backward(dy, cache)
        assert dx.dtype == dtype
        assert_array_equal(dx, reference.pad_shortcut_backward(dy, cache))
        onto, expected = x.copy(), x + dx
        fast.pad_shortcut_backward_onto(onto, dy, cache)
        assert_array_equal(onto, expected)


# ---- threads


def everything():
    """One number sequence through the ops whose sums are cut into parts."""
    shapes = (9, 13, 11, 32), (3, 3, 32, 48), (48,), (9, 13, 11, 48)
    for dtype in (np.float32, np.float64):
        x, w, b, dy = arrays(1, *shapes, dtype=dtype)
        yield from convolution(fast, x, w, b, dy, {"padding": 1})
        yield from convolution(fast, x, w, b, dy[:, :7, :6], {"padding": 1, "stride": 2})
        yield from batchnorm(fast, dy, b, b, dy * dy)
    joined, _ = gradients_joined_or_apart((9, 13, 18, 32), 16)
    yield from joined


def test_bits_do_not_depend_on_the_number_of_threads():
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    results = []
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        results.append([a.tobytes() for a in everything()])
    numba.set_num_threads(before)
    assert all(result == results[0] for result in results)


# ---- optimiser


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (300, 500), ()])
def test_adam_equals_the_reference(shape, dtype):
    w, g, m, v = arrays(3, shape, shape, shape, shape, dtype=dtype)
    v = np.asarray(v * v)
    results = []
    for ops in (fast, reference):
        a, b, c = np.array(w), np.array(m), np.array(v)
        for step in (1, 2, 3):
            ops.adam_step(a, np.array(g), b, c, lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=step)
        results.append((a, b, c))
    for a, e in zip(*results, strict=True):
        assert a.dtype == dtype
        assert_allclose(a, e, rtol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", ["adam", "sgd", "sgd-momentum", "sgd-nesterov"])
def test_many_parameters_at_once_equal_the_reference_bit_by_bit(step, dtype):
    shapes = [(3, 3, 16, 32), (1,), (7,), (300, 500), (64,), ()]
    w, g, m, v = ([np.asarray(a) for a in arrays(s, *shapes, dtype=dtype)] for s in range(4))
    v = [np.asarray(a * a) for a in v]
    momentum, nesterov = 0.9 * (step != "sgd"), step == "sgd-nesterov"
    options = {"lr": 0.1, "weight_decay": [0.0, 0.1, 0.0, 0.01, 0.0, 0.5]}
    results = []
    for ops in (fast, reference):
        a, b, c = ([np.array(x) for x in many] for many in (w, m, v))
        for t in (1, 2, 3):
            if step == "adam":
                ops.adam_steps(a, g, b, c, **options, betas=(0.9, 0.99), eps=1e-8, step=t)
            else:
                ops.sgd_steps(a, g, b, **options, momentum=momentum, nesterov=nesterov)
        results.append([x.tobytes() for x in (*a, *b, *c)])
    assert results[0] == results[1]


def test_the_squared_norm_of_many_arrays_equals_the_reference():
    shapes = [(3, 3, 16, 32), (1,), (33,), (300, 500), ()]
    some = [np.asarray(a) for a in arrays(5, *shapes, dtype=np.float32)]
    assert fast.squared_norm(some) == pytest.approx(reference.squared_norm(some), rel=1e-12)
    assert fast.squared_norm([some[1][:, None] * np.inf]) == np.inf
    assert np.isnan(fast.squared_norm([*some, np.array([np.nan], np.float32)]))


def test_arrays_that_replace_others_are_read_where_they_are():
    g = [np.ones(5, np.float32)]
    for value in range(2, 20):
        assert fast.squared_norm(g) == 5 * (value - 1) ** 2
        g[0] = np.full(5, value, np.float32)
    mixed = [np.ones(3), np.ones((4, 4), np.float32).T, np.ones(6)[::2]]
    assert fast.squared_norm(mixed) == 22


# ---- BLAS between kernels


def test_blas_has_its_threads_back_after_a_product_on_one(monkeypatch):
    from minires.ops.fast import blas

    class Library:
        threads = 3

        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, n):
            self.threads = n

    library = Library()
    monkeypatch.setattr(
        blas, "switches", lambda: [(library.get_num_threads, library.set_num_threads)]
    )
    assert isinstance(blas.calm(10), contextlib.nullcontext)
    assert isinstance(blas.calm(2**40), contextlib.nullcontext)
    with blas.calm(2**20):
        assert library.threads == 1
        with blas.calm(2**20):  # as another Python thread may be
            assert library.threads == 1
        assert library.threads == 1
    assert library.threads == 3
    with pytest.raises(ValueError, match="matmul"):
        fast.dense_forward(np.ones((100, 600)), np.ones((599, 100)), None)
    assert library.threads == 3


def test_a_convolution_left_to_the_reference_stays_on_one_thread(monkeypatch):
    from minires.ops.fast import conv

    seen = []

    class Watched:
        def __enter__(self):
            seen.append("in")

        def __exit__(self, *_):
            seen.append("out")

    monkeypatch.setattr(conv, "calm", lambda products: seen.append(products) or Watched())
    x, w = np.ones((2, 8, 8, 4)), np.ones((3, 3, 2, 4))
    y, cache = fast.conv2d_forward(x, w, padding=1, groups=2)
    fast.conv2d_backward(y, cache)
    fast.conv2d_weight_backward(y, cache)
    assert seen == [2 * 64 * w.size, "in", "out"] * 3


# ---- batch norm and ReLU as a convolution reads


NORMED = [  # x, weight, padding
    ((3, 9, 14, 32), (3, 3, 32, 16), ((0, 2), (1, 0))),
    ((2, 8, 8, 16), (3, 3, 16, 48), 1),
    ((1, 5, 3, 64), (3, 3, 64, 64), ((2, 2), (2, 2))),
    ((2, 8, 8, 12), (3, 3, 12, 16), 1),  # channels that fill no registers
    ((2, 9, 9, 16), (5, 5, 16, 16), 2),  # no kernel that normalises
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x_shape", "w_shape", "padding"), NORMED)
@pytest.mark.parametrize("measured", [False, True])
def test_a_convolution_that_normalises_equals_both_steps_bit_by_bit(
    x_shape, w_shape, padding, measured, dtype
):
    C, F = w_shape[2:]
    x, w, b, gamma, beta = arrays(1, x_shape, w_shape, (F,), (C,), (C,), dtype=dtype)
    moments = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if measured else None
    h, norm_cache = fast.batchnorm_relu_forward(x, gamma, beta, eps=1e-5, moments=moments)
    y, conv_cache, found = fast.conv2d_moments_forward(h, w, b, padding=padding)
    joined = fast.batchnorm_relu_conv2d_forward(
        x, gamma, beta, w, b, eps=1e-5, moments=moments, padding=padding
    )
    dy = arrays(2, y.shape, dtype=dtype)[0]
    dh, *gradients = fast.conv2d_backward(dy, conv_cache)
    expected = [y, *found, dh, *gradients, *fast.batchnorm_relu_backward(dh, norm_cache)]
    y, norm_cache, conv_cache, found = joined
    dh, *gradients = fast.conv2d_backward(dy, conv_cache)
    results = [y, *found, dh, *gradients, *fast.batchnorm_relu_backward(dh, norm_cache)]
    for a, e in zip(results, expected, strict=True):
        assert a.dtype == dtype
        assert_array_equal(a, e)
    again = fast.conv2d_weight_backward(dy, conv_cache)
    for a, e in zip(again, gradients, strict=True):
        assert_array_equal(a, e)
    other = arrays(3, dh.shape, dtype=dtype)[0]
    assert_array_equal(fast.conv2d_add_backward(dy, conv_cache, other)[0], other + dh)


@pytest.mark.parametrize(("x_shape", "w_shape", "padding"), NORMED[:2])
def test_gradients_of_another_dtype_reach_a_convolution_that_normalises(x_shape, w_shape, padding):
    C = w_shape[2]
    given = arrays(1, x_shape, (C,), (C,), w_shape, dtype=np.float32)
    results = []
    for ops in (fast, reference):
        y, _, cache, _ = ops.batchnorm_relu_conv2d_forward(*given, eps=1e-5, padding=padding)
        dy = arrays(2, y.shape, dtype=np.float64)[0]
        results.append([*ops.conv2d_backward(dy, cache), *ops.conv2d_weight_backward(dy, cache)])
    for a, e in zip(*results, strict=True):
        assert_allclose(a, e, rtol=1e-3, atol=1e-3)


# ---- both gradients of a convolution, from the gradient behind its batch norm


JOINED = [  # x, filters; more than 32 tiles of 4x4 outputs
    ((9, 13, 18, 32), 16),
    ((16, 32, 32, 16), 16),
    ((40, 8, 8, 16), 48),
    ((33, 5, 7, 32), 32),
    ((5, 40, 4, 16), 64),
    ((4, 27, 11, 16), 64),  # bands that do not divide the rows of tiles, and differ for x and dy
]


def gradients_joined_or_apart(x_shape, F, dtype=np.float32, **options):
    """All gradients of relu(norm(conv(x))), of it + other, and of relu(norm(conv(h)) + residual)
    for h = relu(norm(x)): by the joint ops, and by one op after the other.
    """
    C = x_shape[3]
    x, w, b = arrays(1, x_shape, (3, 3, C, F), (F,), dtype=dtype)
    options = {"padding": 1} | options
    y, conv_cache, moments = fast.conv2d_moments_forward(x, w, b, **options)
    gamma, beta, gamma0, beta0 = arrays(2, (F,), (F,), (C,), (C,), dtype=dtype)
    residual, dy = arrays(3, y.shape, y.shape, dtype=dtype)
    other = arrays(4, x.shape, dtype=dtype)[0]
    _, of_relu = fast.batchnorm_relu_forward(y, gamma, beta, eps=1e-5, moments=moments)
    inner, _, of_inner, found = fast.batchnorm_relu_conv2d_forward(
        x, gamma0, beta0, w, b, eps=1e-5, **options
    )
    given = inner, residual, gamma, beta
    _, of_sum = fast.batchnorm_add_relu_forward(*given, eps=1e-5, moments=found)
    joined = [
        *fast.conv2d_batchnorm_relu_backward(dy, of_relu, conv_cache),
        *fast.conv2d_batchnorm_relu_backward(dy, of_relu, conv_cache, other),
        *fast.conv2d_batchnorm_add_relu_backward(dy, of_sum, of_inner),
    ]
    sums = joined.pop()
    d, *of_norm = fast.batchnorm_relu_backward(dy, of_relu)
    dsum, dresidual, *of_second = fast.batchnorm_add_relu_backward(dy, of_sum)
    dx, *of_conv = fast.conv2d_backward(dsum, of_inner)
    apart = [
        *(*fast.conv2d_backward(d, conv_cache), *of_norm),
        *(*fast.conv2d_add_backward(d, conv_cache, other), *of_norm),
        *(dx, dresidual, *of_conv, *of_second),
    ]
    return ([*joined, sums] if sums is not None else joined), apart


@pytest.mark.parametrize(("x_shape", "F"), JOINED)
def test_gradients_through_norm_and_convolution_joined_are_those_apart_bit_by_bit(
    x_shape, F, monkeypatch
):
    seen, gradients = [], conv_norm.gradients
    monkeypatch.setattr(conv_norm, "gradients", lambda *args: seen.append(args) or gradients(*args))
    joined, apart = gradients_joined_or_apart(x_shape, F)
    assert len(seen) == 3
    *joined, sums = joined
    assert sums.any(axis=(1, 2)).all()  # each part has its own
    for a, e in zip(joined, apart, strict=True):
        assert_array_equal(a, e)


@pytest.mark.parametrize(
    ("x_shape", "F", "options"),
    [
        ((9, 13, 18, 32), 20, {}),  # filters that fill no registers
        ((9, 13, 18, 12), 16, {}),
        ((9, 13, 18, 16), 16, {"padding": 0}),
        ((9, 13, 18, 16), 16, {"padding": ((2, 0), (1, 1))}),
        ((9, 13, 18, 16), 16, {"stride": 2}),
        ((9, 13, 18, 16), 16, {"dilation": 2}),
        ((1, 8, 8, 16), 16, {}),  # few tiles
        ((16, 8, 8, 64), 64, {}),  # many weights
        ((9, 13, 18, 16), 16, {"dtype": np.float64}),
    ],
)
def test_gradients_that_do_not_join_are_computed_one_after_the_other(
    x_shape, F, options, monkeypatch
):
    monkeypatch.setattr(conv_norm, "gradients", None)
    joined, apart = gradients_joined_or_apart(x_shape, F, **options)
    for a, e in zip(joined, apart, strict=True):
        assert_array_equal(a, e)


@pytest.mark.parametrize("kernel", [3, 1])  # with the second the gradients in front do not join
@pytest.mark.parametrize(("x_shape", "F"), JOINED)
def test_sums_made_beside_dx_stand_for_the_pass_of_the_norm_in_front(x_shape, F, kernel):
    C = x_shape[3]
    x, first, second = arrays(1, x_shape, (kernel, kernel, C, C), (3, 3, C, F), dtype=np.float32)
    gamma, beta, *norm = arrays(2, (C,), (C,), (F,), (F,), dtype=np.float32)
    inner, first_cache, moments = fast.conv2d_moments_forward(x, first, padding=kernel // 2)
    y, norm_cache, cache, found = fast.batchnorm_relu_conv2d_forward(
        inner, gamma, beta, second, eps=1e-5, moments=moments, padding=1
    )
    dy, residual, other = arrays(3, y.shape, y.shape, x_shape, dtype=np.float32)
    _, of_sum = fast.batchnorm_add_relu_forward(y, residual, *norm, eps=1e-5, moments=found)
    dh, *_, sums = fast.conv2d_batchnorm_add_relu_backward(dy, of_sum, cache)
    assert sums.shape[1:] == (2, C)
    mask = (inner - norm_cache.norm.mean) * (gamma * norm_cache.norm.rstd) + beta > 0
    kept = np.where(mask, dh.astype(np.float64), 0)
    terms = np.stack([kept, kept * (inner - norm_cache.norm.mean.astype(np.float64))])
    error = np.abs(sums.sum(axis=0) - terms.sum(axis=(1, 2, 3)))
    assert (error <= 1e-5 * np.abs(terms).sum(axis=(1, 2, 3))).all()

    expected = fast.conv2d_batchnorm_relu_backward(dh, norm_cache, first_cache, other)
    results = fast.conv2d_batchnorm_relu_backward(dh, norm_cache, first_cache, other, sums)
    for a, e in zip(results, expected, strict=True):
        assert_allclose(a, e, rtol=1e-4, atol=1e-4 * max(1, np.abs(e).max()))
    twice = fast.conv2d_batchnorm_relu_backward(dh, norm_cache, first_cache, other, 2 * sums)
    assert_allclose(twice[3:], 2 * np.array(results[3:]), rtol=1e-6)  # they are what is taken
    for wrong in (sums[:, :1], sums[:, :, :8], sums[0]):
        with pytest.raises(ValueError, match=r"expects sums of shape \(parts, 2, "):
            fast.conv2d_batchnorm_relu_backward(dh, norm_cache, first_cache, other, wrong)


@pytest.mark.parametrize(("x_shape", "F"), JOINED)
def test_gradients_through_norm_and_convolution_equal_the_reference(x_shape, F):
    given = arrays(1, x_shape, (3, 3, x_shape[3], F), dtype=np.float32)
    gamma, beta = arrays(2, (F,), (F,), dtype=np.float32)
    results = []
    for ops, kind in ((fast, np.float32), (reference, np.float64)):
        y, cache, moments = ops.conv2d_moments_forward(*(a.astype(kind) for a in given), padding=1)
        dy, other, residual = arrays(3, y.shape, x_shape, y.shape, dtype=np.float32)
        norm = gamma.astype(kind), beta.astype(kind)
        _, of_relu = ops.batchnorm_relu_forward(y, *norm, eps=1e-5, moments=moments)
        _, of_sum = ops.batchnorm_add_relu_forward(
            y, residual.astype(kind), *norm, eps=1e-5, moments=moments
        )
        dy, other = dy.astype(kind), other.astype(kind)
        results.append(
            [
                *ops.conv2d_batchnorm_relu_backward(dy, of_relu, cache, other),
                *ops.conv2d_batchnorm_add_relu_backward(dy, of_sum, cache)[:-1],
            ]
        )
    for a, e in zip(*results, strict=True):
        # a ReLU whose input rounds to the other side of 0 lets one gradient more or less through
        assert np.linalg.norm(a - e) <= 1e-3 * np.linalg.norm(e) + 1e-4


@pytest.mark.parametrize("ops", [fast, reference])
def test_a_gradient_of_another_shape_is_refused_by_the_joint_gradients(ops):
    x, w = arrays(1, (9, 13, 18, 16), (3, 3, 16, 16), dtype=np.float32)
    y, cache, _ = ops.conv2d_moments_forward(x, w, padding=1)
    ones = np.ones(16, np.float32)
    _, norm_cache = ops.batchnorm_relu_forward(y, ones, ones, eps=1e-5)
    for wrong in (y[:1], y.astype(np.float64)):
        with pytest.raises(ValueError, match="conv2d_batchnorm_relu_backward expects dy"):
            ops.conv2d_batchnorm_relu_backward(wrong, norm_cache, cache)
        with pytest.raises(ValueError, match="conv2d_batchnorm_add_relu_backward expects dy"):
            ops.conv2d_batchnorm_add_relu_backward(wrong, norm_cache, cache)
    with pytest.raises(ValueError, match="expects other of shape"):
        ops.conv2d_batchnorm_relu_backward(y, norm_cache, cache, x[:1])


def test_the_cache_of_a_norm_of_another_batch_is_refused(monkeypatch):
    x, w = arrays(1, (9, 13, 18, 16), (3, 3, 16, 16), dtype=np.float32)
    _, cache, _ = fast.conv2d_moments_forward(x, w, padding=1)
    other = arrays(2, (8, 13, 18, 16), dtype=np.float32)[0]
    _, norm_cache = fast.batchnorm_relu_forward(other, w[0, 0, 0], w[0, 0, 1], eps=1e-5)
    monkeypatch.setattr(conv_norm, "gradients", None)
    with pytest.raises(ValueError, match="expects dy of shape"):
        fast.conv2d_batchnorm_relu_backward(other, norm_cache, cache)


# ---- what must not be written to, and what does not fit


@pytest.mark.parametrize("cached", [False, True])
def test_an_array_that_is_read_only_is_not_changed_by_a_step(cached):
    w, g, v = ([np.ones(4, np.float32)] for _ in range(3))
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": [0.0]}
    if cached:
        fast.sgd_steps(w, g, v, **settings)
    before = w[0].copy()
    w[0].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fast.sgd_steps(w, g, v, **settings)
    with pytest.raises(ValueError, match="read-only"):
        fast.adam_step(w[0], g[0], v[0], v[0].copy(), lr=0.1, betas=(0.9, 0.9), eps=1, step=1)
    assert_array_equal(w[0], before)


def test_a_step_wants_one_weight_decay_for_each_array():
    arrays = [np.ones(4), np.ones(3)]
    given = arrays, arrays, [np.ones(4), np.ones(3)]
    with pytest.raises(ValueError, match="one weight_decay for each of 2 arrays, got 1"):
        fast.sgd_steps(*given, lr=0.1, momentum=0.9, nesterov=False, weight_decay=[0.0])


def test_coefficients_of_a_norm_broadcast_or_are_refused():
    x, dy = arrays(1, (2, 3, 3, 4), (2, 3, 3, 4), dtype=np.float64)
    one, results = np.array([2.0]), []
    for ops in (fast, reference):
        y, cache = ops.batchnorm_forward(x, one, one, eps=1e-5)
        results.append([y, *ops.batchnorm_backward(dy, cache)])
    for a, e in zip(*results, strict=True):
        assert_allclose(a, e, atol=1e-12)
    with pytest.raises(ValueError, match="broadcast"):
        fast.batchnorm_inference_forward(x, np.ones(4), np.ones(4), np.ones(4), np.ones(3), eps=1)


def test_an_array_at_the_id_of_one_that_is_gone_is_another():
    ids = []
    for size in range(1, 200):
        a = np.ones(size, np.float32)
        ids.append(id(a))
        assert fast.squared_norm([a]) == size
        del a
    assert len(set(ids)) < len(ids)  # or this shows nothing


# ---- gradients of another shape or dtype: a wrong layer of one's own gives them

IMAGE, CHANNELS = np.ones((2, 12, 12, 32), np.float32), np.ones(32, np.float32)
WITH_BACKWARD = {
    "conv2d": ([IMAGE, np.ones((3, 3, 32, 32), np.float32)], {"padding": 1}),
    "maxpool2d": ([IMAGE], {"kernel_size": 2, "stride": 2}),
    "global_avgpool2d": ([IMAGE], {}),
    "batchnorm": ([IMAGE, *2 * [CHANNELS]], {"eps": 1}),
    "batchnorm_inference": ([IMAGE, *4 * [CHANNELS]], {"eps": 1}),
    "batchnorm_relu": ([IMAGE, *2 * [CHANNELS]], {"eps": 1}),
    "batchnorm_add_relu": ([IMAGE, IMAGE, *2 * [CHANNELS]], {"eps": 1}),
}


@pytest.mark.parametrize("name", WITH_BACKWARD)
def test_a_backward_refuses_a_gradient_of_another_shape(name):
    args, options = WITH_BACKWARD[name]
    y, cache, *_ = getattr(fast, f"{name}_forward")(*args, **options)
    for dy in (y[:1], y[..., :31], y[..., None]):
        with pytest.raises(ValueError, match=r"expects dy of shape \(2, .*32\), got|broadcast"):
            getattr(fast, f"{name}_backward")(np.ascontiguousarray(dy), cache)


def test_the_padded_shortcut_refuses_a_gradient_of_another_shape():
    x = np.ones((16, 32, 32, 16), np.float32)
    y, cache = fast.pad_shortcut_forward(x, stride=(2, 2), channels=32)
    for dy in (y[:1], y[:, 1:], y[..., :15]):
        with pytest.raises(ValueError, match="expects dy"):
            fast.pad_shortcut_backward(dy, cache)
        with pytest.raises(ValueError, match="expects dy"):
            fast.pad_shortcut_backward_onto(x.copy(), dy, cache)
    with pytest.raises(ValueError, match="expects dx of shape"):
        fast.pad_shortcut_backward_onto(x[:8].copy(), y, cache)


@pytest.mark.parametrize("name", ["batchnorm", "batchnorm_inference", "maxpool2d", "conv2d"])
def test_a_gradient_of_another_dtype_gives_what_the_reference_gives(name, rng):
    args, options = WITH_BACKWARD[name]
    args = [rng.standard_normal(a.shape).astype(np.float32) ** 2 for a in args]
    y, cache, *_ = getattr(fast, f"{name}_forward")(*args, **options)
    dy = rng.standard_normal(y.shape)
    found, expected = (getattr(ops, f"{name}_backward")(dy, cache) for ops in (fast, reference))
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype
        assert_allclose(a, e, rtol=1e-6, atol=1e-6)


def test_a_residual_of_another_shape_or_dtype_is_refused_behind_a_norm():
    def forward(residual):
        fast.batchnorm_add_relu_forward(IMAGE, residual, CHANNELS, CHANNELS, eps=1)

    with pytest.raises(ValueError, match=r"expects residual of shape \(2, 12, 12, 32\), got"):
        forward(IMAGE[:1])
    with pytest.raises(ValueError, match=r"expects residual of dtype float32, like x, got"):
        forward(IMAGE.astype(np.float64))


def test_a_residual_of_another_dtype_behind_a_convolution_promotes_as_in_the_reference(rng):
    (x, w), options = WITH_BACKWARD["conv2d"]
    other = rng.standard_normal(x.shape)
    found, expected = (
        ops.conv2d_add_relu_forward(x, w, None, other, **options) for ops in (fast, reference)
    )
    assert found.dtype == expected.dtype == np.float64
    assert_allclose(found, expected, rtol=1e-5)


def test_a_sum_of_different_shapes_or_dtypes_is_the_reference_s(rng):
    a = rng.standard_normal((4, 3, 5), dtype=np.float32)
    for b in (a[0], a.astype(np.float64) / 3, a[0, 0, 0]):
        for name in ("add_forward", "add_backward"):
            found, expected = (getattr(ops, name)(a, b) for ops in (fast, reference))
            assert found.dtype == expected.dtype
            assert_array_equal(found, expected, strict=True)
    with pytest.raises(ValueError, match="broadcast"):
        fast.add_backward(a, a[:3])


def test_a_rectified_gradient_of_another_shape_is_the_reference_s(rng):
    y = rng.standard_normal((4, 3, 5))
    assert_array_equal(fast.relu_backward(y[0], y), reference.relu_backward(y[0], y), strict=True)
    with pytest.raises(ValueError, match="broadcast"):
        fast.relu_backward(y[:3], y)


def test_a_single_number_stays_one_without_axes():
    one = np.array(-2.0, np.float32)
    y, cache = fast.relu_forward(one)
    assert y.shape == fast.relu_backward(one, cache).shape == fast.add_forward(one, one).shape == ()
    assert (y, fast.add_forward(one, one)) == (0, -4)
