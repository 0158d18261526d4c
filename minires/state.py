"""What of a model and its optimiser has to be kept so that training goes on bit by bit.

    arrays = model_state(model) | optimizer_state(optimizer)
    save_checkpoint(path, arrays, {"streams": random_streams(model)})
    restore(model, optimizer, load_checkpoint(path))

A model and its `fuse`d twin share all of this, so it does not matter which of them is asked or
restored: both have changed.
"""

import reprlib
from typing import NamedTuple

import numpy as np

from minires.checkpoint import Checkpoint, CheckpointError
from minires.checks import format_shape
from minires.core import Layer, join_path
from minires.optimizers import Optimizer, is_state

KINDS = "weights/", "statistics/", "optimizer/"  # what `restore` takes from a checkpoint


class Holder(NamedTuple):
    """A layer, the name of one of its attributes, and what is there."""

    layer: Layer
    name: str
    value: object


def model_state(model):
    """The weights and running statistics of a model.

    Parameters
    ----------
    model : Layer

    Returns
    -------
    arrays : dict of str to numpy.ndarray
        `weights/<path>`, a Parameter that two layers share once; `statistics/<path>`, the other
        arrays of numbers that layers hold under a name without underscore. Not copied.

    Notes
    -----
    A layer of one's own that keeps anything else between steps (a Python number, a list) has to
    keep it as an array, or it starts anew.
    """
    expect_kind("model_state", "model", model, Layer)
    weights = {f"weights/{path}": p.value for path, p in model.named_parameters()}
    return weights | {name: holder.value for name, holder in statistics(model).items()}


def optimizer_state(optimizer):
    """What an optimiser remembers of the steps before.

    Parameters
    ----------
    optimizer : Optimizer

    Returns
    -------
    arrays : dict of str to numpy.ndarray
        Under `optimizer/<class>/`: `steps`, `lr`, and each of its lists with the number of the
        Parameter in `optimizer.parameters`, as in `optimizer/SGD/velocity/0`. Lists not copied.
    """
    expect_kind("optimizer_state", "optimizer", optimizer, Optimizer)
    start = f"optimizer/{type(optimizer).__name__}"
    counters = {
        f"{start}/steps": np.array(optimizer.steps, np.int64),
        f"{start}/lr": np.array(optimizer.lr, np.float64),
    }
    return counters | {
        f"{start}/{name}/{i}": array
        for name, value in vars(optimizer).items()
        if is_state(value) and name != "parameters"
        for i, array in enumerate(value)
    }


def random_streams(model):
    """Where the random streams of a model stand, such as those of its Dropouts.

    Parameters
    ----------
    model : Layer

    Returns
    -------
    streams : dict of str to dict
        The state of each numpy.random.Generator by its path, as in `dropout.rng`; what JSON can
        say, with whole numbers of up to 128 bits.
    """
    expect_kind("random_streams", "model", model, Layer)
    return {path: stream_state(h.value.bit_generator) for path, h in generators(model).items()}


def restore(model, optimizer, checkpoint):
    """Bring a model and its optimiser to where they were when a checkpoint was saved.

    Everything is checked before anything is changed. Weights and the optimiser's lists are written
    in place; running statistics become new arrays, as when they are trained.

    Parameters
    ----------
    model : Layer
        Built as the saved one was.
    optimizer : Optimizer or None
        Of the same class, for Parameters in the same order; None takes the model alone, for
        predictions.
    checkpoint : Checkpoint
        `model_state`, `optimizer_state` and, as `meta["streams"]`, `random_streams`. More in it is
        left to others, unless its name begins with weights/, statistics/ or optimizer/.

    Raises
    ------
    CheckpointError
        If an array is missing, unexpected, or of another shape or dtype, or a random stream does
        not fit. Nothing is changed then.
    """
    expect_kind("restore", "model", model, Layer)
    expect_kind("restore", "checkpoint", checkpoint, Checkpoint)
    wanted, kinds = model_state(model), KINDS[:2]
    if optimizer is not None:
        expect_kind("restore", "optimizer", optimizer, Optimizer)
        expect_class(optimizer, checkpoint.arrays)
        wanted, kinds = wanted | optimizer_state(optimizer), KINDS
    given = {k: v for k, v in checkpoint.arrays.items() if k.startswith(kinds)}
    expect_names("arrays", wanted, given)
    for name, array in wanted.items():
        expect_alike(name, array, given[name])
    streams = checked_streams(model, checkpoint.meta.get("streams", {}))
    if optimizer is not None:
        start = f"optimizer/{type(optimizer).__name__}"
        steps, lr = (given.pop(f"{start}/{name}").item() for name in ("steps", "lr"))
        expect_counters(steps, lr)
        optimizer.steps, optimizer.lr = steps, lr
    move(model, wanted, given)
    for path, holder in generators(model).items():
        holder.value.bit_generator.state = streams[path]


