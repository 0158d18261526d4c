"""Keras' `Model`: compile, fit, evaluate, predict on a minires layer."""

from dataclasses import dataclass

import numpy as np

from minires import optimizers
from minires.checks import expect_choice, expect_dtype, expect_int, expect_number
from minires.core import Layer
from minires.history import describe
from minires.keras.graph import build
from minires.losses import CategoricalCrossEntropy, ends_in_softmax
from minires.models.summary import print_summary
from minires.ops import default as default_ops
from minires.training import evaluate, fit, predict


@dataclass(frozen=True)
class Adam:
    """Adam with Keras' argument names and defaults; `compile` gives it the parameters."""

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def bind(self, parameters, ops=default_ops):
        return optimizers.Adam(
            parameters,
            self.learning_rate,
            betas=(self.beta_1, self.beta_2),
            eps=self.epsilon,
            ops=ops,
        )


@dataclass(frozen=True)
class SGD:
    """SGD with Keras' argument names and defaults; `compile` gives it the parameters."""

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def bind(self, parameters, ops=default_ops):
        return optimizers.SGD(
            parameters,
            self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ops=ops,
        )


OPTIMIZERS = {"adam": Adam, "sgd": SGD}
# the rank of the labels that each loss takes
LOSSES = {"categorical_crossentropy": 2, "sparse_categorical_crossentropy": 1}


@dataclass(frozen=True)
class KerasHistory:
    """What `fit` returns: `history.history["loss"]` and its kin, one number an epoch."""

    history: dict
    epoch: list


