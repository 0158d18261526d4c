"""Dense, ReLU, dropout, the padding shortcut, softmax and softmax cross-entropy."""

import definitions
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops import reference
from minires.testing import (
    assert_adjoint,
    assert_within_rounding,
    image_shapes,
    normal_arrays,
    strides,
)

sizes = st.integers(1, 6)


@given(sizes, sizes, sizes, st.data())
def test_dense_equals_the_definition_and_its_gradients_are_adjoints(N, D, F, data):
    x, w, b, dy = (data.draw(normal_arrays(s)) for s in ((N, D), (D, F), (F,), (N, F)))
    y, cache = reference.dense_forward(x, w, b)
    assert_allclose(y, definitions.dense(x, w, b), rtol=1e-12, atol=1e-13)
    found = reference.dense_backward(dy, cache)
    for a, e in zip(found, definitions.dense_gradients(x, w, dy), strict=True):
        assert_allclose(a, e, rtol=1e-10, atol=1e-12)
    assert_adjoint(lambda x: x @ w, lambda _: found[0], x, dy)
    assert_adjoint(lambda w: x @ w, lambda _: found[1], w, dy)


@given(sizes, sizes, sizes, st.data())
def test_dense_in_float32_is_within_8_roundings(N, D, F, data):
    arrays = [data.draw(normal_arrays(s, np.float32)) for s in ((N, D), (D, F), (F,), (N, F))]
    x, w, b, dy = arrays
    y, cache = reference.dense_forward(x, w, b)
    found = [y, *reference.dense_backward(dy, cache)]
    exact, terms = [], []
    for results, part in ((exact, np.positive), (terms, np.abs)):
        x, w, b, dy = (part(a.astype(np.float64)) for a in arrays)
        results += [definitions.dense(x, w, b), *definitions.dense_gradients(x, w, dy)]
    for a, e, t in zip(found, exact, terms, strict=True):
        assert_within_rounding(a, e, t)


@given(sizes, st.integers(2, 6), st.data())
def test_softmax_equals_the_definition_in_both_dtypes(N, K, data):
    x, dy = data.draw(normal_arrays((N, K))), data.draw(normal_arrays((N, K)))
    p, cache = reference.softmax_forward(x)
    expected = definitions.softmax(x)
    assert_allclose(p, expected, rtol=1e-12)
    dx = definitions.softmax_gradient(expected, dy)
    assert_allclose(reference.softmax_backward(dy, cache), dx, rtol=1e-10, atol=1e-14)
    single, cache = reference.softmax_forward(x.astype(np.float32))
    # rounding x by eps |x| multiplies exp(x) by 1 + eps |x|
    assert_within_rounding(single, expected, expected * (2 + 2 * np.abs(x).max()))
    terms = expected * (np.abs(dy) + (np.abs(dy) * expected).sum(axis=1, keepdims=True))
    found = reference.softmax_backward(dy.astype(np.float32), cache)
    assert_within_rounding(found, dx, terms * (2 + 2 * np.abs(x).max()))


@given(sizes, st.integers(2, 6), st.data())
def test_softmax_cross_entropy_in_float32_is_within_8_roundings(N, K, data):
    logits = data.draw(normal_arrays((N, K), np.float32))
    targets = np.eye(K)[np.arange(N) % K]
    exact, dlogits = definitions.softmax_cross_entropy(logits.astype(np.float64), targets)
    loss, cache = reference.softmax_cross_entropy_forward(logits, targets.astype(np.float32))
    spread = 2 * np.abs(logits).max() + np.log(K) + 1
    assert_within_rounding(np.float32(loss).reshape(1), np.array([exact]), spread)
    found = reference.softmax_cross_entropy_backward(cache)
    assert_within_rounding(found, dlogits, (np.exp(0) + targets) / N * spread)


def test_the_mean_loss_of_many_rows_keeps_its_digits():
    logits = np.tile(np.array([[0.1, 0.7]], np.float32), (200_000, 1))
    targets = np.tile(np.eye(2, dtype=np.float32)[:1], (200_000, 1))
    loss, _ = reference.softmax_cross_entropy_forward(logits, targets)
    one, _ = reference.softmax_cross_entropy_forward(logits[:1], targets[:1])
    assert_allclose(loss, one, rtol=1e-7)


