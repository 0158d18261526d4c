"""Makes minires/data/digits.npz from scikit-learn's copy of the UCI digits; run by hand.

    pip install scikit-learn==1.9.1 && python tests/oracles/make_digits.py

The split is stratified and fixed: of the examples of each class, in their original order, every
fifth (the 5th, 10th, ...) goes to the test part, and the first of the five classes whose share is
rounded down most, so that the parts have 1,437 and 360 images.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parents[2] / "minires" / "data" / "digits.npz"


def main():
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.uint8).reshape(-1, 8, 8)
    rank = np.zeros(len(labels), int)  # how many of its class came before
    for k in range(10):
        rank[labels == k] = np.arange((labels == k).sum())
    short = np.isin(labels, np.argsort(-(np.bincount(labels) % 5), kind="stable")[:5])
    test = (rank % 5 == 4) | (short & (rank == 0))
    print(len(labels), test.sum(), np.bincount(labels), np.bincount(labels[test]))
    np.savez_compressed(TARGET, images=images, labels=labels.astype(np.uint8), test=test)
    print(TARGET.stat().st_size)


if __name__ == "__main__":
    main()
