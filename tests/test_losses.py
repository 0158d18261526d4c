"""The losses: labels in every form, extreme logits, label smoothing."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.layers import Dense, Sequential, Softmax
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy, default_loss
from minires.training import evaluate

LABELS = np.array([2, 0, 1])


def test_integer_one_hot_and_soft_labels_agree(rng):
    logits, loss = rng.standard_normal((3, 4)), SoftmaxCrossEntropy()
    results = []
    for labels in (LABELS, np.eye(4)[LABELS], np.eye(4, dtype=int)[LABELS], np.eye(4)[LABELS] > 0):
        results.append((loss.forward(logits, labels), loss.backward()))
    for value, dlogits in results[1:]:
        assert value == results[0][0]
        assert_array_equal(dlogits, results[0][1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_1e4_give_finite_values(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype)
    loss = SoftmaxCrossEntropy()
    assert_allclose(loss.forward(logits, np.array([1, 0])), 20000 + np.log(2) / 2, rtol=1e-7)
    assert_allclose(loss.backward(), [[0.5, -0.5, 0], [-0.5, 0.25, 0.25]])


def test_label_smoothing_mixes_in_the_uniform_distribution(rng):
    logits = rng.standard_normal((3, 4))
    smoothed = SoftmaxCrossEntropy(label_smoothing=0.2).forward(logits, LABELS)
    targets = 0.8 * np.eye(4)[LABELS] + 0.05
    assert_allclose(smoothed, SoftmaxCrossEntropy().forward(logits, targets), rtol=1e-14)


def test_the_gradient_carries_one_over_n_and_its_rows_sum_to_zero(rng):
    logits = rng.standard_normal((6, 4))
    loss = SoftmaxCrossEntropy()
    loss.forward(logits, np.zeros(6, int))
    single = loss.backward()
    loss.forward(np.tile(logits, (2, 1)), np.zeros(12, int))
    assert_allclose(loss.backward()[:6], single / 2, rtol=1e-13)
    assert_allclose(single.sum(axis=1), 0, atol=1e-16)


def test_probabilities_and_logits_give_one_loss_and_one_gradient(rng):
    logits = rng.standard_normal((3, 4))
    on_logits, on_probs, softmax = SoftmaxCrossEntropy(), CategoricalCrossEntropy(), Softmax()
    value = on_probs.forward(softmax.forward(logits), LABELS)
    assert_allclose(value, on_logits.forward(logits, LABELS), rtol=1e-13)
    assert_allclose(softmax.backward(on_probs.backward()), on_logits.backward(), atol=1e-15)


def test_why_logits_are_better():
    logits = np.array([[50.0, 0.0]])  # very sure and very wrong
    softmax, on_probs, on_logits = Softmax(), CategoricalCrossEntropy(), SoftmaxCrossEntropy()
    on_probs.forward(softmax.forward(logits), np.array([1]))
    assert not softmax.backward(on_probs.backward()).any()  # nothing to learn from
    on_logits.forward(logits, np.array([1]))
    assert_allclose(on_logits.backward(), [[1, -1]])  # the largest gradient there is


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), CategoricalCrossEntropy()])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1, 4]), "labels from 0 to 3, got 4 at index 2"),
        (np.array([0, -1, 2]), "labels from 0 to 3, got -1 at index 1"),
        (np.array([0.0, 1.0, 2.0]), "integer labels for shape .3,., got float64"),
        (np.array([[0], [1], [2]]), r"of shape \(3,\) or \(3, 4\), got \(3, 1\): use labels.rav"),
        (np.array([0, 1]), r"labels of shape \(3,\) or \(3, 4\), got \(2,\)"),
        (np.full((3, 4), np.nan), r"finite labels >= 0, got nan at index \(0, 0\)"),
        (np.eye(4)[:3] - 0.5, "finite labels >= 0, got -0.5"),
        (np.eye(4)[:3] * 2, "rows that sum to 1, got a sum of 2 in row 0"),
        (np.array(["a", "b", "c"]), "integer labels"),
        (np.full((3, 4), "a"), "numbers as labels"),
    ],
)
def test_wrong_labels_are_refused(loss, labels, words):
    prediction = np.full((3, 4), 0.25)
    with pytest.raises(ValueError, match=words):
        loss.forward(prediction, labels)
    with pytest.raises(RuntimeError, match="expects a forward before it"):
        loss.backward()


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), CategoricalCrossEntropy()])
def test_a_refused_forward_forgets_the_one_before(loss):
    prediction = np.full((3, 4), 0.25)
    loss.forward(prediction, LABELS)
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        loss.forward(prediction, LABELS + 2)
    with pytest.raises(RuntimeError, match="expects a forward before it"):
        loss.backward()


@pytest.mark.parametrize("row", [[1.5, -0.5], [np.nan, 1.0]])
def test_what_is_no_distribution_is_refused_as_probabilities(row):
    with pytest.raises(ValueError, match="probs >= 0 in rows that sum to 1"):
        CategoricalCrossEntropy().forward(np.array([row]), np.array([0]))


def test_soft_labels_are_taken_as_distributions_though_rounded(rng):
    loss = SoftmaxCrossEntropy()
    loss.forward(rng.standard_normal((1, 4)), np.array([[0.2, 0.3, 0.1, 0.4005]]))
    assert_allclose(loss.backward().sum(axis=1), 0, atol=1e-15)


def test_logits_given_as_probabilities_are_refused(rng):
    with pytest.raises(ValueError, match=r"sum to 1.* end the model with Softmax"):
        CategoricalCrossEntropy().forward(rng.standard_normal((3, 4)), LABELS)


def test_without_a_loss_a_model_that_ends_in_softmax_is_measured_on_its_probabilities(rng):
    body = Dense(4, 3, rng=0, dtype=np.float64)
    model = Sequential(Sequential(body, Softmax()))
    x, labels = rng.standard_normal((5, 4)), np.array([0, 1, 2, 0, 1])
    wanted = evaluate(body, x, labels).loss
    assert evaluate(model, x, labels).loss == pytest.approx(wanted, rel=1e-12)
    assert isinstance(default_loss(model), CategoricalCrossEntropy)
    assert isinstance(default_loss(body), SoftmaxCrossEntropy)
    given = SoftmaxCrossEntropy(label_smoothing=0.1)
    assert default_loss(model, given) is given
