"""Parameter, Layer, Observer: paths, errors, caches, copies, state."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minires
from minires.core import Layer, Observer, Parameter, observe, retain_caches
from minires.layers import BatchNorm2d, Conv2d, Dense, Dropout, ReLU, Residual, Sequential


class Scale(Layer):
    """A user's layer: y = x * factor."""

    def __init__(self):
        self.factor = Parameter(np.full(3, 2.0))

    def _forward(self, x, training):
        return x * self.factor.value, x

    def _backward(self, dy, x):
        self.factor.grad += (dy * x).sum(axis=0)
        return dy * self.factor.value


def small_model(dtype=np.float64):
    options = {"rng": 0, "dtype": dtype}
    block = Residual(
        Sequential(conv1=Conv2d(4, 4, 3, padding=1, **options), norm=BatchNorm2d(4, dtype=dtype))
    )
    return Sequential(stem=Conv2d(3, 4, 3, padding=1, **options), block0=block, relu=ReLU())


def test_a_users_layer_needs_three_methods_and_no_call_of_init(rng):
    layer = Scale()
    y = layer.forward(rng.standard_normal((4, 3)))
    layer.backward(y)
    assert [path for path, _ in layer.named_parameters()] == ["factor"]
    assert (layer.factor.grad != 0).all()


def test_paths_follow_names():
    model = small_model()
    assert [path for path, _ in model.named_parameters()] == [
        "stem.weight",
        "stem.bias",
        "block0.branch.conv1.weight",
        "block0.branch.conv1.bias",
        "block0.branch.norm.gamma",
        "block0.branch.norm.beta",
    ]
    assert [path for path, _ in model.named_layers()] == [
        "",
        "stem",
        "block0",
        "block0.branch",
        "block0.branch.conv1",
        "block0.branch.norm",
        "block0.shortcut",
        "relu",
    ]


def test_repr_draws_the_model():
    assert repr(small_model()) == (
        "Sequential(\n"
        "    stem=Conv2d(3, 4, 3, stride=1, padding=1),\n"
        "    block0=Residual(\n"
        "        branch=Sequential(\n"
        "            conv1=Conv2d(4, 4, 3, stride=1, padding=1),\n"
        "            norm=BatchNorm2d(4, eps=1e-05, momentum=0.1),\n"
        "        ),\n"
        "        shortcut=Identity(),\n"
        "    ),\n"
        "    relu=ReLU(),\n"
        ")"
    )


def test_an_error_carries_the_path_of_its_layer():
    model = Sequential(stage=Sequential(block=Residual(Sequential(ReLU(), fc=Dense(5, 4, rng=0)))))
    with pytest.raises(ValueError, match="Dense expects x of shape") as caught:
        model.forward(np.zeros((2, 4), np.float32))
    assert caught.value.__notes__ == ["in layer stage.block.branch.fc"]


def test_an_error_in_the_backward_pass_carries_the_path_too(rng):
    class Broken(ReLU):
        def _backward(self, dy, cache):
            raise ArithmeticError("no gradient today")

    model = Sequential(first=ReLU(), block=Residual(Sequential(bad=Broken())))
    model.forward(rng.standard_normal((2, 3)))
    with pytest.raises(ArithmeticError) as caught:
        model.backward(np.ones((2, 3)))
    assert caught.value.__notes__ == ["in layer block.branch.bad"]


def test_a_failed_forward_leaves_running_statistics_and_random_streams(rng):
    model = Sequential(
        norm=BatchNorm2d(3, dtype=np.float64),
        dropout=Dropout(0.5, rng=0),
        fc=Conv2d(4, 2, 1, rng=0, dtype=np.float64),
    )
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match="Conv2d expects x of shape"):
        model.forward(rng.standard_normal((2, 4, 4, 3)), training=True)
    assert pickle.dumps(model) == before
    with pytest.raises(RuntimeError, match="forward before it"):
        model.backward(np.ones((2, 4, 4, 2)))


