"""Pure functions on arrays, `<op>_forward` and `<op>_backward`; they know no Parameter.

`reference` is NumPy, to read; `fast` is Numba, to run. A layer takes the implementation as its
argument `ops`; `default` is what it gets when nothing is said. Importing either costs nothing:
Numba is imported when the first fast op is called.
"""

from minires.ops import fast, reference

default = fast

__all__ = ["default", "fast", "reference"]