@given(image_shapes(), st.data())
def test_relu_keeps_what_is_positive_and_passes_its_gradient(shape, data):
    x, dy = data.draw(normal_arrays(shape)), data.draw(normal_arrays(shape))
    y, cache = reference.relu_forward(x)
    dx = reference.relu_backward(dy, cache)
    for index in np.ndindex(*shape):
        assert y[index] == max(x[index], 0)
        assert dx[index] == (dy[index] if x[index] > 0 else 0)


def test_relu_has_no_gradient_at_zero_and_lets_nan_through():
    y, cache = reference.relu_forward(np.array([0.0, np.nan]))
    assert np.isnan(y[1])
    assert reference.relu_backward(np.ones(2), cache)[0] == 0


@given(image_shapes(max_size=8), st.sampled_from([0.0, 0.25, 0.9]), st.integers(0, 100))
def test_dropout_zeroes_or_scales_and_sends_the_gradient_the_same_way(shape, rate, seed):
    x = np.random.default_rng(1).standard_normal(shape) + 10
    y, mask = reference.dropout_forward(x, rate=rate, rng=np.random.default_rng(seed))
    kept = y != 0
    assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-14)
    assert_array_equal(reference.dropout_backward(np.ones(shape), mask) != 0, kept)


def test_dropout_drops_the_share_that_was_asked_for(rng):
    y, _ = reference.dropout_forward(np.ones((100, 1000)), rate=0.3, rng=rng)
    assert abs((y == 0).mean() - 0.3) < 0.01  # 7 standard deviations
    assert abs(y.mean() - 1) < 0.01


@given(image_shapes(), strides(), st.integers(0, 3), st.data())
def test_the_padding_shortcut_picks_pixels_and_adds_zero_channels(shape, stride, more, data):
    x = data.draw(normal_arrays(shape))
    SH, SW = stride if isinstance(stride, tuple) else (stride, stride)
    C = shape[3]
    y, cache = reference.pad_shortcut_forward(x, stride=(SH, SW), channels=C + more)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            assert_array_equal(y[:, i, j, :C], x[:, i * SH, j * SW])
    assert y.shape[1:3] == (-(-shape[1] // SH), -(-shape[2] // SW))
    assert not y[..., C:].any()
    dy = data.draw(normal_arrays(y.shape))
    assert_adjoint(lambda _: y, lambda dy: reference.pad_shortcut_backward(dy, cache), x, dy)


@given(sizes, sizes, st.data())
def test_softmax_rows_are_distributions_and_dx_rows_sum_to_zero(N, K, data):
    x, dy = data.draw(normal_arrays((N, K))), data.draw(normal_arrays((N, K)))
    p, cache = reference.softmax_forward(100 * x)
    assert_allclose(p.sum(axis=1), 1, rtol=1e-14)
    assert (p >= 0).all()
    assert_allclose(reference.softmax_backward(dy, cache).sum(axis=1), 0, atol=1e-14)


@given(st.integers(1, 5), st.integers(2, 6), st.data())
def test_softmax_cross_entropy_equals_the_definition(N, K, data):
    logits = data.draw(normal_arrays((N, K)))
    targets = np.random.default_rng(data.draw(st.integers(0, 99))).dirichlet(np.ones(K), N)
    loss, cache = reference.softmax_cross_entropy_forward(logits, targets)
    expected, dlogits = definitions.softmax_cross_entropy(logits, targets)
    assert_allclose(loss, expected, rtol=1e-12)
    found = reference.softmax_cross_entropy_backward(cache)
    assert_allclose(found, dlogits, rtol=1e-10, atol=1e-13)
    assert_allclose(found.sum(axis=1), 0, atol=1e-15)


def test_softmax_cross_entropy_on_paper():
    loss, cache = reference.softmax_cross_entropy_forward(np.zeros((1, 4)), np.eye(4)[:1])
    assert_allclose(loss, np.log(4))
    assert_allclose(reference.softmax_cross_entropy_backward(cache), [[-0.75, 0.25, 0.25, 0.25]])
