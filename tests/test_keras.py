"""Keras' names: the article's program runs with its imports changed, and graphs become blocks."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minires
from minires import keras
from minires.data import load_digits
from minires.gradcheck import check_gradients
from minires.keras import (
    SGD,
    Activation,
    Adam,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    Model,
    ReLU,
    add,
    to_categorical,
)
from minires.layers import Identity, Residual
from minires.models import article_resnet, summarize
from minires.ops import fast, reference

PROGRAM = (Path(__file__).parent / "keras_program.txt").read_text(encoding="utf-8")
DIGITS = load_digits()


def run_program(**names):
    """Execute the article's program with `minires.keras` for Keras, and return its names."""
    text = PROGRAM.replace("tensorflow.keras.layers", "minires.keras")
    text = text.replace("tensorflow.keras.models", "minires.keras")
    assert "tensorflow" not in text
    exec(compile(text, "keras_program.txt", "exec"), names)
    return names


def test_the_articles_program_runs_on_the_digits_with_only_its_imports_changed(capsys):
    enlarge = np.ones((1, 2, 2, 1))  # 8x8 digits as 16x16 images, so that the pooling fits
    x = np.kron(DIGITS.x_train[:256], enlarge)
    names = run_program(
        input_shape=(16, 16, 1),
        num_classes=10,
        x_train=x,
        y_train=to_categorical(DIGITS.y_train[:256], 10),
        x_test=np.kron(DIGITS.x_test[:64], enlarge),
        y_test=to_categorical(DIGITS.y_test[:64], 10),
        epochs=3,
    )
    history = names["history"].history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["accuracy"][-1] > history["accuracy"][0]
    assert history["accuracy"][-1] > 0.5
    assert_allclose(names["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert 0 <= names["accuracy"] <= 1
    assert names["loss"] > 0
    assert "total" in capsys.readouterr().out


def test_the_program_builds_the_articles_network():
    names = {"input_shape": (32, 32, 3), "num_classes": 10}
    exec(compile(program_without_training(), "keras_program.txt", "exec"), names)
    model = names["model"].layer
    assert sum(p.size for p in model.parameters()) == 1_359_626
    ours = article_resnet(rng=0)
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        b.value = a.value
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    logits = ours.forward(x, training=True)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(model.forward(x, training=True), probs, rtol=2e-4, atol=1e-6)
    rows, mine = (summarize(m, (32, 32, 3)) for m in (model, ours))
    assert rows.multiply_adds == mine.multiply_adds


def test_the_ops_of_a_model_reach_its_layers_its_sums_and_its_optimiser():
    x = Input((8, 8, 1))
    y = Dense(3, activation="softmax")(Flatten()(block(block(x, 4), 4)))
    for ops in (reference, fast):
        model = Model(x, y, rng=0, ops=ops).compile("adam")
        layers = [layer for _, layer in model.layer.named_layers()]
        assert any(isinstance(layer, Residual) for layer in layers)
        assert all(layer.ops is ops for layer in layers if hasattr(layer, "ops"))
        assert model.optimizer.ops is ops


def program_without_training():
    text = PROGRAM[: PROGRAM.index("model.compile")]
    return text.replace("tensorflow.keras.layers", "minires.keras").replace(
        "tensorflow.keras.models", "minires.keras"
    )


def block(x, filters, strides=1):
    """A residual block with a projection where the shape changes."""
    shortcut = x
    x = Conv2D(filters, 3, strides=strides, padding="same", activation="relu")(x)
    x = Conv2D(filters, 3, padding="same")(x)
    if shortcut.shape != x.shape:
        shortcut = Conv2D(filters, 1, strides=strides)(shortcut)
    return ReLU()(Add()([shortcut, x]))


def test_splits_and_sums_become_residual_blocks_and_gradients_are_right(rng):
    inputs = Input((6, 5, 2))
    x = block(inputs, 3)
    x = block(x, 3)
    outputs = Dense(4)(GlobalAveragePooling2D()(x))
    model = Model(inputs, outputs, rng=0, dtype=np.float64).layer
    blocks = [layer for _, layer in model.named_layers() if isinstance(layer, Residual)]
    assert [type(b.shortcut) is Identity for b in blocks] == [False, True]
    report = check_gradients(model, rng.standard_normal((2, 6, 5, 2)), max_entries=30)
    assert report.ok, report


def test_sums_inside_sums(rng):
    inputs = Input((4,))
    inner = add([inputs, Dense(4)(inputs)])
    outputs = add([inputs, Dense(4)(inner)])
    model = Model(inputs, outputs, rng=0, dtype=np.float64).layer
    x = rng.standard_normal((3, 4))
    first, second = (p.value for p in model.parameters() if p.value.ndim == 2)
    # whichever was made first, y = x + W2 (x + W1 x)
    candidates = [x + (x + x @ a) @ b for a, b in ((first, second), (second, first))]
    assert any(np.allclose(model.forward(x), y) for y in candidates)


def test_layers_have_kerass_names_numbers_and_defaults():
    inputs = Input((8, 8, 3))
    x = BatchNormalization()(Conv2D(4, 3, name="first")(inputs))
    x = MaxPooling2D()(Activation("linear")(x))
    x = AveragePooling2D(3, strides=1, padding="same")(x)
    model = Model(inputs, Dropout(0.5)(Flatten()(x)), rng=0).layer
    names = [name for name, _ in model.children()]
    assert names == [
        "first",
        "batch_normalization",
        "activation",
        "max_pooling2d",
        "average_pooling2d",
        "flatten",
        "dropout",
    ]
    norm = model["batch_normalization"]
    assert (norm.eps, norm.running_variance) == (1e-3, "biased")
    assert norm.momentum == pytest.approx(0.01)
    assert model["max_pooling2d"].stride == (2, 2)
    assert not model["average_pooling2d"].count_include_pad
    assert model["first"].padding == ((0, 0), (0, 0))


def test_one_seed_gives_one_training(capsys):
    results = []
    for _ in range(2):
        inputs = Input((8, 8, 1))
        model = Model(inputs, Dense(10, activation="softmax")(Flatten()(inputs)), rng=3)
        model.compile(SGD(0.5), "sparse_categorical_crossentropy")
        model.fit(DIGITS.x_train, DIGITS.y_train, epochs=2, verbose=0, validation_split=0.2)
        results.append(model.predict(DIGITS.x_test))
    assert_array_equal(*results)
    assert capsys.readouterr().out == ""


def test_a_minires_layer_and_optimizer_can_be_given(capsys):
    layer = minires.Sequential(minires.Flatten(), minires.Dense(64, 10, rng=0))
    model = Model(layer, rng=0)
    model.compile(minires.Adam(layer.parameters(), 1e-2), loss=minires.SoftmaxCrossEntropy())
    model.fit(DIGITS.x_train, DIGITS.y_train[:, None], epochs=2, batch_size=64, verbose=2)
    assert capsys.readouterr().out.count("epoch ") == 2
    loss, accuracy = model.evaluate(DIGITS.x_test, DIGITS.y_test, verbose=1)
    assert accuracy > 0.8
    assert f"loss {loss:.4f}" in capsys.readouterr().out


def test_keras_adam_has_kerass_eps():
    layer = minires.Dense(2, 2, rng=0)
    optimizer = Adam(learning_rate=0.01).bind(layer.parameters())
    assert (optimizer.eps, optimizer.lr, optimizer.betas) == (1e-7, 0.01, (0.9, 0.999))


def test_to_categorical():
    assert_array_equal(to_categorical([[0], [2]]), [[1, 0, 0], [0, 0, 1]])
    assert to_categorical(np.array([1.0, 0.0]), 4).shape == (2, 4)
    for wrong in ([0.5], [-1]):
        with pytest.raises(ValueError, match="to_categorical expects class"):
            to_categorical(wrong)
    with pytest.raises(ValueError, match="classes from 0 to 1, got 0 to 2"):
        to_categorical([0, 2], 2)


def compiled(outputs_softmax=True):
    inputs = Input((4,))
    activation = "softmax" if outputs_softmax else None
    return Model(inputs, Dense(3, activation=activation)(inputs), rng=0)


def entangled():
    """Two sums that share a layer: no Sequential of Residuals says this."""
    inputs = Input((4,))
    a, b = Dense(4)(inputs), Dense(4)(inputs)
    return Model(inputs, add([add([a, b]), add([a, inputs])]))


def called_twice():
    inputs, dense = Input((4,)), Dense(4)
    return dense(dense(inputs))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Dense(3)(np.ones((2, 4))), TypeError, "a tensor that comes from Input"),
        (lambda: Dense(3)(Input((4, 4, 1))), ValueError, "put Flatten.. before it"),
        (lambda: Conv2D(3, 3)(Input((4,))), ValueError, r"Conv2D expects \(N, H, W, C\)"),
        (lambda: Conv2D(3, 9)(Input((4, 4, 1))), ValueError, "at least 9x9 pixels"),
        (lambda: Conv2D(3, 3, activation="gelu"), ValueError, "activation to be one of"),
        (lambda: Dense(3, kernel_initializer="zeros"), ValueError, "kernel_initializer to be one"),
        (lambda: add([Input((4,)), Input((3,))]), ValueError, "two tensors of one shape"),
        (lambda: add([Input((4,))] * 3), ValueError, "a list of two tensors"),
        (called_twice, ValueError, "weights are not shared here"),
        (entangled, ValueError, "a layer that two sums share"),
        (lambda: Model(Input((4,)), Dense(2)(Input((4,)))), ValueError, "from its inputs alone"),
        (lambda: compiled().compile("adagrad"), ValueError, "optimizer to be one of"),
        (lambda: compiled().compile(3), TypeError, "an optimizer or its name, got 3"),
        (lambda: compiled().compile("adam", "mse"), ValueError, "loss to be one of"),
        (lambda: compiled(False).compile("adam"), ValueError, "ends in a softmax"),
        (lambda: compiled().compile(metrics=["auc"]), ValueError, "metrics to be one of"),
        (lambda: compiled().fit(np.ones((2, 4)), [0, 1]), RuntimeError, "call compile first"),
        (lambda: Model(minires.ReLU()).summary(), ValueError, "a known input shape"),
    ],
)
def test_what_cannot_be_expressed_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_every_public_name_is_documented():
    for name in keras.__all__:
        assert getattr(keras, name).__doc__, name


