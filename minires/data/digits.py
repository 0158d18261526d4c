"""1,797 handwritten digits, 8x8, bundled with the package."""

from importlib import resources

import numpy as np

from minires.checks import expect_dtype
from minires.data.dataset import Dataset


def load_digits(*, dtype=np.float32):
    """The test set of the UCI "Optical Recognition of Handwritten Digits", split for training.

    1,437 training and 360 test images of 8x8 pixels with 16 grey levels, by 13 writers. The split
    is fixed and stratified: each class has a fifth of its images in the test part.

    Parameters
    ----------
    dtype : float32 or float64
        Of the images. Labels are int64.

    Returns
    -------
    data : Dataset
        Images (N, 8, 8, 1) with values from 0 to 1.

    Notes
    -----
    Licensed under CC BY 4.0 by E. Alpaydin and C. Kaynak. Pixel counts 0..16 are divided by 16;
    nothing else was changed.

    References
    ----------
    Alpaydin and Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49.
    """
    dtype = expect_dtype("load_digits", dtype)
    with resources.files("minires.data").joinpath("digits.npz").open("rb") as file:
        content = np.load(file)
        images, labels, test = content["images"], content["labels"], content["test"]
    x = images[..., None].astype(dtype) / 16  # (1797, 8, 8, 1)
    y = labels.astype(np.int64)
    names = tuple(str(k) for k in range(10))
    return Dataset(x[~test], y[~test], x[test], y[test], names, "digits")
