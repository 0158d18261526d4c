"""The leading singular values of a layer's Jacobian, from products with it and its transpose."""

import contextlib
import copy
import math

import numpy as np

from minires.checks import as_rng, expect_array, expect_int, expect_number
from minires.core import Observer, observe
from minires.flow.paths import in_layer, repeatable
from minires.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    MaxPool2d,
    PadShortcut,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from minires.layers.containers import expect_layer
from minires.layers.fused import window as conv_options
from minires.ops.reference.conv import pad, windows
from minires.ops.reference.pool import flat_cells

OVERSAMPLING = 4  # vectors in a block beyond those that are wanted: they speed up the last of them
MOST_ROWS = 2048  # of the Jacobian of one layer without a rule, each a backward pass
MOST_NUMBERS = 2**25  # in the Jacobians of all of them: 256 MB


def jacobian_singular_values(
    layer, x, count=6, *, training=False, block_size=None, tolerance=1e-8, rng=0
):
    """The `count` largest singular values of dy/dx at x, the whole batch being one vector.

    Parameters
    ----------
    layer : Layer
        A layer, block or network in float64. Left as it was.
    x : (N, ...) float64
    count : int
        At most the smaller of x.size and y.size.
    training : bool
        The mode of the forward pass.
    block_size : int, optional
        Vectors in a block, at least `count`; `count` + 4 if left out. A value that is there r times
        is found at most `block_size` times.
    tolerance : float
        Stop when no wanted value has changed by more than this share of the largest, twice.
    rng : None, int or numpy.random.Generator
        Draws the first block.

    Returns
    -------
    values : (count,) float64
        Descending.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    With J the Jacobian, block Krylov: an orthonormal basis Q of the space of B, J^T J B,
    (J^T J)^2 B, ... for a random block B; the singular values of J Q grow towards those of J from
    below. New vectors are made orthogonal to all before them, twice. J v comes from `push`, J^T u
    from `layer.backward`; the J of the whole is never formed. A layer of a kind that is not in
    `RULES`, such as a user's, gets J v from its own backward or, if it is large, from differences:
    see `without_rule`.

    Why blocks: a space that grows from one vector contains one direction for each *distinct* value,
    and Jacobians repeat theirs (global average pooling has 1 / sqrt(H W), N C times over).

    References
    ----------
    Musco and Musco (2015), arXiv:1504.05477, algorithm 2.
    """
    owner = "jacobian_singular_values"
    count = expect_int(owner, "count", count)
    block_size = count + OVERSAMPLING if block_size is None else block_size
    block_size = expect_int(owner, "block_size", block_size, at_least=count)
    tolerance = expect_number(owner, "tolerance", tolerance, above=0)
    rng = as_rng(owner, rng)
    with linearised(owner, layer, x, training) as (y, seen):
        if count > min(x.size, y.size):
            raise ValueError(
                f"{owner} expects count <= {min(x.size, y.size)}, the smaller size of the "
                f"Jacobian {y.size} x {x.size}, got {count}"
            )

        def times(columns):  # J V, (y.size, b)
            return stack(push(layer, v.reshape(x.shape), seen) for v in columns.T)

        def transposed_times(columns):  # J^T U, (x.size, b)
            return stack(layer.backward(u.reshape(y.shape)) for u in columns.T)

        block = rng.standard_normal((x.size, min(block_size, x.size)))
        return krylov(times, transposed_times, block, count, tolerance)


def krylov(times, transposed_times, block, count, tolerance):
    """The leading singular values of a matrix given by its products."""
    basis, images, values, quiet = [], [], None, 0
    while quiet < 2:
        new = orthonormal_part(block, basis)
        if not new.shape[1]:  # nothing is left, or nothing that the matrix leads to
            break
        image = times(new)
        basis, images = [*basis, new], [*images, image]
        before, values = values, np.linalg.svd(np.hstack(images), compute_uv=False)[:count]
        still = before is not None and abs(values - before).max() <= tolerance * values[0]
        quiet = quiet + 1 if still else 0
        block = transposed_times(image)
    return values


def orthonormal_part(block, basis):
    """What is new in the columns of `block`: orthonormal, and orthogonal to all of `basis`."""
    scale = np.linalg.norm(block)
    for _ in range(2):  # the second time takes away what rounding left of the first
        for old in basis:
            block = block - old @ (old.T @ block)
        block, sizes, _ = np.linalg.svd(block, full_matrices=False)
        block = block[:, sizes > 1e-12 * scale]
        scale = 0
    return block


