"""Pure functions on arrays, `<op>_forward` and `<op>_backward`; they know no Parameter.

`reference` is NumPy, to read; `fast` is Numba, to run. A layer takes the implementation as its
argument `ops`; `default` is what it gets when nothing is said.
"""

from minires.ops import fast, reference

default = reference

__all__ = ["default", "fast", "reference"]
