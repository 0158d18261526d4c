"""The process that compiles kernels ahead for another one; see `minires/ops/fast/ahead.py`.

Which kernels a training step calls, and with what types, it finds out by taking one on small images
with a Numba that writes down what it should compile, and computes nothing.
"""

import os
import sys
import threading
from unittest import mock

import numpy as np

from minires.fusion import fuse
from minires.losses import SoftmaxCrossEntropy
from minires.models import resnet20
from minires.ops import fast
from minires.optimizers import Adam, gradient_norm

BATCH = 32


def help_out():
    """Compile a training step's kernels, the last first; end when the other process does."""
    taken, kind = set(), sys.stdin.readline().strip()
    if not kind:  # the other process is not there any more
        return
    threading.Thread(target=listen, args=(taken,), daemon=True).start()
    for kernel, types in reversed(kernels_of_training(kind == "fused")):
        path = kernel._cache.path(types, kernel.targetctx)
        if path.name not in taken and not path.exists():
            print("begun", path.name, flush=True)
            kernel.compile(types)
            print("done", path.name, flush=True)


def listen(taken):
    """Write down what the other process compiles itself, and end with it."""
    for line in sys.stdin:
        taken.add(line.strip())
    os._exit(0)


def kernels_of_training(fused):
    """The kernels of a training step of a CIFAR ResNet, in their order.

    Returns
    -------
    list of (dispatcher, types)
    """
    fast.implementation("conv2d_forward")  # imports Numba, if that can be
    from numba.core.dispatcher import Dispatcher

    found = {}

    def note(kernel, *args):
        found[kernel, tuple(map(kernel.typeof_pyval, args))] = None
        return nothing  # what is called then

    with mock.patch.object(Dispatcher, "_compile_for_args", note), np.errstate(all="ignore"):
        step(fuse(resnet20(rng=0, ops=fast)) if fused else resnet20(rng=0, ops=fast))
    return list(found)


def nothing(*_):
    """A kernel that computes nothing; no thread was late."""
    return False


def step(model):
    """A training step, of which nothing is kept."""
    x, loss = np.zeros((BATCH, *model.input_shape), np.float32), SoftmaxCrossEntropy(ops=fast)
    loss.forward(model.forward(x, training=True), np.zeros(BATCH, int))
    model.backward(loss.backward())
    gradient_norm(model.parameters(), ops=fast)
    Adam(model.parameters(), ops=fast).step()
