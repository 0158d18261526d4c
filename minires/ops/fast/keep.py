"""What is made of weights that cannot change is kept: packed or transformed, for as long as they
live.

In training the weights change at every step. In inference on single images, packing them again
would take as long as the convolution. Weights that own their memory and are marked as read-only
(`weight.flags.writeable = False`) are the caller's word that no number in them changes;
`layers/fused.py` gives it.
"""

import weakref

MOST = 2**22  # numbers in a weight, of which Winograd makes four times as many

_kept = {}  # {(name, id of the weight): (weak reference to it, what was made)}


def kept(name, weight, make):
    """make(weight), or what it returned for this very array the last time."""
    if weight.flags.writeable or not weight.flags.owndata or weight.size > MOST:
        return make(weight)
    key = name, id(weight)
    entry = _kept.get(key)
    if entry is None:
        end = weakref.ref(weight, lambda _: _kept.pop(key, None))
        entry = _kept[key] = end, make(weight)
    return entry[1]