def dense_jacobian(layer, x, *, training=False):
    """The Jacobian dy/dx at x, row by row from backward passes: for small layers.

    Parameters
    ----------
    layer : Layer
        In float64. Left as it was.
    x : (N, ...) float64
    training : bool

    Returns
    -------
    jacobian : (y.size, x.size) float64
    """
    with linearised("dense_jacobian", layer, x, training) as (y, _):
        return row_by_row(layer, y.shape, x.size)


def row_by_row(layer, y_shape, x_size):
    """(y.size, x.size): row i is what the backward pass makes of the i-th unit vector."""
    jacobian = np.empty((math.prod(y_shape), x_size))
    for i, row in enumerate(jacobian):
        unit = np.zeros(y_shape)
        unit.flat[i] = 1
        row[...] = layer.backward(unit).ravel()
    return jacobian


def jvp(layer, x, v, *, training=False):
    """J v: how y moves when x moves along v; the counterpart of `backward`, which gives J^T dy.

    Parameters
    ----------
    layer : Layer
        In float64. Left as it was.
    x, v : (N, ...) float64
    training : bool

    Returns
    -------
    dy : like y

    Notes
    -----
    By the chain rule through Sequentials and Residuals, and a rule for each kind of layer; for
    layers without one see `without_rule`.
    """
    with linearised("jvp", layer, x, training) as (_, seen):
        expect_array("jvp", "v", v, x.shape, dtype=x.dtype, like="x")
        return push(layer, v, seen)


# ---- J v, after a forward pass and while its caches are there


def push(layer, v, seen):
    """J v by the rule of the layer's kind."""
    return rule_of(layer)(layer, v, seen)


def rule_of(layer):
    """The rule for the maths that a layer does: a subclass with its own does not inherit one."""
    for kind, rule in RULES.items():
        same_forward = type(layer)._forward is kind._forward
        if same_forward and type(layer)._backward is kind._backward:
            return rule
    return without_rule


def through_sequential(layer, v, seen):
    """The chain rule."""
    for name, child in layer.children():
        with in_layer(name):
            v = push(child, v, seen)
    return v


def through_residual(layer, v, seen):
    """Both paths, and the sum."""
    with in_layer("shortcut"):
        shortcut = push(layer.shortcut, v, seen)
    with in_layer("branch"):
        return shortcut + push(layer.branch, v, seen)


def itself(layer, v, seen):
    """A linear layer is its own Jacobian."""
    return layer._forward(v, False)[0]


def without_bias(layer, v, seen):
    """What is linear in an affine layer."""
    if isinstance(layer, Dense):
        return layer.ops.dense_forward(v, layer.weight.value, None)[0]
    return layer.ops.conv2d_forward(v, layer.weight.value, None, **conv_options(layer))[0]


def symmetric(layer, v, seen):
    """J = J^T, so backward does it: diagonal, or in the same way symmetric, in each channel or row.

    ReLU and dropout: a mask. Batch norm: gamma rstd (1 - 11^T / M - xhat xhat^T / M) in a channel.
    Softmax: diag(p) - p p^T in a row.
    """
    return layer.backward(v)


def at_the_winner(layer, v, seen):
    """The number of v at the pixel that is the largest of x in each window."""
    winner, _, window = layer._cache[0]
    cells = flat_cells(windows(pad(v, window.padding), window))  # (N, OH, OW, KH*KW, C)
    return np.take_along_axis(cells, winner[:, :, :, None], axis=3)[:, :, :, 0]


def without_rule(layer, v, seen):
    """J v for a layer of any other kind, such as a user's.

    Its backward gives J^T u, and one for each number of y gives all of J, as exact as the backward
    is. That is done once, unless J has more than 2048 rows, or 2^25 numbers together with those of
    the layers in front: then `by_differences`.
    """
    if id(layer) in seen.functions:
        return by_differences(layer, v, seen)
    _, y_shape, _ = layer._cache
    if id(layer) not in seen.jacobians:
        seen.jacobians[id(layer)] = row_by_row(layer, y_shape, v.size)
    return (seen.jacobians[id(layer)] @ v.ravel()).reshape(y_shape)


