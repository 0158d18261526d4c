"""The training step and its loops: they learn, repeat, measure, and stop when numbers break."""

import csv
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.core import Layer
from minires.data import load_digits
from minires.finite import NonFiniteError
from minires.history import Epoch, History
from minires.layers import BatchNorm2d, Dense, Dropout, Flatten, ReLU, Sequential, Softmax
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy
from minires.models import resnet8
from minires.optimizers import SGD, Adam, clip_gradients, gradient_norm
from minires.schedules import Cosine, Step
from minires.training import evaluate, fit, predict, train_step

DIGITS = load_digits()


def few(count=96):
    return DIGITS.x_train[:count].copy(), DIGITS.y_train[:count].copy()


def small(seed=0):
    return Sequential(
        flatten=Flatten(),
        fc1=Dense(64, 32, rng=seed),
        norm=BatchNorm2d(32),
        relu=ReLU(),
        dropout=Dropout(0.1, rng=seed),
        fc2=Dense(32, 10, rng=seed + 1),
    )


def state_of(model):
    arrays = [p.value for p in model.parameters()]
    norms = [layer for _, layer in model.named_layers() if isinstance(layer, BatchNorm2d)]
    return [a.copy() for a in arrays + [s for n in norms for s in n.snapshot()]]


def assert_same_state(a, b):
    for x, y in zip(a, b, strict=True):
        assert_array_equal(x, y)


def test_a_residual_network_learns_the_digits():
    model = resnet8(input_shape=(8, 8, 1), rng=0)
    history = fit(model, DIGITS, Adam(model.parameters(), 3e-3), 2, rng=0)
    assert history[-1].test_accuracy > 0.9
    assert history[1].loss < history[0].loss


def test_the_training_step_is_the_six_lines():
    x, labels = few(32)
    ours, by_hand = small(), small()
    optimizer = SGD(ours.parameters(), 0.1)
    value, logits = train_step(ours, SoftmaxCrossEntropy(), optimizer, x, labels)

    loss, optimizer = SoftmaxCrossEntropy(), SGD(by_hand.parameters(), 0.1)
    expected = by_hand.forward(x, training=True)
    assert value == loss.forward(expected, labels)
    optimizer.zero_grad()
    by_hand.backward(loss.backward())
    optimizer.step()
    assert_array_equal(logits, expected)
    assert_same_state(state_of(ours), state_of(by_hand))


def test_two_runs_with_one_seed_are_bitwise_equal():
    runs = []
    for _ in range(2):
        model = small()
        history = fit(model, few(), Adam(model.parameters()), 2, batch_size=20, rng=5)
        runs.append((state_of(model), history.column("loss")))
    assert_same_state(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_another_seed_shuffles_otherwise():
    losses = []
    for seed in (0, 1):
        model = small()
        losses += fit(model, few(), SGD(model.parameters(), 0.1), 1, rng=seed).column("loss")
    assert losses[0] != losses[1]


def test_evaluation_weights_a_ragged_last_batch():
    model = small()
    x, labels = few(50)
    ragged, whole = (evaluate(model, x, labels, batch_size=b) for b in (16, 50))
    assert_allclose(ragged, whole, rtol=1e-6)
    logits = model.forward(x)
    assert whole.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert whole.loss == SoftmaxCrossEntropy().forward(logits, labels)


def test_predict_gives_all_rows_in_order():
    model = small()
    x, _ = few(50)
    assert_allclose(predict(model, x, batch_size=16), model.forward(x), rtol=1e-5, atol=1e-6)


def test_the_schedule_sets_the_rate_of_every_step():
    model, seen = small(), []
    optimizer = SGD(model.parameters(), 9.0)

    def schedule(step):
        seen.append(step)
        return Cosine(0.1, 6)(step)

    history = fit(model, few(96), optimizer, 2, batch_size=32, schedule=schedule, rng=0)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert history.column("lr") == [Cosine(0.1, 6)(2), Cosine(0.1, 6)(5)]
    assert history.column("step") == [3, 6]


def test_clipping_bounds_the_gradients_of_a_step():
    x, labels = few()
    model = small()
    optimizer = SGD(model.parameters(), 0.1)
    train_step(model, SoftmaxCrossEntropy(), optimizer, x, labels, clip_norm=0.01)
    assert gradient_norm(model.parameters()) <= 0.01
    assert clip_gradients(model.parameters(), 1.0) <= 0.01


def test_the_history_is_written_as_csv_and_json_lines(tmp_path):
    model = small()
    history = fit(model, few(), SGD(model.parameters(), 0.1), 2, rng=0, validation=few(20))
    history.to_csv(tmp_path / "history.csv")
    history.to_jsonl(tmp_path / "history.jsonl")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [float(row["loss"]) for row in rows] == history.column("loss")
    assert [line["test_accuracy"] for line in lines] == history.column("test_accuracy")
    assert list(rows[0]) == list(lines[0]) == list(vars(history[0]))


def test_a_history_without_test_images_has_empty_cells(tmp_path):
    history = History([Epoch(1, 3, 0.5, 0.9, None, None, 0.1, 2.0)])
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().splitlines()[1] == "1,3,0.5,0.9,,,0.1,2.0"
    assert repr(history) == "epoch 1: loss 0.5000, accuracy 0.900, 2.0 s"
    with pytest.raises(ValueError, match=r"a column out of .*'loss'.* got 'error'"):
        history.column("error")


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys):
    model = small()
    fit(model, few(), SGD(model.parameters(), 0.1), 1, rng=0)
    assert capsys.readouterr() == ("", "")