def test_a_failed_forward_forgets_the_forward_before(rng):
    model = Sequential(ReLU(), Dense(3, 2, rng=0, dtype=np.float64))
    y = model.forward(rng.standard_normal((4, 3)))
    with pytest.raises(ValueError, match="expects x of shape"):
        model.forward(rng.standard_normal((4, 5)))
    with pytest.raises(RuntimeError, match="forward before it"):
        model.backward(y)


def test_observers_see_every_layer_inside_out_and_come_off_after_an_error(rng):
    seen = []

    class Watch(Observer):
        def after_forward(self, layer, x, y, training):
            seen.append((type(layer).__name__, training))

    model = small_model()

    def watch_until_it_fails():
        with observe(model, Watch()):
            model.forward(rng.standard_normal((2, 5, 5, 3)), training=True)
            model.forward(rng.standard_normal((2, 5, 5, 9)))

    with pytest.raises(ValueError, match="expects x of shape"):
        watch_until_it_fails()
    assert [name for name, _ in seen] == [
        "Conv2d",
        "Identity",
        "Conv2d",
        "BatchNorm2d",
        "Sequential",
        "Residual",
        "ReLU",
        "Sequential",
    ]
    assert all(training for _, training in seen)
    assert all(layer.observers == () for _, layer in model.named_layers())


def test_an_observer_is_told_before_a_layer_looks_at_its_input(rng):
    class Before(Observer):
        def __init__(self):
            self.seen = []

        def before_forward(self, layer, x, training):
            self.seen.append((type(layer).__name__, x.shape, training))

    model = Sequential(Dense(3, 2, rng=0, dtype=np.float64))
    with observe(model, Before()) as before:
        model.forward(rng.standard_normal((4, 3)), training=True)
        with pytest.raises(ValueError, match="expects x"):
            model.forward(rng.standard_normal((4, 5)))
    first, second = (
        [("Sequential", (4, 3), True), ("Dense", (4, 3), True)],
        [("Sequential", (4, 5), False)],
    )
    assert before.seen == [*first, *second, ("Dense", (4, 5), False)]


def test_an_observer_that_is_forward_only_costs_no_input_gradient(rng):
    class Counts(Dense):
        def _backward_parameters(self, dy, cache):
            self.spared = True

        def _backward(self, dy, cache):
            return super()._backward(dy, cache)

    class ForwardOnly(Observer):
        forward_only = True

    for observer, spared in ((ForwardOnly(), True), (Observer(), False)):
        layer = Counts(3, 2, rng=0, dtype=np.float64)
        layer.spared = False
        with observe(layer, observer):
            layer.backward(layer.forward(rng.standard_normal((4, 3))), input_gradient=False)
        assert layer.spared == spared


def test_observers_can_be_nested(rng):
    model = ReLU()
    with observe(model, Observer()) as outer:
        with observe(model, Observer()) as inner:
            assert model.observers == (outer, inner)
        assert model.observers == (outer,)


def test_retained_caches_allow_many_backwards_and_are_freed(rng):
    model = small_model()
    y = model.forward(rng.standard_normal((2, 5, 5, 3)))
    with retain_caches(model):
        y = model.forward(rng.standard_normal((2, 5, 5, 3)))
        first, second = model.backward(y), model.backward(y)
    assert_array_equal(first, second)
    with pytest.raises(RuntimeError, match="forward before it"):
        model.backward(y)


def test_the_identity_gradient_of_a_residual_block_is_dy_itself(rng):
    block, seen = Residual(Scale()), {}

    class Watch(Observer):
        def after_backward(self, layer, dy, dx):
            seen[layer] = dy, dx

    dy = rng.standard_normal((4, 3))
    with observe(block, Watch()):
        block.forward(rng.standard_normal((4, 3)))
        dx = block.backward(dy)
    assert_array_equal(seen[block.shortcut][1], dy)
    assert_array_equal(dx, dy + seen[block.branch][1])


