"""The minires side of a worker: a network, an op, a matrix product."""

import importlib

import numpy as np

from benchmarks import tasks
from benchmarks.cases import arrays, options
from benchmarks.contenders import fuse
from minires.losses import SoftmaxCrossEntropy
from minires.optimizers import Adam
from minires.training import train_step


def ops_of(name):
    """The op set of a contender."""
    which = "reference" if name == "minires-reference" else "fast"
    return importlib.import_module(f"minires.ops.{which}")


class Network:
    """A network with its batch, loss and Adam.

    Parameters
    ----------
    name : str
        The contender's.
    model : str
    options : dict
        Of the model's function.
    batch : int
    dtype : str
        "float64" gives the result that all others are checked against.
    own_weights : bool
        Without meaning here; PyTorch needs it.
    """

    def __init__(self, name, model, options, batch, dtype="float32", own_weights=False):
        ops = ops_of(name)
        plain = tasks.network(model, options, ops)
        self.x, self.labels = tasks.batch(plain, batch)
        if dtype == "float64":
            plain, self.x = plain.astype(np.float64), self.x.astype(np.float64)
        self.paths = {id(p): path for path, p in plain.named_parameters()}
        fused = name == "minires-fused"
        self.model = fuse()(plain) if fused else plain
        self.loss = SoftmaxCrossEntropy(ops=ops)
        self.optimizer = Adam(self.model.parameters(), 1e-3, ops=ops)

    def train(self):
        train_step(self.model, self.loss, self.optimizer, self.x, self.labels)

    def infer(self):
        return self.model.forward(self.x)

    def results(self, what):
        """What one pass computes, as {name: array}; weights stay as they are."""
        if what == "infer":
            return {"logits": self.infer()}
        before = self.model.snapshot()
        logits = self.model.forward(self.x, training=True)
        value = self.loss.forward(logits, self.labels)
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward())
        self.model.restore(before)
        # a fused model may have other paths; its Parameters are those of the plain one
        paths = {self.paths.get(id(p), path): p for path, p in self.model.named_parameters()}
        gradients = {f"grad:{path}": p.grad for path, p in paths.items()}
        return {"logits": logits, "loss": np.asarray(value), **gradients}


class Op:
    """One op with its arrays; see `cases`."""

    def __init__(self, name, case, dtype="float32"):
        ops, op = ops_of(name), case["op"]
        self.call = getattr(ops, f"{op}_forward")
        self.back = getattr(ops, f"{op}_backward")
        self.options = options(case)
        self.given = arrays(case, dtype)
        y, self.cache = self.forward()
        self.dy = arrays({"dy": y.shape}, dtype)["dy"]

    def forward(self):
        if "weight" in self.given:
            return self.call(*with_bias(self.given), **self.options)
        return self.call(*self.given.values(), **self.options)

    def backward(self):
        return self.back(self.dy, self.cache)

    def results(self, what):
        y, self.cache = self.forward()
        gradients = self.backward()
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        # a gradient that nobody asked for, of a bias that is not there, falls off the end
        named = zip(self.given, gradients, strict=False)
        return {"y": y} | {f"grad:{name}": gradient for name, gradient in named}


def with_bias(given):
    """x, weight and the bias or None."""
    return given["x"], given["weight"], given.get("bias")


def product(size):
    """A function that multiplies two square matrices."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)
