"""A model as a table: one row a layer with shape, parameters, multiply-adds and memory.

The shapes are found by running the reference ops, so that nobody waits for kernels that a table
does not need; `fast.covers` is asked which calls would have one.
"""

import contextlib
from dataclasses import dataclass

import numpy as np

from minires.checks import expect_int
from minires.core import Observer, Parameter, observe
from minires.ops import fast, reference


@dataclass(frozen=True)
class Row:
    """One layer. Shapes and counts are for a batch of one image.

    Attributes
    ----------
    path, layer : str
    shape : tuple
        Of the output, without N.
    parameters, multiply_adds : int
    activation_bytes : int
        Of the output; 0 where it is the input in another shape.
    left : tuple of str
        Its ops that the fast set leaves to the reference.
    """

    path: str
    layer: str
    shape: tuple
    parameters: int
    multiply_adds: int
    activation_bytes: int
    left: tuple = ()


@dataclass(frozen=True)
class Summary:
    """The rows of `summarize`; `print(summary)` draws the table."""

    rows: list
    parameters: int

    @property
    def multiply_adds(self):
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self):
        return sum(row.activation_bytes for row in self.rows)

    def __str__(self):
        header = ("path", "layer", "output", "parameters", "multiply-adds", "activation bytes")
        body = [
            (r.path, r.layer, "x".join(map(str, r.shape)))
            + tuple(f"{n:,}" for n in (r.parameters, r.multiply_adds, r.activation_bytes))
            for r in self.rows
        ]
        totals = (self.parameters, self.multiply_adds, self.activation_bytes)
        body.append(("total", "", "") + tuple(f"{n:,}" for n in totals))
        return "\n".join([align([header, *body], left=3), *self.remarks()])

    def remarks(self):
        """A line for each op that has no fast kernel for some of the layers."""
        where = {}
        for row in self.rows:
            for op in row.left:
                where.setdefault(op, []).append(row.path or row.layer)
        return [
            f"no fast kernel, runs on the reference: {op} in {paths[0]}"
            + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
            for op, paths in where.items()
        ]

    __repr__ = __str__


class Sizes(Observer):
    """Notes every layer that makes an output of its own: leaves and sums, but not Sequential."""

    def __init__(self, model, left):
        self.paths = {id(layer): path for path, layer in model.named_layers()}
        self.left = left
        self.rows = []
        self.last = None

    def after_forward(self, layer, x, y, training):
        """Note what came out, unless it is what a layer inside has just given."""
        if y is not self.last or not layer.children():
            own = sum(p.size for p in vars(layer).values() if isinstance(p, Parameter))
            memory = 0 if np.shares_memory(x, y) else y.nbytes
            name, work = type(layer).__name__, layer.multiply_adds(y.shape)
            path, left = self.paths[id(layer)], tuple(self.left.get(id(layer), ()))
            self.rows.append(Row(path, name, y.shape[1:], own, work, memory, left))
        self.last = y


class StandIn:
    """The reference ops in the place of the fast ones; notes the calls without a fast kernel.

    Parameters
    ----------
    left : list of str
        Gets the names of their ops.
    """

    def __init__(self, left):
        self.left = left

    def __getattr__(self, name):
        """The reference's op `name`, which first asks whether there is a kernel."""

        def op(*args, **options):
            if not fast.covers(name, *args, **options):
                self.left.append(name.removesuffix("_forward"))
            return getattr(reference, name)(*args, **options)

        return op


@contextlib.contextmanager
def stand_ins(model):
    """Give every layer on the fast ops a `StandIn`; yields {id of the layer: its list}."""
    layers = [layer for _, layer in model.named_layers() if getattr(layer, "ops", None) is fast]
    left = {id(layer): [] for layer in layers}
    try:
        for layer in layers:
            layer.ops = StandIn(left[id(layer)])
        yield left
    finally:
        for layer in layers:
            layer.ops = fast


def summarize(model, input_shape):
    """Run one image of zeros through the model and note what comes out of each layer.

    Parameters
    ----------
    model : Layer
        Weights and state are left as they are; what an earlier forward kept is gone.
    input_shape : tuple of int
        Without N, such as (H, W, C).

    Returns
    -------
    summary : Summary
        One row for each layer that computes something, in the order in which they run.

    Raises
    ------
    ValueError
        If the shape is none, or does not fit the model.
    """
    if not isinstance(input_shape, tuple | list):
        raise ValueError(f"summary expects input_shape (H, W, C), got {input_shape!r}")
    shape = tuple(expect_int("summary", "input_shape", size) for size in input_shape)
    parameters = model.parameters()
    dtype = parameters[0].dtype if parameters else np.float32
    with stand_ins(model) as left, observe(model, Sizes(model, left)) as sizes:
        model.forward(np.zeros((1, *shape), dtype))
    return Summary(sizes.rows, sum(p.size for p in parameters))


def print_summary(model, input_shape):
    """Print one row a layer: path, output shape, parameters, multiply-adds, activation bytes.

    Parameters and errors as for `summarize`, which returns the same as an object. Multiply-adds
    and bytes are for one image. Below it stands which ops run on the reference though the model was
    built for the fast ones, such as a dilated convolution.
    """
    print(summarize(model, input_shape))


def align(rows, left):
    """Rows of text as a table, the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, range(len(row)), strict=True)
        line = "  ".join(c.ljust(w) if i < left else c.rjust(w) for c, w, i in cells)
        lines.append(line.rstrip())
    return "\n".join(lines)
