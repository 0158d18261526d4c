"""What every loader returns."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images and labels, split in a training and a test part.

    Attributes
    ----------
    x_train, x_test : (N, H, W, C) float32 or uint8
        float32 where images are drawn or bundled, uint8 from 0 to 255 where they are read from
        files: a quarter of the memory.
    y_train, y_test : (N,) int64
        Class numbers.
    class_names : tuple of str
    name : str
    verified : bool or None
        Whether all files had the official checksum; None for images that have none.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    name: str
    verified: bool | None = None

    @property
    def input_shape(self):
        """(H, W, C)."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self):
        return len(self.class_names)

    def __repr__(self):
        size = "x".join(map(str, self.input_shape))
        return (
            f"Dataset({self.name!r}, {len(self.x_train)} training and {len(self.x_test)} test "
            f"images {size}, {self.num_classes} classes)"
        )
