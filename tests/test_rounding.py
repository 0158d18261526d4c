"""What float32 does to the gradients of a whole network: little, unless it flips a ReLU."""

import numpy as np
import pytest

from minires.core import Observer, observe
from minires.layers import ReLU
from minires.losses import SoftmaxCrossEntropy
from minires.models import resnet20


class Masks(Observer):
    """Which numbers each ReLU let pass."""

    def __init__(self):
        self.masks = []

    def after_forward(self, layer, x, y, training):
        if isinstance(layer, ReLU):
            self.masks.append(y > 0)


def masks_and_gradients(model, x, labels):
    loss = SoftmaxCrossEntropy()
    with observe(model, Masks()) as seen:
        loss.forward(model.forward(x, training=True), labels)
    model.backward(loss.backward())
    return seen.masks, [p.grad.astype(np.float64) for p in model.parameters()]


@pytest.mark.parametrize("seed", range(4))
def test_float32_gradients_are_within_1e_5_unless_rounding_flips_a_relu(seed):
    x = np.random.default_rng(seed).standard_normal((8, 16, 16, 3)).astype(np.float32)
    model, labels = resnet20(rng=seed, input_shape=(16, 16, 3)), np.arange(8)
    single, found = masks_and_gradients(model, x, labels)
    twin = model.astype(np.float64)
    double, exact = masks_and_gradients(twin, x.astype(np.float64), labels)
    flipped = sum(int((a != b).sum()) for a, b in zip(single, double, strict=True))
    floor = 1e-3 * max(np.linalg.norm(g) for g in exact)
    error = max(
        np.linalg.norm(a - b) / max(np.linalg.norm(b), floor)
        for a, b in zip(found, exact, strict=True)
    )
    assert error < (5e-2 if flipped else 1e-5), f"{flipped} ReLUs flipped, error {error:.1e}"
