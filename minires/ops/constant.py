"""Arrays of which no number ever changes: ops may keep what they make of them."""

import weakref

_given = {}  # {id of an array: weak reference to it}


def constant(array):
    """Give one's word that no number in `array` changes from now on; returns it.

    It is marked as read-only, which alone would be no such word: whoever wants to freeze a layer
    does the same, and may undo it.
    """
    if not is_constant(array):
        key = id(array)
        array.flags.writeable = False
        _given[key] = weakref.ref(array, lambda _: _given.pop(key, None))
    return array


def is_constant(array):
    """Whether `constant` was called for this very array, not for a view or a copy."""
    given = _given.get(id(array))
    return given is not None and given() is array