# ---- numbers that are not finite


class Poison(Layer):
    """Turns one number into `value`, forward or backward, from call `after` on."""

    def __init__(self, value, where, after=0):
        self.value, self.where, self.after, self.calls = value, where, after, 0

    def _forward(self, x, training):
        self.calls += 1
        return self._poison(x, "forward"), None

    def _backward(self, dy, cache):
        return self._poison(dy, "backward")

    def _poison(self, a, where):
        a = a.copy()
        if where == self.where and self.calls > self.after:
            a.flat[0] = self.value
        return a


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nan_stops_training_with_layer_pass_and_step_and_the_weights_before_it(value, where):
    model = small()
    model = Sequential(head=model, tail=Sequential(bad=Poison(value, where, after=2)))
    optimizer = SGD(model.parameters(), 0.1)
    x, labels = few(96)
    for _ in range(2):
        train_step(model, SoftmaxCrossEntropy(), optimizer, x, labels)
    before = state_of(model)
    with pytest.raises(NonFiniteError) as caught:
        train_step(model, SoftmaxCrossEntropy(), optimizer, x, labels)
    error = caught.value
    assert (error.path, error.where, error.step) == ("tail.bad", where, 3)
    assert f"in the {where} pass of tail.bad at step 3" in str(error)
    assert_same_state(state_of(model), before)
    assert optimizer.steps == 2


def test_a_learning_rate_that_is_far_too_high_stops_with_the_step():
    model = small()
    optimizer = SGD(model.parameters(), 1e30)
    with pytest.raises(NonFiniteError, match=r"expects finite numbers, got .* at step \d"):
        fit(model, few(), optimizer, 5, rng=0)
    assert optimizer.steps >= 1


def test_nan_in_the_images_is_found_in_the_input():
    x, labels = few(32)
    x[3, 4, 4, 0] = np.nan
    model = small()
    with pytest.raises(NonFiniteError, match="1 NaN among 2,048 numbers in the forward pass of in"):
        train_step(model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), x, labels)


# ---- what does not fit