class Model:
    """A network with Keras' methods.

    Parameters
    ----------
    inputs, outputs : Tensor
        From `minires.keras.Input` and from calling layers on it.
        Instead of both, one minires Layer: `Model(Sequential(...))`.
    rng : None, int or numpy.random.Generator
        For the weights and the order of the examples. As in NumPy, None draws from the system's
        entropy.
    dtype : float32 or float64
    ops : module
        The implementation, such as `minires.ops.reference`.

    Attributes
    ----------
    layer : Layer
        The minires model.

    Examples
    --------
    >>> import minires as mr
    >>> layer = mr.Sequential(mr.Flatten(), mr.Dense(64, 10, rng=0), mr.Softmax())
    >>> model = Model(layer, rng=0)
    >>> _ = model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> x, y = np.ones((32, 8, 8, 1)), np.zeros(32, int)
    >>> list(model.fit(x, y, epochs=2, batch_size=16, verbose=0).history)
    ['loss', 'accuracy']
    """

    def __init__(self, inputs, outputs=None, *, rng=None, dtype=np.float32, ops=default_ops):
        self.rng, self.ops = np.random.default_rng(rng), ops
        if isinstance(inputs, Layer) and outputs is None:
            self.layer = inputs
        else:
            dtype = expect_dtype("Model", dtype)
            self.layer = build(inputs, outputs, {"rng": self.rng, "dtype": dtype, "ops": ops})
        self.input_shape = getattr(inputs, "shape", (None,))[1:]
        self.optimizer = self.loss = self.label_form = None

    def compile(self, optimizer="adam", loss="categorical_crossentropy", metrics=None):
        """Choose how to train.

        Parameters
        ----------
        optimizer : str, Adam, SGD or a minires optimiser
            "adam", "sgd", or an instance.
        loss : str or object with forward and backward
            "categorical_crossentropy" for one-hot labels, "sparse_categorical_crossentropy" for
            class numbers, either on probabilities; or a loss from `minires.losses`.
        metrics : list, optional
            ["accuracy"] or nothing; accuracy is measured in any case.

        Returns
        -------
        self : Model
        """
        if not isinstance(metrics, list | tuple | None):
            raise TypeError(f"compile expects metrics to be a list, got {metrics!r}")
        for metric in metrics or ():
            expect_choice("compile", "metrics", metric, ("accuracy", "acc"))
        if isinstance(optimizer, str):
            names = list(OPTIMIZERS)
            optimizer = OPTIMIZERS[expect_choice("compile", "optimizer", optimizer, names)]()
        if isinstance(optimizer, Adam | SGD):
            optimizer = optimizer.bind(self.layer.parameters(), self.ops)
        if not isinstance(optimizer, optimizers.Optimizer):
            raise TypeError(f"compile expects an optimizer or its name, got {optimizer!r}")
        form = None
        if isinstance(loss, str):
            form = LOSSES[expect_choice("compile", "loss", loss, list(LOSSES))]
            if not ends_in_softmax(self.layer):
                raise ValueError(
                    f"compile expects a model that ends in a softmax for the loss {loss!r}, got "
                    f"one that does not: add it, or pass minires.SoftmaxCrossEntropy()"
                )
            loss = CategoricalCrossEntropy()
        if isinstance(loss, type) or not callable(getattr(loss, "backward", None)):
            raise TypeError(f"compile expects a loss or its name, got {loss!r}")
        self.optimizer, self.loss, self.label_form = optimizer, loss, form
        return self

    def fit(
        self,
        x,
        y,
        batch_size=32,
        epochs=1,
        verbose="auto",
        *,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
    ):
        """Train, with the arguments of Keras.

        Parameters
        ----------
        x : (N, ...) array
            Converted to the model's dtype.
        y : (N,) or (N, 1) int, or (N, K)
        batch_size, epochs : int
        verbose : {"auto", 0, 1, 2}
            0 prints nothing; otherwise a line an epoch, and in a terminal a bar.
        validation_split : float
            The share of the examples, taken from the end, that is evaluated after each epoch.
        validation_data : (x, y), optional
        shuffle : bool
            Whether the examples come in a new order in every epoch.

        Returns
        -------
        history : KerasHistory
        """
        self._expect_compiled("fit")
        expect_choice("fit", "verbose", verbose, ("auto", 0, 1, 2))
        epochs = expect_int("fit", "epochs", epochs)
        split = expect_number("fit", "validation_split", validation_split, at_least=0, below=1)
        x, y = self._arrays(x, y)
        validation = None
        if validation_data is not None:
            validation = self._arrays(*expect_pair("validation_data", validation_data))
        if split and validation is None:
            kept = int(len(x) * (1 - split))
            if not 0 < kept < len(x):
                raise ValueError(
                    f"fit expects validation_split to leave examples on both sides, "
                    f"got {validation_split} of {len(x)}"
                )
            x, y, validation = x[:kept], y[:kept], (x[kept:], y[kept:])
        history = fit(
            self.layer,
            (x, y),
            self.optimizer,
            epochs,
            batch_size=batch_size,
            loss=self.loss,
            validation=validation,
            rng=self.rng,
            shuffle=shuffle,
            progress=None if verbose else False,
            on_epoch_end=(lambda epoch: print(describe(epoch))) if verbose else None,
        )
        columns = {"loss": "loss", "accuracy": "accuracy"}
        if validation is not None:
            columns |= {"val_loss": "test_loss", "val_accuracy": "test_accuracy"}
        values = {name: history.column(column) for name, column in columns.items()}
        return KerasHistory(values, list(range(epochs)))

    def evaluate(self, x, y, batch_size=32, verbose=0):
        """[loss, accuracy] on a set of examples."""
        self._expect_compiled("evaluate")
        x, y = self._arrays(x, y)
        result = evaluate(self.layer, x, y, loss=self.loss, batch_size=batch_size)
        if verbose:
            print(f"loss {result.loss:.4f}, accuracy {result.accuracy:.3f}")
        return list(result)

    def predict(self, x, batch_size=32, verbose=0):
        """What the model gives for each example, in inference mode."""
        return predict(self.layer, self._arrays(x)[0], batch_size=batch_size)

    def summary(self):
        """Print one row a layer."""
        shape = self.input_shape or getattr(self.layer, "input_shape", None)
        if not shape:
            raise ValueError(
                "summary expects a model with a known input shape, got one made from a layer: "
                "call minires.summary(model.layer, input_shape)"
            )
        print_summary(self.layer, shape)

    def _arrays(self, x, y=None):
        """Examples in the model's dtype, labels without an empty last axis."""
        parameters = self.layer.parameters()
        x = np.asarray(x, parameters[0].dtype if parameters else np.float32)
        y = None if y is None else np.asarray(y)
        if y is not None and y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y is not None and self.label_form not in (None, y.ndim):
            wanted = "one-hot rows (N, K), see to_categorical" if y.ndim == 1 else "numbers (N,)"
            raise ValueError(f"this loss expects labels as {wanted}, got shape {y.shape}")
        return x, y

    def _expect_compiled(self, method):
        if self.optimizer is None:
            raise RuntimeError(f"{method} expects a compiled model, got none: call compile first")

    def __repr__(self):
        return f"Model({self.layer!r})"


def expect_pair(name, value):
    """Return `value`, or raise TypeError if it is no (x, y)."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"fit expects {name} to be (x, y), got {type(value).__name__}")
    return value


def to_categorical(y, num_classes=None):
    """Class numbers as one-hot rows: (N,) or (N, 1) int -> (N, K) float32.

    Raises
    ------
    ValueError
        If a class number is no integer, or outside 0..K-1.
    """
    y = np.asarray(y)
    if y.dtype.kind not in "iu":
        if y.dtype.kind != "f" or not (y == np.round(y)).all():
            raise ValueError(f"to_categorical expects class numbers, got {y.dtype} with fractions")
        y = y.astype(int)
    y = y.ravel()
    if not len(y):
        raise ValueError("to_categorical expects at least one class number, got none")
    K = int(y.max()) + 1 if num_classes is None else num_classes
    if y.min() < 0 or y.max() >= K:
        came = f"{y.min()} to {y.max()}"
        raise ValueError(f"to_categorical expects classes from 0 to {K - 1}, got {came}")
    return np.eye(K, dtype=np.float32)[y]
