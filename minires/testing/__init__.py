"""For people's own tests: the promises every layer keeps, and Hypothesis strategies for shapes.

    from minires.testing import assert_layer_contract

    def test_my_layer():
        assert_layer_contract(MyLayer(), x)

`CONTRACT` is the list of promises; each is a function (layer, x) that raises AssertionError.
Needs Hypothesis: pip install "minires[test]".
"""

from minires.gradcheck import assert_gradients, check_gradients
from minires.testing.assertions import assert_adjoint, assert_within_rounding
from minires.testing.contract import CONTRACT, assert_layer_contract, contents
from minires.testing.strategies import (
    array_layouts,
    convolutions,
    image_shapes,
    normal_arrays,
    paddings,
    pools,
    strides,
)

__all__ = [
    "CONTRACT",
    "array_layouts",
    "assert_adjoint",
    "assert_gradients",
    "assert_layer_contract",
    "assert_within_rounding",
    "check_gradients",
    "contents",
    "convolutions",
    "image_shapes",
    "normal_arrays",
    "paddings",
    "pools",
    "strides",
]
