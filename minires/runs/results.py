"""What a trained model does on the test images: error, confusion, mistakes."""

import math
from dataclasses import dataclass

import numpy as np

from minires.losses import ends_in_softmax
from minires.training import predict


@dataclass(frozen=True, eq=False)
class Results:
    """Probabilities for the test images, and what follows from them.

    Attributes
    ----------
    probs : (N, K) float
    mirrored : (N, K) float or None
        The mean over each image and its mirror image, where the training saw both.
    labels : (N,) int
    class_names : tuple of str
    """

    probs: np.ndarray
    mirrored: np.ndarray | None
    labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def error(self):
        """Share of images whose most probable class is wrong."""
        return error_of(self.probs, self.labels)

    @property
    def mirrored_error(self):
        """The same after the mean over each image and its mirror image; None without."""
        return None if self.mirrored is None else error_of(self.mirrored, self.labels)

    @property
    def standard_error(self):
        """Of `error`, if the images are independent draws: sqrt(p (1 - p) / N)."""
        return math.sqrt(self.error * (1 - self.error) / len(self.labels))

    @property
    def confusion(self):
        """(K, K) int: images of the class of the row that were given the class of the column."""
        K = len(self.class_names)
        matrix = np.zeros((K, K), np.int64)
        np.add.at(matrix, (self.labels, self.probs.argmax(axis=1)), 1)
        return matrix

    def mistakes(self, count):
        """Numbers of the wrongly classified images, those the model was surest of first."""
        given = self.probs.argmax(axis=1)
        wrong = np.flatnonzero(given != self.labels)
        surest = np.argsort(-self.probs[wrong, given[wrong]], kind="stable")
        return wrong[surest][:count]


def measure(model, data, preprocess, *, mirror=False):
    """Classify the test images.

    Parameters
    ----------
    model : Layer
    data : Dataset
    preprocess : Preprocess
    mirror : bool
        Whether to do it for the mirror images too.

    Returns
    -------
    results : Results
    """
    x = data.x_test
    probs = probabilities(model, x, preprocess)
    mirrored = None
    if mirror:
        # mirrored behind the centring, as in training
        other = probabilities(model, x, lambda images: preprocess(images)[:, :, ::-1])
        mirrored = (probs + other) / 2
    return Results(probs, mirrored, data.y_test, data.class_names)


def probabilities(model, x, preprocess):
    """(N, K): the softmax of the logits, or what a model that ends in one gives."""
    y = predict(model, x, preprocess=preprocess)
    if ends_in_softmax(model):
        return y
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def error_of(probs, labels):
    """Share of rows whose largest number is not at the label."""
    return float((probs.argmax(axis=1) != labels).mean())