def test_layers_of_one_name_are_all_kept():
    inputs = Input((8, 8, 3))
    relu = ReLU(name="act")
    model = Model(inputs, relu(Conv2D(3, 1, name="c")(relu(inputs))), rng=0).layer
    assert [name for name, _ in model.children()] == ["act", "c", "act_1"]
    clash = Model(inputs, ReLU(name="re_lu_1")(ReLU()(ReLU()(inputs)))).layer
    assert len(clash) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Input(5), "Input expects shape"),
        (lambda: ReLU(6), "ReLU expects its arguments out of name"),
        (lambda: Conv2D(3, 3, kernel_regularizer="l2"), "Conv2D expects its arguments out of fil"),
        (
            lambda: compiled().compile("adam", loss=minires.SoftmaxCrossEntropy),
            "a loss or its name",
        ),
    ],
)
def test_options_without_a_counterpart_are_refused_by_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_a_split_that_leaves_nothing_is_refused():
    model = compiled().compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"leave examples on both sides, got 0\.9 of 4"):
        model.fit(np.ones((4, 4)), np.zeros(4, int), validation_split=0.9)
    with pytest.raises(TypeError, match=r"validation_data to be \(x, y\), got ndarray"):
        model.fit(np.ones((4, 4)), np.zeros(4, int), validation_data=np.ones((4, 4)))
