"""FlowRecorder: writes down, around any training loop, what flows through every layer."""

import math
import warnings
import weakref

import numpy as np

from minires.checks import expect_int
from minires.core import Observer, observe, take_off
from minires.flow.ledger import Ledger
from minires.flow.log import FlowLog
from minires.flow.norms import weights
from minires.flow.records import HistogramRecord, LayerRecord, ParameterRecord, ratio
from minires.layers import ReLU
from minires.layers.containers import expect_layer
from minires.ops import default as default_ops

BINS = 40
ROWS = 256  # looked at together
FEWEST_ROWS = 16


class FlowRecorder(FlowLog):
    """A FlowLog that fills itself inside a `with` block, step by step.

        with FlowRecorder(model, every=10) as flow:
            fit(model, data, optimizer, epochs=2)
        plots.ledger(flow)

    A step is one forward pass with training=True and the first backward pass behind it. Evaluation
    is not looked at, nor are measurements such as `gradient_norms` inside the block, and a step
    without a backward pass leaves no record. Outputs and gradients are the same bits with and
    without a recorder, and it comes off after an error too. The records of a step are complete when
    the next one begins, or the block ends: only then is it known what the optimiser did.

    Parameters
    ----------
    model : Layer
        Not fused: the outputs between the steps of a fused layer are never computed.
    every : int
        Record the first step and every `every`-th after it. The others are not slowed down. Where
        the backward pass of a step that is due does not come, the next is recorded instead.
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
        self.model = expect_layer("FlowRecorder", "model", model)
        self.every = expect_int("FlowRecorder", "every", every)
        self.ops = ops
        self.arrays = {}
        self.keep = chosen_paths(model, "keep_arrays", keep_arrays)
        self.count = chosen_paths(model, "histograms", histograms)
        self.passes, self._due = 0, 1
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
        gate, self._gate = self._gate, None
        take_off(self.model, gate)
        self._end_step()
        if error is None and gate.advice:
            warnings.warn(f"FlowRecorder {gate.advice}", UserWarning, stacklevel=2)

    def _begin(self):
        """A training forward begins, so the update of the step before it is done."""
        self._end_step()
        self.passes += 1
        if self.passes >= self._due:
            self._step = StepObserver(self, self.passes)
            self._step.attach()

    def _complete(self, step):
        """The backward pass of a recorded step is through."""
        step.detach()
        self._due = step.number + self.every
        self._gate.completed += 1

    def _end_step(self):
        """Keep the records of a recorded step; one without a backward pass leaves none."""
        step, self._step = self._step, None
        if step is None:
            return
        step.detach()
        if step.complete:
            for record in step.records():
                self.add(record)
            if step.arrays:
                self.arrays[step.number] = step.arrays


def chosen_paths(model, name, chosen):
    """The set of layer paths that `chosen` (True, False or a list of paths) stands for."""
    paths = [path for path, _ in model.named_layers()]
    if isinstance(chosen, bool):
        return set(paths) if chosen else set()
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(chosen, list | tuple | set):
        raise TypeError(f"FlowRecorder expects {name} as True, False or paths, got {chosen!r}")
    for path in chosen:
        if path not in paths:
            raise ValueError(
                f"FlowRecorder expects {name} to be paths of layers ({', '.join(paths[1:4])}, "
                f"...), got {path!r}"
            )
    return set(chosen)


class Gate(Observer):
    """Sits on the model alone and tells the recorder that a training pass begins.

    Attributes
    ----------
    training, inference, completed : int
        Forward passes in the two modes, and recorded steps, since the block began.
    """

    forward_only = True

    def __init__(self, recorder):
        self.recorder = recorder
        self.training = self.inference = self.completed = 0

    def before_forward(self, layer, x, training):
        if training:
            self.training += 1
            self.recorder._begin()
        else:
            self.inference += 1

    @property
    def advice(self):
        """What to tell somebody who ran the model and has no record of it."""
        if self.inference and not self.training:
            return (
                f"saw no training step, only {self.inference} forward passes in inference mode: "
                f"call model.forward(x, training=True)"
            )
        if self.training and not self.completed and self.recorder.passes >= self.recorder._due:
            return (
                f"saw no backward pass behind {self.training} forward passes in training mode: "
                f"call model.backward(loss.backward())"
            )
        return ""


class StepObserver(Observer):
    """Sees one step and keeps its numbers.

    Attributes
    ----------
    complete : bool
        Whether the backward pass has come through.
    """

    def __init__(self, recorder, number):
        self.recorder = recorder
        self.number, self.model, self.ops = number, recorder.model, recorder.ops
        self.keep, self.count = recorder.keep, recorder.count
        self.paths = {id(layer): path for path, layer in self.model.named_layers()}
        self.names = {path: type(layer).__name__ for path, layer in self.model.named_layers()}
        self.statistics = Remembering(self.ops.statistics)
        self.ledger = Ledger(self.model, number, self.statistics, self.ops.inner_product)
        self.forward, self.backward, self.dead = {}, {}, {}
        self.histograms, self.arrays = [], {}
        self.before = []
        self.complete = False

    def attach(self):
        """Watch every layer, until `detach`."""
        self.layers = [layer for _, layer in self.model.named_layers()]
        for layer in self.layers:
            layer.observers = (*layer.observers, self)

    def detach(self):
        """Watch nothing more; layers that have left the model meanwhile are let go, too."""
        for layer in self.layers:
            take_off(layer, self)

    def after_forward(self, layer, x, y, training):
        if not training:
            return
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
        depths = {id(weight): i for i, (_, weight, _) in enumerate(weights(self.model), start=1)}
        for path, parameter in self.model.named_parameters():
            norm, depth = self.ops.statistics(parameter.grad).norm, depths.get(id(parameter))
            self.before.append((path, parameter, parameter.value.copy(), norm, depth))
        self.recorder._complete(self)

    def records(self):
        """All records of the step, once the optimiser has acted, in the order of the model."""
        both = self.forward.keys() & self.backward.keys()  # a frozen norm runs in inference mode
        layers = [path for path in self.paths.values() if path in both]
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
        """Those of the Parameters that are still in the model."""
        now = {id(parameter) for parameter in self.model.parameters()}
        for path, parameter, before, grad_norm, depth in self.before:
            if id(parameter) not in now:
                continue
            value = self.ops.statistics(before).norm
            update = self.ops.statistics(parameter.value - before).norm
            yield ParameterRecord(
                step=self.number,
                path=path,
                role=parameter.role,
                depth=depth,
                value_norm=value,
                grad_norm=grad_norm,
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
    """The share of channels that are 0 in every row of y, (..., C); None for a few rows."""
    rows = y.reshape(-1, y.shape[-1])
    if len(rows) < FEWEST_ROWS:
        return None
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
