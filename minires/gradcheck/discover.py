"""Where somebody's layer keeps its parameters: arrays that have a gradient beside them.

`arrays_in` lists every float array that an object holds, under its path; `pair_up` matches paths
such as `W` and `dW`, `params.W` and `grads.W`, `W.value` and `W.grad`.
"""

import types

import numpy as np

from minires.layers.fused import Folded

DEPTH = 6  # layers in lists in layers; deeper is not looked

# a word in a path, and the words that its gradient has there instead
TWINS = {
    "params": ("grads",),
    "parameters": ("gradients", "grads"),
    "value": ("grad",),
    "_value": ("_grad",),
    "data": ("grad",),
}


def arrays_in(thing):
    """{path: array} of the float arrays in an object, in its attributes, lists and dictionaries.

    Parameters
    ----------
    thing : object

    Returns
    -------
    arrays : {tuple: array}
        A path is a tuple of attribute names, keys and positions.
    """
    found, seen, waiting = {}, set(), [((), thing)]
    while waiting:
        path, value = waiting.pop(0)
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "f":
                found[path] = value
        elif id(value) not in seen and len(path) < DEPTH:
            seen.add(id(value))
            waiting += [((*path, key), part) for key, part in parts_of(value)]
    return found


def parts_of(value):
    """[(key, part)] of an object, a dictionary, a list or a tuple."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, type | types.ModuleType | np.random.Generator | Folded):
        return []  # the last holds what was made of Parameters
    return list(getattr(value, "__dict__", {}).items())


def fetch(thing, path):
    """What stands at a path now, or None."""
    for key in path:
        if isinstance(thing, dict):
            thing = thing.get(key)
        elif isinstance(thing, list | tuple):
            thing = thing[key] if key < len(thing) else None
        else:
            thing = getattr(thing, key, None)
    return thing


def pair_up(before, after):
    """Parameters, and arrays that may be some.

    Parameters
    ----------
    before : {path: array}
        Of an object that has not run yet: a parameter is among them.
    after : {path: array}
        Of the same object after a backward pass: by now each gradient is there.

    Returns
    -------
    parameters : list of (name, array, path of the gradient)
    loose : list of (name, array)
        Arrays that were there from the start and have no gradient.
    """
    parameters, loose, gradients = [], [], set()
    for path in before:
        twin = next((p for p in gradient_paths(path) if p in after), None)
        if twin is not None and path in after:
            parameters.append((path, twin))
            gradients.add(twin)
    paired = {path for path, _ in parameters}
    known = [after[path] for path, _ in parameters]
    loose = [
        p
        for p in before
        if p in after and p not in paired | gradients and not any(after[p] is a for a in known)
    ]
    return (
        [(show(path), after[path], twin) for path, twin in parameters if path not in gradients],
        [(show(path), after[path]) for path in loose],
    )


def gradient_paths(path):
    """Where the gradient of the array at `path` may stand."""
    *front, last = path
    lasts = [last]
    if isinstance(last, str):
        lasts += [f"d{last}", f"d_{last}", f"{last}_grad", f"grad_{last}"]
        yield from ((*front, name) for name in lasts[1:])
    for i, word in enumerate(path):
        for twin in TWINS.get(word, ()) if isinstance(word, str) else ():
            ends = lasts if i < len(path) - 1 else [twin]
            yield from ((*path[:i], twin, *path[i + 1 : -1], end)[: len(path)] for end in ends)


def show(path):
    """A path as text, without the words that say nothing."""
    words = [str(word) for word in path if word not in TWINS]
    return ".".join(words or [str(word) for word in path])
