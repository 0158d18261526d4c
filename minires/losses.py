"""Losses: forward(prediction, labels) -> float, backward() -> gradient of the prediction."""

import numpy as np

from minires.checks import expect_array, expect_number, format_shape
from minires.copyable import Copyable
from minires.layers import Sequential, Softmax
from minires.ops import default as default_ops


class SoftmaxCrossEntropy(Copyable):
    """Mean over the batch of -log softmax(logits)[label]; takes logits, not probabilities.

    Parameters
    ----------
    label_smoothing : float
        In [0, 1): targets become (1 - s) * target + s / K.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Notes
    -----
    dlogits = (softmax(logits) - targets) / N: the mean over the batch puts the 1/N there.

    References
    ----------
    Label smoothing: Szegedy et al. (2016), arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smoothing=0.0, *, ops=default_ops):
        self.label_smoothing = expect_number(
            "SoftmaxCrossEntropy", "label_smoothing", label_smoothing, at_least=0, below=1
        )
        self.ops = ops
        self._cache = None

    def forward(self, logits, labels):
        """The loss, a float.

        Parameters
        ----------
        logits : (N, K) float
        labels : (N,) int, or (N, K)
            Class numbers 0..K-1, or a distribution over the classes in each row (one-hot, soft).

        Raises
        ------
        TypeError, ValueError
            If a shape, dtype or value does not fit.
        """
        self._cache = None
        expect_array("SoftmaxCrossEntropy", "logits", logits, ("N", "K"))
        targets = as_targets("SoftmaxCrossEntropy", labels, *logits.shape, logits.dtype)
        if self.label_smoothing:
            targets = (1 - self.label_smoothing) * targets
            targets += self.label_smoothing / logits.shape[1]
        loss, self._cache = self.ops.softmax_cross_entropy_forward(logits, targets)
        return loss

    def backward(self):
        """Gradient of the loss with respect to the logits, (N, K); one backward per forward."""
        cache, self._cache = take_cache(self), None
        return self.ops.softmax_cross_entropy_backward(cache)

    def __repr__(self):
        return f"SoftmaxCrossEntropy(label_smoothing={self.label_smoothing:g})"


class CategoricalCrossEntropy(Copyable):
    """Mean over the batch of -log probs[label]; takes probabilities, as Keras programs do.

    Prefer `SoftmaxCrossEntropy` on logits. A probability below `floor` is raised to it so that its
    logarithm is finite; there the gradient is 0, so an example that is very wrong teaches nothing.
    On logits the same example has the largest gradient of all.

    Parameters
    ----------
    floor : float
        In (0, 1); 1e-7 is Keras' value.
    """

    def __init__(self, floor=1e-7):
        self.floor = expect_number("CategoricalCrossEntropy", "floor", floor, above=0, below=1)
        self._cache = None

    def forward(self, probs, labels):
        """The loss, a float.

        Parameters
        ----------
        probs : (N, K) float
            Rows sum to 1.
        labels : (N,) int, or (N, K)
            Class numbers 0..K-1, or a distribution over the classes in each row (one-hot, soft).

        Raises
        ------
        TypeError, ValueError
            If a shape, dtype or value does not fit.
        """
        self._cache = None
        owner = "CategoricalCrossEntropy"
        expect_array(owner, "probs", probs, ("N", "K"))
        off = np.abs(probs.sum(axis=1) - 1).max()
        if not (off <= 1e-3 and probs.min() >= -1e-3):
            raise ValueError(
                f"{owner} expects probs >= 0 in rows that sum to 1, got a smallest value of "
                f"{probs.min():g} and a sum that is off by {off:g}: end the model with Softmax(), "
                f"or give its logits to SoftmaxCrossEntropy"
            )
        targets = as_targets(owner, labels, *probs.shape, probs.dtype)
        self._cache = probs, targets
        logs = np.log(np.maximum(probs, self.floor))
        return float(-(targets * logs).sum(axis=1).mean(dtype=np.float64))

    def backward(self):
        """Gradient of the loss with respect to the probabilities, (N, K)."""
        (probs, targets), self._cache = take_cache(self), None
        inside = probs > self.floor
        return -targets * inside / np.maximum(probs, self.floor) / len(probs)

    def __repr__(self):
        return f"CategoricalCrossEntropy(floor={self.floor:g})"


def take_cache(loss):
    """What the forward pass left, or a RuntimeError."""
    if loss._cache is None:
        raise RuntimeError(
            f"{type(loss).__name__}.backward expects a forward before it, one for each backward, "
            f"got none since the last"
        )
    return loss._cache


def as_targets(owner, labels, N, K, dtype):
    """Labels of any accepted form as one distribution a row, (N, K).

    Raises
    ------
    ValueError
        If they have another shape, a class out of range, or rows that are no distribution.
    """
    labels = np.asarray(labels)
    if labels.shape not in ((N,), (N, K)):
        hint = ": use labels.ravel()" if labels.shape == (N, 1) else ""
        raise ValueError(
            f"{owner} expects labels of shape ({N},) or ({N}, {K}), "
            f"got {format_shape(labels.shape)}{hint}"
        )
    if labels.ndim == 1:
        return one_hot(owner, labels, K, dtype)
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"{owner} expects numbers as labels, got {labels.dtype}")
    targets = labels.astype(dtype)
    if not (np.isfinite(targets).all() and (targets >= 0).all()):
        raise ValueError(f"{owner} expects finite labels >= 0, got {wrong_value(targets)}")
    sums = targets.sum(axis=1)
    if np.abs(sums - 1).max() > 1e-3:
        row = np.abs(sums - 1).argmax()
        raise ValueError(
            f"{owner} expects label rows that sum to 1, got a sum of {sums[row]:g} in row {row}"
        )
    return targets / sums[:, None]  # the gradient takes them at their word


def one_hot(owner, labels, K, dtype):
    """(N,) class numbers as (N, K) rows with one 1."""
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{owner} expects integer labels for shape {format_shape(labels.shape)}, "
            f"got {labels.dtype}: use labels.astype(int)"
        )
    outside = (labels < 0) | (labels >= K)
    if outside.any():
        raise ValueError(
            f"{owner} expects labels from 0 to {K - 1}, got {labels[outside][0]} "
            f"at index {outside.argmax()}"
        )
    targets = np.zeros((len(labels), K), dtype)
    targets[np.arange(len(labels)), labels] = 1
    return targets


def wrong_value(targets):
    """The first value that is negative or not finite, with its index."""
    bad = ~np.isfinite(targets) | (targets < 0)
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{targets[index]:g} at index {index}"


def default_loss(model, loss=None):
    """`loss` if there is one, else the cross-entropy that fits what the model gives.

    Parameters
    ----------
    model : Layer
    loss : object with forward and backward, optional

    Returns
    -------
    loss : object with forward and backward
        Left out: CategoricalCrossEntropy() for a model that ends in a Softmax, as Keras programs
        have it, and SoftmaxCrossEntropy() for any other. The latter would take the softmax of the
        probabilities once more, and no error would say so.

    Examples
    --------
    >>> from minires.layers import Dense, Sequential, Softmax
    >>> default_loss(Sequential(Dense(2, 3), Softmax()))
    CategoricalCrossEntropy(floor=1e-07)
    >>> default_loss(Dense(2, 3))
    SoftmaxCrossEntropy(label_smoothing=0)
    """
    if loss is not None:
        return loss
    return CategoricalCrossEntropy() if ends_in_softmax(model) else SoftmaxCrossEntropy()


def ends_in_softmax(layer):
    """Whether the last layer that runs is a Softmax."""
    while isinstance(layer, Sequential) and len(layer):
        layer = layer[-1]
    return isinstance(layer, Softmax)