def test_astype_copies_into_another_dtype(rng):
    model = small_model(np.float32)
    twin = model.astype(np.float64)
    dtypes = {p.dtype for p in twin.parameters()} | {twin.block0.branch.norm.running_var.dtype}
    assert dtypes == {np.dtype(np.float64)}
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    x = rng.standard_normal((2, 5, 5, 3))
    np.testing.assert_allclose(
        model.forward(x.astype(np.float32)), twin.forward(x), rtol=1e-4, atol=1e-4
    )


def test_copies_leave_caches_and_observers_behind(rng):
    model = small_model()
    with observe(model, Observer()):
        y = model.forward(rng.standard_normal((2, 5, 5, 3)))
        twin = copy.deepcopy(model)
    assert twin.observers == ()
    with pytest.raises(RuntimeError, match="forward before it"):
        twin.backward(y)
    model.backward(y)


def test_snapshot_and_restore_bring_back_state(rng):
    model = Sequential(BatchNorm2d(3, dtype=np.float64), Dropout(0.5, rng=0))
    x = rng.standard_normal((4, 5, 5, 3))
    start = model.snapshot()
    first = model.forward(x, training=True)
    mean = model[0].running_mean.copy()
    model.restore(start)
    assert_array_equal(model.forward(x, training=True), first)
    assert_array_equal(model[0].running_mean, mean)


def test_a_parameter_keeps_shape_and_dtype():
    parameter = Parameter(np.zeros((2, 3)), role="bias")
    parameter.value = np.ones((2, 3))
    assert (parameter.shape, parameter.size, parameter.role) == ((2, 3), 6, "bias")
    for wrong in (np.ones((3, 2)), np.ones((2, 3), np.float32), [[1, 1, 1]] * 2):
        with pytest.raises(ValueError, match=r"expects value of shape and dtype \(2, 3\) float64"):
            parameter.value = wrong
    with pytest.raises(ValueError, match="expects grad of shape"):
        parameter.grad = np.zeros(3)
    assert (parameter.value == 1).all()


def test_a_parameter_copies_its_array():
    array = np.zeros(3)
    parameter = Parameter(array)
    parameter.value += 1
    assert (array == 0).all()


def test_sequential_is_a_sequence():
    model = Sequential(ReLU(), last=Dense(2, 3, rng=0))
    assert len(model) == 2
    assert model["last"] is model[1] is model.last
    assert [type(layer).__name__ for layer in model] == ["ReLU", "Dense"]
    assert repr(model).splitlines()[1:3] == ["    ReLU(),", "    last=Dense(2, 3),"]


def test_an_empty_sequential_is_the_identity(rng):
    x = rng.standard_normal((2, 3))
    model = Sequential()
    assert_array_equal(model.forward(x), x)
    assert_array_equal(model.backward(x), x)


def test_a_parameter_that_two_layers_share_stays_shared_in_another_dtype():
    model = Sequential(Dense(3, 3, rng=0), Dense(3, 3, rng=1))
    model[1].weight = model[0].weight
    twin = model.astype(np.float64)
    assert twin[1].weight is twin[0].weight
    assert len(twin.parameters()) == len(model.parameters()) == 3


def test_an_observer_that_fails_leaves_running_statistics(rng):
    class Fails(Observer):
        def after_forward(self, layer, x, y, training):
            raise ArithmeticError("too much to see")

    norm = BatchNorm2d(3, dtype=np.float64)
    with observe(norm, Fails()), pytest.raises(ArithmeticError):
        norm.forward(rng.standard_normal((4, 3)), training=True)
    assert_array_equal(norm.running_mean, 0)


def test_a_slice_of_a_sequential_is_a_sequential_of_the_same_layers():
    model = Sequential(a=ReLU(), b=Dense(3, 2, rng=0), c=ReLU())
    part = model[1:]
    assert [name for name, _ in part.children()] == ["b", "c"]
    assert part.b is model.b


def test_adding_to_a_gradient_keeps_its_array():
    parameter = Parameter(np.zeros(3))
    before = parameter.grad
    parameter.grad += 1
    assert parameter.grad is before
    given = np.ones(3)
    parameter.value = given
    parameter.value += 1
    assert (given == 1).all()


