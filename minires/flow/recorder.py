"""FlowRecorder: writes down, around any training loop, what flows through every layer."""

import math
import warnings
import weakref

import numpy as np

from minires.checks import expect_int
from minires.core import Layer, Observer, observe
from minires.flow.ledger import Ledger
from minires.flow.log import FlowLog
from minires.flow.norms import weight_layers
from minires.flow.records import HistogramRecord, LayerRecord, ParameterRecord, ratio
from minires.layers import ReLU
from minires.ops import default as default_ops

BINS = 40
ROWS = 256


class FlowRecorder(FlowLog):
    """A FlowLog that fills itself inside a `with` block, step by step.

        with FlowRecorder(model, every=10) as flow:
            fit(model, data, optimizer, epochs=2)
        plots.ledger(flow)

    A step is one forward pass with training=True and the backward pass behind it; evaluation is
    not looked at, and a step without a backward pass leaves no record. Outputs and gradients are
    the same bits with and without a recorder, and it comes off after an error too. The records of
    a step are complete when the next one begins, or the block ends: only then is it known what the
    optimiser did.

    Parameters
    ----------
    model : Layer
        Not fused: the outputs between the steps of a fused layer are never computed.
    every : int
        Record the first step and every `every`-th after it. The others are not slowed down.
    keep_arrays : bool or list of paths
        Copy outputs and gradients themselves, of all layers or of some, into `arrays`.
    histograms : bool or list of paths
        Count outputs and gradients into bins, of all layers or of some.
    ops : module
        What computes the numbers, such as `minires.ops.reference`.

    Attributes
    ----------
    layers, parameters, residuals, histograms : list of records
        See `minires.flow.records`.
    arrays : {step: {path: {"y": array, "dy": array, "dx": array}}}
        Empty unless asked for.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or a path is not in the model.
    RuntimeError
        On entering, if the model is fused, or the recorder is in use.
    """

    def __init__(self, model, every=1, *, keep_arrays=False, histograms=False, ops=default_ops):
        super().__init__()
        if not isinstance(model, Layer):
            raise TypeError(f"FlowRecorder expects model to be a Layer, got {type(model).__name__}")
        self.model = model
        self.every = expect_int("FlowRecorder", "every", every)
        self.ops = ops
        self.arrays = {}
        self.keep = chosen_paths(model, "keep_arrays", keep_arrays)
        self.count = chosen_paths(model, "histograms", histograms)
        self.passes = 0
        self._gate = self._step = None

    def __enter__(self):
        if self._gate is not None:
            raise RuntimeError("FlowRecorder expects one `with` block at a time, got a second")
        with observe(self.model, StepObserver(self, 0)):
            pass  # a fused model refuses here, and not in the middle of training
        self._gate = Gate(self)
        self.model.observers = (*self.model.observers, self._gate)
        return self

    def __exit__(self, error, *_):
        self._detach()
        remove(self.model, self._gate)
        unseen, start, self._gate = self._gate.inference_passes, self._gate.start, None
        if self._step is not None:
            self._write()
        if error is None and self.passes == start and unseen:
            warnings.warn(
                f"FlowRecorder saw no training step, only {unseen} forward passes in inference "
                f"mode: call model.forward(x, training=True)",
                UserWarning,
                stacklevel=2,
            )

    def _begin(self):
        """A training forward begins, so the update of the step before it is done."""
        self._detach()
        if self._step is not None:
            self._write()
        self.passes += 1
        if (self.passes - 1) % self.every == 0:
            self._step = StepObserver(self, self.passes)
            for _, layer in self.model.named_layers():
                layer.observers = (*layer.observers, self._step)

    def _detach(self):
        """Take the observer of the step off; forget a step whose backward pass never came."""
        if self._step is not None:
            for _, layer in self.model.named_layers():
                remove(layer, self._step)
            if not self._step.complete:
                self._step = None

    def _write(self):
        """Keep the records of a step that is complete."""
        step, self._step = self._step, None
        for record in step.records():
            self.add(record)
        if step.arrays:
            self.arrays[step.number] = step.arrays


def remove(layer, observer):
    """Take one observer off a layer, and leave the others."""
    layer.observers = tuple(other for other in layer.observers if other is not observer)


def chosen_paths(model, name, chosen):
    """The set of layer paths that `chosen` (True, False or a list of paths) stands for."""
    paths = [path for path, _ in model.named_layers()]
    if isinstance(chosen, bool):
        return set(paths) if chosen else set()
    if isinstance(chosen, str):
        chosen = [chosen]
    for path in chosen:
        if path not in paths:
            raise ValueError(f"FlowRecorder expects {name} to be paths of layers, got {path!r}")
    return set(chosen)