def move(model, wanted, given):
    """Write arrays where they belong; both dicts have been checked."""
    held = statistics(model)
    for name, array in given.items():
        if name in held:
            # a snapshot may hold the old one
            setattr(held[name].layer, held[name].name, array.copy())
        else:
            wanted[name][...] = array


# ---- where it is


def attributes(model, kind):
    """{path: Holder} of all attributes of layers that are of a kind."""
    return {
        join_path(path, name): Holder(layer, name, value)
        for path, layer in model.named_layers()
        for name, value in vars(layer).items()
        if isinstance(value, kind) and name not in layer.passing
    }


def statistics(model):
    """{statistics/path: Holder} of arrays of numbers under public names."""
    return {
        f"statistics/{path}": holder
        for path, holder in attributes(model, np.ndarray).items()
        if not holder.name.startswith("_") and holder.value.dtype.kind in "biufc"
    }


def generators(model):
    """{path: Holder} of random streams."""
    return attributes(model, np.random.Generator)


def stream_state(bit_generator):
    """The state of any of NumPy's bit generators, with lists for its arrays."""
    return plain(bit_generator.state)


def plain(value):
    """Dicts, whole numbers and text as they are, arrays as lists, NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


# ---- what is checked


def checked_streams(model, streams):
    """{path: state} that the bit generators of the model will take."""
    held = generators(model)
    if not isinstance(streams, dict):
        raise CheckpointError(f"restore expects streams as a dict, got {reprlib.repr(streams)}")
    expect_names("random streams", held, streams)
    return {path: fitting(path, h.value.bit_generator, streams[path]) for path, h in held.items()}


def fitting(path, bit_generator, state):
    """The state with arrays for its lists, after a bit generator of the same class has taken it."""
    kind = type(bit_generator).__name__
    try:
        full = like(bit_generator.state, state)
        trial = type(bit_generator)(0)
        trial.state = full
        fits = stream_state(trial) == state
    except Exception:  # each bit generator has its own errors for what it cannot take
        fits = False
    if not fits:
        got = reprlib.repr(state)
        raise CheckpointError(f"restore expects the state of a {kind} as {path}, got {got}")
    return full


def like(example, value):
    """`value` with an array of the same dtype wherever `example` has one."""
    if isinstance(example, dict):
        return {key: like(example[key], part) for key, part in value.items()}
    return np.array(value, example.dtype) if isinstance(example, np.ndarray) else value


def expect_kind(owner, name, value, kind):
    """Refuse what is no `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind is Optimizer else "a"
        came = type(value).__name__
        raise TypeError(f"{owner} expects {name} to be {article} {kind.__name__}, got {came}")


def expect_class(optimizer, arrays):
    """Refuse the state of another class of optimiser."""
    kind = type(optimizer).__name__
    found = {name.split("/")[1] for name in arrays if name.startswith(KINDS[2])}
    if found != {kind}:
        got = ", ".join(sorted(found)) or "none"
        raise CheckpointError(f"restore expects the state of an optimiser {kind}, got {got}")


def expect_names(what, wanted, given):
    """Refuse names that are missing or too many."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        raise CheckpointError(
            f"restore expects the {what} of this model and optimiser, got {some(missing)} too few "
            f"and {some(unexpected)} too many: build them as they were when it was saved"
        )


def some(names):
    """How many, and the first three of them."""
    if not names:
        return "none"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(map(str, names[:3]))}{more})"


def expect_alike(name, wanted, given):
    """Refuse another shape or dtype, and an array that cannot be written."""
    if not isinstance(given, np.ndarray) or (given.shape, given.dtype) != (
        wanted.shape,
        wanted.dtype,
    ):
        raise CheckpointError(f"restore expects {name} of {drawn(wanted)}, got {drawn(given)}")
    if not wanted.flags.writeable and not name.startswith(KINDS[1]):
        raise CheckpointError(f"restore expects to write to {name}, got a read-only array")


def drawn(array):
    """Shape and dtype as text, or what it is instead of an array."""
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    return f"{format_shape(array.shape)} {array.dtype}"


def expect_counters(steps, lr):
    """Refuse what an optimiser would refuse."""
    if steps < 0 or not 0 <= lr < float("inf"):
        raise CheckpointError(f"restore expects steps >= 0 and a finite lr >= 0, got {steps}, {lr}")