def test_retained_caches_are_freed_after_an_error_and_can_be_nested(rng):
    model, x = small_model(), rng.standard_normal((2, 5, 5, 3))

    def fail():
        with retain_caches(model):
            model.forward(x)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    with pytest.raises(RuntimeError, match="forward before it"):
        model.backward(np.ones((2, 5, 5, 4)))
    with retain_caches(model):
        y = model.forward(x)
        with retain_caches(model):
            model.backward(y)
        model.backward(y)
        twin = copy.deepcopy(model)
    twin.backward(twin.forward(x))
    with pytest.raises(RuntimeError, match="forward before it"):
        twin.backward(y)


def test_values_and_gradients_never_become_one_array():
    parameter = Parameter(np.ones(3))
    parameter.grad += 2
    parameter.value = parameter.grad
    parameter.grad[...] = 0
    assert (parameter.value == 2).all()
    parameter.grad = parameter.value
    assert not np.shares_memory(parameter.grad, parameter.value)


def test_a_layer_can_be_called():
    assert (ReLU()(np.array([-1.0, 2.0])) == [0, 2]).all()


@pytest.mark.parametrize("result", [np.ones(3), (np.ones(3),), ([1.0], None), None])
def test_a_forward_that_returns_no_output_and_cache_is_told_so(result):
    class Forgets(Layer):
        def _forward(self, x, training):
            return result

    with pytest.raises(TypeError, match=r"Forgets\._forward expects to return \(y, cache\), y a"):
        Forgets().forward(np.ones(3))


def test_one_layer_cannot_be_put_into_two_places_later():
    model = Sequential(ReLU(), ReLU())
    with pytest.raises(ValueError, match="each layer in one place"):
        setattr(model, "0", model[1])


class TestWithoutInputGradient:
    """`backward(dy, input_gradient=False)`: the gradients of the Parameters, and no dx."""

    def grads(self, model, x, dy, **options):
        for parameter in model.parameters():
            parameter.grad[...] = 0
        model.forward(x, training=True)
        dx = model.backward(dy, **options)
        return dx, [parameter.grad.copy() for parameter in model.parameters()]

    @pytest.mark.parametrize("fused", [False, True])
    def test_parameters_get_the_same_gradients(self, fused, rng):
        model = minires.models.resnet8(rng=0, input_shape=(9, 8, 3))
        model = minires.fuse(model) if fused else model
        x = rng.standard_normal((4, 9, 8, 3), dtype=np.float32)
        dy = rng.standard_normal((4, 10), dtype=np.float32)
        dx, expected = self.grads(model, x, dy)
        nothing, found = self.grads(model, x, dy, input_gradient=False)
        assert dx.shape == x.shape
        assert nothing is None
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_a_backward_of_one_s_own_is_used(self, rng):
        class Doubled(Sequential):
            def _backward(self, dy, cache):
                return super()._backward(2 * dy, cache)

        x, dy = rng.standard_normal((2, 3)), rng.standard_normal((2, 4))
        plain = Sequential(Dense(3, 4, rng=0)).astype(np.float64)
        model = Doubled(Dense(3, 4, rng=0)).astype(np.float64)
        _, expected = self.grads(plain, x, 2 * dy)
        _, found = self.grads(model, x, dy, input_gradient=False)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_observers_still_see_dx(self, rng):
        class Sees(Observer):
            shapes = ()

            def after_backward(self, layer, dy, dx):
                self.shapes += (dx.shape,)

        model = Sequential(Conv2d(2, 3, 3, rng=0), ReLU())
        x = rng.standard_normal((2, 5, 5, 2), dtype=np.float32)
        with observe(model, Sees()) as seen:
            y = model.forward(x, training=True)
            assert model.backward(y, input_gradient=False) is None
        assert seen.shapes == ((2, 3, 3, 3), (2, 5, 5, 2), (2, 5, 5, 2))

    def test_an_empty_sequence_has_nothing_to_do(self, rng):
        model, x = Sequential(), rng.standard_normal((2, 3))
        model.forward(x)
        assert model.backward(x, input_gradient=False) is None