class Gate(Observer):
    """Sits on the model alone and tells the recorder that a training pass begins."""

    forward_only = True

    def __init__(self, recorder):
        self.recorder, self.start = recorder, recorder.passes
        self.inference_passes = 0

    def before_forward(self, layer, x, training):
        if training:
            self.recorder._begin()
        else:
            self.inference_passes += 1


class StepObserver(Observer):
    """Sees one step and keeps its numbers.

    Attributes
    ----------
    complete : bool
        Whether the backward pass has come through.
    """

    def __init__(self, recorder, number):
        self.number, self.model, self.ops = number, recorder.model, recorder.ops
        self.keep, self.count = recorder.keep, recorder.count
        self.paths = {id(layer): path for path, layer in self.model.named_layers()}
        self.names = {path: type(layer).__name__ for path, layer in self.model.named_layers()}
        self.statistics = Remembering(self.ops.statistics)
        self.ledger = Ledger(self.model, number, self.statistics, self.ops.inner_product)
        self.forward, self.backward, self.dead = {}, {}, {}
        self.histograms, self.arrays = [], {}
        self.values, self.gradient_norms = {}, {}
        self.complete = False

    def after_forward(self, layer, x, y, training):
        path = self.paths[id(layer)]
        self.forward[path] = self.statistics(y)
        if isinstance(layer, ReLU):
            self.dead[path] = dead_share(y)
        self.look_closer(path, y=y)
        self.ledger.after_forward(layer, x, y, training)

    def after_backward(self, layer, dy, dx):
        path = self.paths[id(layer)]
        self.backward[path] = self.statistics(dy), self.statistics(dx)
        self.look_closer(path, dy=dy, dx=dx)
        self.ledger.after_backward(layer, dy, dx)
        if layer is self.model:
            self.finish()

    def look_closer(self, path, **arrays):
        """Copies and histograms, where they were asked for."""
        if path in self.keep:
            copies = {name: array.copy() for name, array in arrays.items()}
            self.arrays.setdefault(path, {}).update(copies)
        if path in self.count:
            for name, array in arrays.items():
                self.histograms.append(histogram(self.number, path, name, array))

    def finish(self):
        """The pass is through: the gradients are complete, and the optimiser has not acted yet."""
        self.complete = True
        self.statistics.forget()
        for path, parameter in self.model.named_parameters():
            self.values[path] = parameter.value.copy()
            self.gradient_norms[path] = self.ops.statistics(parameter.grad).norm

    def records(self):
        """All records of the step, once the optimiser has acted, in the order of the model."""
        layers = [path for path in self.paths.values() if path in self.backward]
        order = list(self.ledger.blocks.values())
        return [
            *(self.layer_record(path) for path in layers),
            *self.parameter_records(),
            *sorted(self.ledger.records, key=lambda record: order.index(record.path)),
            *self.histograms,
        ]

    def layer_record(self, path):
        found = {"y": self.forward[path]}
        found["dy"], found["dx"] = self.backward[path]
        numbers = {
            f"{array}_{name}": value
            for array, statistics in found.items()
            for name, value in statistics._asdict().items()
        }
        name = self.names[path]
        return LayerRecord(self.number, path, name, **numbers, dead=self.dead.get(path))

    def parameter_records(self):
        depths = {f"{path}.weight": i for i, (path, _) in enumerate(weight_layers(self.model), 1)}
        for path, parameter in self.model.named_parameters():
            before = self.values[path]
            value = self.ops.statistics(before).norm
            update = self.ops.statistics(parameter.value - before).norm
            yield ParameterRecord(
                step=self.number,
                path=path,
                role=parameter.role,
                depth=depths.get(path),
                value_norm=value,
                grad_norm=self.gradient_norms[path],
                update_norm=update,
                update_ratio=ratio(update, value),
            )


class Remembering:
    """`statistics`, once for each array: dx of one layer is dy of the one before it."""

    def __init__(self, statistics):
        self.statistics, self.known = statistics, {}

    def __call__(self, array):
        reference, found = self.known.get(id(array), (lambda: None, None))
        if reference() is not array:
            found = self.statistics(array)
            self.known[id(array)] = weakref.ref(array), found
        return found

    def forget(self):
        """Let go of all arrays."""
        self.known.clear()


def dead_share(y):
    """The share of channels that are 0 in every row of y, (..., C)."""
    rows = y.reshape(-1, y.shape[-1])
    dead = np.ones(rows.shape[1], bool)
    for start in range(0, len(rows), ROWS):
        dead &= ~rows[start : start + ROWS].any(axis=0)
        if not dead.any():
            break  # as a rule after the first rows
    return float(dead.mean())


def histogram(step, path, name, array):
    """HistogramRecord of an array; numbers that are not finite are left out."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return HistogramRecord(step, path, name, math.nan, math.nan, ())
    counts, _ = np.histogram(finite, BINS)
    return HistogramRecord(
        step, path, name, float(finite.min()), float(finite.max()), tuple(counts.tolist())
    )
