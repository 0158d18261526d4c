"""The residual ledger: what y = shortcut(x) + branch(x) does to the gradient at each block."""

from dataclasses import dataclass

import numpy as np

from minires.core import Observer, observe
from minires.flow.records import ResidualRecord, ratio
from minires.flow.undisturbed import undisturbed
from minires.layers import Residual
from minires.layers.containers import expect_layer
from minires.losses import default_loss
from minires.ops import default as default_ops


@dataclass(frozen=True, eq=False)
class LedgerArrays:
    """The gradients themselves; dx = shortcut + branch.

    Attributes
    ----------
    dy, shortcut, branch, dx : arrays
        Upstream gradient, what each path makes of it, and their sum. `shortcut` has the bits of
        `dy` where the shortcut is the identity.
    """

    dy: np.ndarray
    shortcut: np.ndarray
    branch: np.ndarray
    dx: np.ndarray


class Ledger(Observer):
    """Keeps what both paths of a Residual give back until it has seen their sum, then writes.

    Parameters
    ----------
    model : Layer
    step : int
        For the records.
    statistics : callable
        array -> Statistics.
    inner_product : callable
        (array, array) -> float.
    keep_arrays : bool
        Whether to copy the gradients too.

    Attributes
    ----------
    records : list of ResidualRecord
        From the last block to the first, as the gradient meets them.
    arrays : {path: LedgerArrays}
    """

    def __init__(self, model, step, statistics, inner_product, *, keep_arrays=False):
        self.step, self.keep_arrays = step, keep_arrays
        self.norm = lambda array: statistics(array).norm
        self.inner_product = inner_product
        self.blocks, self.ends = {}, {}
        for path, layer in model.named_layers():
            if isinstance(layer, Residual):
                self.blocks[id(layer)] = path
                self.ends[id(layer.shortcut)] = path, "shortcut"
                self.ends[id(layer.branch)] = path, "branch"
        self.forward, self.parts = {}, {}
        self.records, self.arrays = [], {}

    def after_forward(self, layer, x, y, training):
        path, end = self.ends.get(id(layer), (None, None))
        if end == "branch":
            self.forward[path] = self.norm(x), self.norm(y)

    def after_backward(self, layer, dy, dx):
        if id(layer) in self.ends:
            self.parts[self.ends[id(layer)]] = dx
        if id(layer) in self.blocks:
            path = self.blocks[id(layer)]
            parts = [self.parts.pop((path, end), None) for end in ("shortcut", "branch")]
            if path in self.forward and all(part is not None for part in parts):
                self.write(path, dy, *parts, dx)  # a user's block may have left a path out

    def write(self, path, dy, shortcut, branch, dx):
        """The record of one block."""
        norms = [self.norm(array) for array in (dy, shortcut, branch, dx)]
        dy_norm, s, b, dx_norm = norms
        together = self.inner_product(shortcut, branch)
        x_norm, f_norm = self.forward.pop(path)
        self.records.append(
            ResidualRecord(
                step=self.step,
                path=path,
                dy_norm=dy_norm,
                shortcut_norm=s,
                branch_norm=b,
                cosine=ratio(together, s * b),
                dx_norm=dx_norm,
                shortcut_share=ratio(self.inner_product(shortcut, dx), dx_norm * dx_norm),
                x_norm=x_norm,
                f_norm=f_norm,
                branch_ratio=ratio(f_norm, x_norm),
            )
        )
        if self.keep_arrays:
            self.arrays[path] = LedgerArrays(*(a.copy() for a in (dy, shortcut, branch, dx)))


def residual_ledger(model, x, labels, *, loss=None, keep_arrays=False, ops=default_ops):
    """How the gradient splits at every residual block, for one batch.

    One forward pass in training mode and one backward pass; weights, gradients, running statistics
    and random streams are left as they were.

    Parameters
    ----------
    model : Layer
        With at least one Residual; not fused.
    x : (N, ...) float
    labels : (N,) int, or (N, K)
    loss : object with forward and backward, optional
        If left out, the cross-entropy that fits the model: see `losses.default_loss`.
    keep_arrays : bool
        Whether the gradients themselves are wanted too.
    ops : module
        What computes the numbers, such as `minires.ops.reference`.

    Returns
    -------
    ledger : list of ResidualRecord
        From the input to the output; `step` is 0.
    arrays : {path: LedgerArrays}
        In the same order. Only with keep_arrays=True.

    Raises
    ------
    ValueError
        If the model has no Residual.
    RuntimeError
        If it is fused.

    References
    ----------
    He et al. (2016), arXiv:1603.05027, equation 5: dL/dx = dL/dy (1 + dF/dx).
    """
    loss = default_loss(expect_layer("residual_ledger", "model", model), loss)
    ledger = Ledger(model, 0, ops.statistics, ops.inner_product, keep_arrays=keep_arrays)
    with undisturbed(model), observe(model, ledger):  # a fused model refuses here
        if not ledger.blocks:
            raise ValueError("residual_ledger expects a model with Residual blocks, got none in it")
        loss.forward(model.forward(x, training=True), labels)
        model.backward(loss.backward())
    order = list(ledger.blocks.values())
    ledger.records.sort(key=lambda record: order.index(record.path))
    arrays = {path: ledger.arrays[path] for path in order if path in ledger.arrays}
    return (ledger.records, arrays) if keep_arrays else ledger.records