def bad(x=None, labels=None, **options):
    images, classes = few(32)
    return (images if x is None else x, classes if labels is None else labels), options


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (bad(labels=DIGITS.y_train[:31]), ValueError, "got 32 images and 31 labels"),
        (bad(labels=np.full(32, 10)), ValueError, "labels from 0 to 9, got 10"),
        (bad(labels=np.full(32, np.nan)), ValueError, "integer labels"),
        (bad(x=np.zeros((32, 8, 8, 1), np.uint8)), ValueError, "or a preprocess, got uint8"),
        (bad(x=np.zeros((32, 8, 8, 1))), ValueError, "dtype float32, like its parameters, got f"),
        (bad(x=np.zeros((32, 7, 8, 1), np.float32)), ValueError, r"shape \(N, 64\), got \(1, 56"),
        (bad(x=[[1.0]] * 32), TypeError, "x to be a NumPy array, got list"),
        (bad(epochs=0), ValueError, "epochs to be an integer >= 1, got 0"),
        (bad(batch_size=2.5), ValueError, "batch_size to be an integer >= 1, got 2.5"),
        (bad(clip_norm=-1.0), ValueError, "clip_norm to be a number > 0, got -1.0"),
        (bad(validation=(few(5)[0], few(4)[1])), ValueError, "got 5 images and 4 labels"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(given, error, words):
    data, options = given
    model = small()
    optimizer = Adam(model.parameters())
    before = state_of(model)
    with pytest.raises(error, match=words):
        fit(model, data, optimizer, **{"epochs": 1, "rng": 0} | options)
    assert_same_state(state_of(model), before)
    assert optimizer.steps == 0


def test_data_of_another_kind_and_an_optimizer_of_another_model_are_refused():
    model, other = small(), small()
    with pytest.raises(TypeError, match=r"a Dataset or \(x, labels\), got ndarray"):
        fit(model, few()[0], SGD(model.parameters(), 0.1), 1)
    with pytest.raises(ValueError, match="the model's own parameters, got 6 of another"):
        fit(model, few(), SGD(other.parameters(), 0.1), 1)


def test_a_step_schedule_can_be_used_as_it_is():
    model = small()
    optimizer = SGD(model.parameters(), 0.1)
    history = fit(model, few(64), optimizer, 2, batch_size=32, schedule=Step(0.1, (2,)), rng=0)
    assert history.column("lr") == pytest.approx([0.1, 0.01])


def test_a_single_left_over_example_joins_the_batch_before_it():
    model = small()
    history = fit(model, few(65), SGD(model.parameters(), 0.1), 1, batch_size=64, rng=0)
    assert history[0].step == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": 0.1}, "schedule to be a function, got 0.1"),
        ({"on_epoch_end": "print"}, "on_epoch_end to be a function, got 'print'"),
    ],
)
def test_functions_that_cannot_be_called_are_refused_before_the_first_step(options, words):
    model = small()
    with pytest.raises(TypeError, match=words):
        fit(model, few(), SGD(model.parameters(), 0.1), 1, **options)


@pytest.mark.parametrize("rate", [None, np.nan, -1.0])
def test_a_schedule_that_gives_no_rate_stops_before_it_does_harm(rate):
    model = small()
    before = state_of(model)
    with pytest.raises(ValueError, match="SGD expects lr to be a number >= 0, got"):
        fit(model, few(), SGD(model.parameters(), 0.1), 1, schedule=lambda step: rate, rng=0)
    assert_same_state(state_of(model), before)


def test_a_late_wrong_label_is_found_before_the_first_step():
    x, labels = few(96)
    labels[90] = 10
    model = small()
    before = state_of(model)
    with pytest.raises(ValueError, match="labels from 0 to 9, got 10 at index 90"):
        fit(model, (x, labels), SGD(model.parameters(), 0.1), 1, batch_size=8, rng=0)
    assert_same_state(state_of(model), before)


def test_a_nan_that_does_not_come_again_is_reported_as_it_was():
    class Once(Poison):
        def _poison(self, a, where):
            return super()._poison(a, where) if self.calls == 1 else a

    model = Sequential(small(), Once(np.nan, "forward"))
    with pytest.raises(NonFiniteError, match="a loss of nan that did not come again"):
        train_step(model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), *few(32))


class NanWeightGradient(Dense):
    """dx is finite, dw is not."""

    def _backward(self, dy, cache):
        dx = super()._backward(dy, cache)
        self.weight.grad[0, 0] = np.nan
        return dx


class NanInTraining(ReLU):
    def _forward(self, x, training):
        y, cache = super()._forward(x, training)
        return (y * np.nan, cache) if training else (y, cache)


