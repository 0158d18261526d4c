"""What is made of weights that cannot change is kept: packed or transformed, for as long as they
live.

In training the weights change at every step. In inference on single images, packing them again
would take as long as the convolution. `ops/constant.py` knows of which arrays it was said that no
number in them changes; `layers/fused.py` says it.
"""

import weakref

from minires.ops.constant import is_constant

MOST = 2**22  # numbers in a weight, of which Winograd makes four times as many

_kept = {}  # {(name, id of the weight): (weak reference to it, what was made)}


def kept(name, weight, make):
    """make(weight), or what it returned for this very array the last time."""
    if weight.size > MOST or not is_constant(weight):
        return make(weight)
    key = name, id(weight)
    entry = _kept.get(key)
    if entry is None:
        end = weakref.ref(weight, lambda _: _kept.pop(key, None))
        entry = _kept[key] = end, make(weight)
    return entry[1]
