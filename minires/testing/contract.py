"""The promises that every layer keeps. Each works on copies, so that they can run in any order."""

import copy

import numpy as np

from minires.core import Observer, observe, retain_caches
from minires.gradcheck import assert_gradients
from minires.testing.strategies import backwards, read_only, sliced


def assert_layer_contract(layer, x, *, allow_vacuous=()):
    """All promises of `CONTRACT`, for a `minires.Layer` and an input.

    Parameters
    ----------
    layer : Layer
        With float64 Parameters, if any; not changed.
    x : float64 array
    allow_vacuous : collection of str
        Parameters whose gradient is truly 0, such as a bias in front of a batch norm.
    """
    gradients_are_right(layer, x, allow_vacuous=allow_vacuous)
    for promise in CONTRACT:
        if promise is not gradients_are_right:
            promise(layer, x)


def gradients_are_right(layer, x, allow_vacuous=()):
    """Of the input and of every Parameter, in training and in inference mode."""
    for training in (True, False):
        assert_gradients(layer, x, training=training, allow_vacuous=allow_vacuous)


def float32_stays_float32(layer, x):
    """Output, dx, gradients and state have the dtype of the input."""
    layer = layer.astype(np.float32)
    y, dx, grads = run(layer, x.astype(np.float32))
    state = [a for _, part in layer.named_layers() for a in vars(part).values()]
    arrays = [y, dx, *grads] + [a for a in state if isinstance(a, np.ndarray)]
    dtypes = {a.dtype for a in arrays}
    assert dtypes == {np.dtype(np.float32)}, f"found {sorted(map(str, dtypes))}"


def layout_does_not_matter(layer, x):
    """Fortran order, slices, negative strides and read-only arrays give the same numbers."""
    expected = run(copy.deepcopy(layer), x)
    for layout in (np.asfortranarray, sliced, backwards, read_only):
        got = run(copy.deepcopy(layer), layout(x), layout)
        for a, b in zip(flat(expected), flat(got), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12, err_msg=layout.__name__)


def arguments_are_left_alone(layer, x):
    """Neither x nor dy is written to."""
    layer, given = copy.deepcopy(layer), x.copy()
    y = layer.forward(given, training=True)
    dy = some_dy(y)
    upstream = dy.copy()
    layer.backward(upstream)
    np.testing.assert_array_equal(given, x, err_msg="forward or backward wrote to x")
    np.testing.assert_array_equal(upstream, dy, err_msg="backward wrote to dy")


def gradients_accumulate(layer, x):
    """A second pass adds the same again."""
    layer = copy.deepcopy(layer)
    start = layer.snapshot()
    _, _, once = run(layer, x)
    once = [grad.copy() for grad in once]
    layer.restore(start)
    _, _, twice = run(layer, x)
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-12, atol=1e-300)


def observing_changes_no_bit(layer, x):
    """Outputs, dx and gradients are the same with an observer, which sees both passes."""
    expected = run(copy.deepcopy(layer), x)
    watched, seen = copy.deepcopy(layer), []

    class Watch(Observer):
        def after_forward(self, layer, x, y, training):
            seen.append((layer, "forward"))

        def after_backward(self, layer, dy, dx):
            seen.append((layer, "backward"))

    with observe(watched, Watch()):
        got = run(watched, x)
    for a, b in zip(flat(expected), flat(got), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {(watched, "forward"), (watched, "backward")} <= set(seen), "a pass was not observed"
    assert all(not part.observers for _, part in watched.named_layers()), "observer left behind"


def one_backward_per_forward(layer, x):
    """Backward before forward and a second backward are refused; retained caches allow it."""
    layer = copy.deepcopy(layer)
    refuses(RuntimeError, "forward before it", lambda: layer.backward(x))
    y = run(layer, x)[0]
    refuses(RuntimeError, "forward before it", lambda: layer.backward(some_dy(y)))
    with retain_caches(layer):
        y = layer.forward(x)
        first, second = layer.backward(some_dy(y)), layer.backward(some_dy(y))
        np.testing.assert_array_equal(first, second)
    refuses(RuntimeError, "forward before it", lambda: layer.backward(some_dy(y)))


def wrong_dy_is_refused(layer, x):
    """A dy of another shape or dtype is refused, and the right one still accepted."""
    layer = copy.deepcopy(layer)
    y = layer.forward(x, training=True)
    dy = some_dy(y)
    refuses(ValueError, "expects dy of shape", lambda: layer.backward(dy[:-1]))
    refuses(ValueError, "expects dy of dtype", lambda: layer.backward(dy.astype(np.float32)))
    layer.backward(dy)


def wrong_x_is_refused(layer, x):
    """No array, integers, an empty batch and a mixed dtype are refused; nothing changes."""
    layer = copy.deepcopy(layer)
    before = contents(layer)
    refuses(TypeError, "NumPy array", lambda: layer.forward(x.tolist(), training=True))
    refuses(ValueError, "dtype", lambda: layer.forward(x.astype(int), training=True))
    refuses(ValueError, "empty", lambda: layer.forward(x[:0], training=True))
    if layer.parameters():
        single = x.astype(np.float32)
        refuses(ValueError, "dtype float64", lambda: layer.forward(single, training=True))
    assert contents(layer) == before, "a refused input changed the layer"


def inference_changes_nothing(layer, x):
    """Without training=True the same input gives the same output and no state moves."""
    layer = copy.deepcopy(layer)
    before = contents(layer)
    first, second = layer.forward(x), layer.forward(x)
    np.testing.assert_array_equal(first, second)
    assert contents(layer) == before, "inference changed the layer"


def copies_are_equal(layer, x):
    """A deep copy gives the same numbers, and shares nothing with the original."""
    twin = copy.deepcopy(layer)
    np.testing.assert_array_equal(twin.forward(x), layer.astype(np.float64).forward(x))
    for mine, its in zip(layer.parameters(), twin.parameters(), strict=True):
        assert not np.shares_memory(mine.value, its.value)
        assert not np.shares_memory(mine.grad, its.grad)


CONTRACT = [
    gradients_are_right,
    float32_stays_float32,
    layout_does_not_matter,
    arguments_are_left_alone,
    gradients_accumulate,
    observing_changes_no_bit,
    one_backward_per_forward,
    wrong_dy_is_refused,
    wrong_x_is_refused,
    inference_changes_nothing,
    copies_are_equal,
]


def run(layer, x, layout=np.ascontiguousarray):
    """y, dx and the gradients of one training pass with a random dy."""
    y = layer.forward(x, training=True)
    dx = layer.backward(layout(some_dy(y)))
    return y, dx, [parameter.grad for parameter in layer.parameters()]


def contents(layer):
    """Everything in a layer that must not change by itself, in a form that can be compared."""
    arrays = [a for p in layer.parameters() for a in (p.value, p.grad)]
    for _, part in layer.named_layers():
        arrays += [a for a in vars(part).values() if isinstance(a, np.ndarray)]
    return [a.tobytes() for a in arrays], repr(layer.snapshot())


def flat(result):
    """y, dx and the gradients in one list."""
    y, dx, grads = result
    return [y, dx, *grads]


def some_dy(y):
    """A random upstream gradient, never all ones: a sum has no gradient through batch norm."""
    return np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)


def refuses(kind, part, call):
    """Assert that `call()` raises `kind` with `part` in its message."""
    try:
        call()
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"expected {kind.__name__} ({part}), got no error")
    assert part in message, f"expected {part!r} in the message, got {message!r}"
