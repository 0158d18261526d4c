"""The common battery: every promise of `minires.testing.CONTRACT`, for every sample layer."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minires import ops
from minires.gradcheck import assert_gradients
from minires.samples import layer_samples, loss_samples
from minires.testing import CONTRACT

OPS = {"reference": ops.reference, "fast": ops.fast}


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", layer_samples())
@pytest.mark.parametrize("which", OPS)
def test_every_layer_keeps_every_promise(which, name, promise, rng):
    layer, shape = layer_samples(ops=OPS[which])[name]
    promise(layer, rng.standard_normal(shape))


@pytest.mark.parametrize("name", loss_samples())
@pytest.mark.parametrize("which", OPS)
def test_the_gradient_of_every_loss_is_right(which, name):
    loss, prediction, labels = loss_samples(ops=OPS[which])[name]
    assert_gradients(loss, prediction, labels)


@pytest.mark.parametrize("name", loss_samples())
def test_every_loss_keeps_float32_and_refuses_a_second_backward(name):
    loss, prediction, labels = loss_samples(dtype=np.float32)[name]
    assert isinstance(loss.forward(prediction, labels), float)
    assert loss.backward().dtype == np.float32
    with pytest.raises(RuntimeError, match="expects a forward before it"):
        loss.backward()


@pytest.mark.parametrize("name", layer_samples())
def test_every_layer_draws_itself(name):
    layer, _ = layer_samples()[name]
    assert repr(layer).startswith(type(layer).__name__ + "(")
    assert "object at" not in repr(layer)


@pytest.mark.parametrize("name", layer_samples())
def test_every_layer_can_be_pickled(name, rng):
    layer, shape = layer_samples()[name]
    x = rng.standard_normal(shape)
    assert_array_equal(pickle.loads(pickle.dumps(layer)).forward(x), layer.forward(x))