def by_differences(layer, v, seen):
    """(f(x + h v) - f(x - h v)) / 2h with the layer's own forward, on a copy.

    The largest number of h v is 6e-6 of the largest in x (of 1 if that is smaller): the cube root
    of the rounding error, where it and the curvature together do least. About ten digits are right
    where f is smooth and the numbers in x are of one size. Where they are not, the step is long for
    the small ones: tanh at 0.5 has three digits beside an x of 1e4. So it is within a step of a
    kink: |x| at 1e-7 has none.
    """
    x, f = seen.inputs[id(layer)], seen.functions[id(layer)]
    largest = abs(v).max()
    if largest == 0:
        return np.zeros_like(f(x))
    h = np.cbrt(np.finfo(np.float64).eps) * max(1, abs(x).max()) / largest
    return (f(x + h * v) - f(x - h * v)) / (2 * h)


RULES = {
    Sequential: through_sequential,
    Residual: through_residual,
    Conv2d: without_bias,
    Dense: without_bias,
    AvgPool2d: itself,
    GlobalAvgPool2d: itself,
    Flatten: itself,
    Identity: itself,
    PadShortcut: itself,
    ReLU: symmetric,
    BatchNorm2d: symmetric,
    Softmax: symmetric,
    Dropout: symmetric,
    MaxPool2d: at_the_winner,
}


class Seen(Observer):
    """What is known of the layers without a rule: all of J, or for differences x and a copy.

    Attributes
    ----------
    jacobians : {id of a layer: (y.size, x.size) array}
        Filled as they are asked for.
    numbers : int
        There will be in them.
    inputs : {id of a layer: (N, ...) array}
        Of those whose Jacobian is too large to keep.
    functions : {id of a layer: callable}
        x -> y of the same, in the mode of the forward pass and with the random numbers of it.
    """

    coarse = True

    def __init__(self, layer):
        layers = [inner for _, inner in layer.named_layers()]
        twins = [inner for _, inner in copy.deepcopy(layer).named_layers()]
        self.twins = {id(inner): twin for inner, twin in zip(layers, twins, strict=True)}
        self.jacobians, self.inputs, self.functions = {}, {}, {}
        self.numbers = 0

    def after_forward(self, layer, x, y, training):
        if rule_of(layer) is not without_rule:
            return
        size = y.size * x.size
        if y.size <= MOST_ROWS and self.numbers + size <= MOST_NUMBERS:
            self.numbers += size
            return
        self.inputs[id(layer)] = x.copy()
        self.functions[id(layer)] = f = repeated(self.twins[id(layer)], training)
        if not np.array_equal(f(x), y, equal_nan=True):
            raise ValueError(
                f"products with the Jacobian of a {type(layer).__name__} this large come from "
                f"differences, which expect a forward that repeats itself, got another output for "
                f"the same x"
            )


def repeated(twin, training):
    """The forward of a layer as a function: the same random numbers in every call."""
    start = twin.snapshot()

    def function(x):
        y = twin.forward(x, training=training)
        twin.restore(start)
        return y

    return function


@contextlib.contextmanager
def linearised(owner, layer, x, training):
    """(y, Seen) inside a block in which `layer.backward` and `push` can be called repeatedly."""
    expect_layer(owner, "layer", layer)
    expect_float64(owner, layer, x)
    with repeatable(layer):
        with observe(layer, Seen(layer)) as seen:
            y = layer.forward(x, training=training)
        if not np.isfinite(y).all():
            raise ValueError(f"{owner} expects finite numbers, got NaN or infinity in y")
        yield y, seen


def expect_float64(owner, layer, x):
    """Refuse float32, in which the small singular values would drown in rounding."""
    expect_array(owner, "x", x)
    kinds = {str(parameter.dtype) for parameter in layer.parameters()} - {"float64"}
    if kinds or x.dtype != np.float64:
        raise ValueError(
            f"{owner} expects x and the layer in float64, got x of {x.dtype} and Parameters of "
            f"{kinds.pop() if kinds else 'float64'}: use x.astype(np.float64) and "
            f"layer.astype(np.float64)"
        )


def stack(vectors):
    """Arrays as the columns of a matrix."""
    return np.stack([vector.ravel() for vector in vectors], axis=1)