class InfiniteLoss(SoftmaxCrossEntropy):
    def forward(self, logits, labels):
        return super().forward(logits, labels) + np.inf


@pytest.mark.parametrize(
    ("layer", "loss", "path", "where"),
    [
        (NanWeightGradient(10, 10, rng=0), SoftmaxCrossEntropy(), "1", "backward"),
        (NanInTraining(), SoftmaxCrossEntropy(), "1", "forward"),
        (ReLU(), InfiniteLoss(), "loss", "forward"),
    ],
)
def test_the_place_of_a_nan_is_found(layer, loss, path, where):
    model = Sequential(small(), layer)
    before = state_of(model)
    with pytest.raises(NonFiniteError) as caught:
        train_step(model, loss, SGD(model.parameters(), 0.1), *few(32))
    assert (caught.value.path, caught.value.where) == (path, where)
    assert_same_state(state_of(model), before)
    assert all((p.grad == 0).all() for p in model.parameters())


def test_a_single_layer_is_called_the_model():
    x = np.ones((4, 3), np.float32)
    model = NanWeightGradient(3, 2, rng=0)
    with pytest.raises(NonFiniteError, match="in the backward pass of the model at step 1"):
        train_step(model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), x, np.zeros(4, int))


def test_the_loss_of_an_epoch_is_the_mean_over_examples_and_not_over_batches():
    model = small()
    model.dropout.rate = 0.0
    x, labels = few(10)
    history = fit(
        model, (x, labels), SGD(model.parameters(), 0.0), 1, batch_size=8, rng=0, shuffle=False
    )
    loss = SoftmaxCrossEntropy()
    values = [
        loss.forward(model.forward(x[part], training=True), labels[part])
        for part in (slice(8), slice(8, 10))
    ]
    assert history[0].loss == pytest.approx((8 * values[0] + 2 * values[1]) / 10, rel=1e-6)


def test_without_shuffling_the_seed_does_not_matter():
    losses = []
    for seed in (0, 1):
        model = small()
        optimizer = SGD(model.parameters(), 0.1)
        losses += fit(model, few(), optimizer, 1, rng=seed, shuffle=False).column("loss")
    assert losses[0] == losses[1]


def test_a_wrong_test_label_is_found_before_the_first_step():
    model = small()
    before = state_of(model)
    wrong = few(5)[0], np.full(5, 10)
    with pytest.raises(ValueError, match="labels from 0 to 9, got 10"):
        fit(model, few(), SGD(model.parameters(), 0.1), 1, validation=wrong)
    assert_same_state(state_of(model), before)


def test_the_test_images_are_evaluated_with_the_loss_of_the_training():
    model = Sequential(small(), Softmax())
    loss = CategoricalCrossEntropy()
    history = fit(
        model, few(), SGD(model.parameters(), 0.1), 1, loss=loss, validation=few(20), rng=0
    )
    expected = evaluate(model, *few(20), loss=loss)
    assert (history[0].test_loss, history[0].test_accuracy) == expected


def test_a_bar_is_drawn_when_asked_for(capsys):
    model = small()
    fit(model, few(), SGD(model.parameters(), 0.1), 1, rng=0, progress=True)
    assert "epoch 1/1" in capsys.readouterr().err
    fit(model, few(), SGD(model.parameters(), 0.1), 1, rng=0, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "adam"}, r"an optimizer such as Adam\(.*\), got str"),
        ({"loss": "mse"}, "a loss such as SoftmaxCrossEntropy.., got 'mse'"),
        ({"loss": SoftmaxCrossEntropy}, "a loss such as SoftmaxCrossEntropy"),
        ({"validation": few(5)[0]}, "validation as .x, labels., got ndarray"),
        ({"validation": DIGITS}, "validation as .x, labels., got Dataset"),
        ({"model": None}, "model to be a Layer, got NoneType"),
    ],
)
def test_names_where_objects_belong_are_refused(change, words):
    model = small()
    given = {"model": model, "data": few(), "optimizer": SGD(model.parameters(), 0.1), "epochs": 1}
    with pytest.raises(TypeError, match=words):
        fit(**given | change)
