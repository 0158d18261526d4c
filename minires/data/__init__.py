"""Labelled images: `load_digits` (bundled), `load_shapes` (drawn on demand), and `batches` of them.

This package stands beside `ops` and uses NumPy only.
"""

from minires.data.batches import ahead, batches, count_batches, split
from minires.data.dataset import Dataset
from minires.data.digits import load_digits
from minires.data.preprocess import Preprocess
from minires.data.shapes import load_shapes

LOADERS = {"digits": load_digits, "shapes": load_shapes}

__all__ = [
    "LOADERS",
    "Dataset",
    "Preprocess",
    "ahead",
    "batches",
    "count_batches",
    "load_digits",
    "load_shapes",
    "split",
]
