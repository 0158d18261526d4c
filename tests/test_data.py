"""The bundled digits, the drawn shapes, and batches."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minires.data import batches, load_digits, load_shapes


def test_the_digits_are_all_there_with_a_fixed_stratified_split():
    data = load_digits()
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert_array_equal(np.bincount(data.y_test), [36, 37, 35, 37, 36, 36, 36, 36, 35, 36])
    total = np.bincount(data.y_train) + np.bincount(data.y_test)
    assert_array_equal(total, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert data.x_train.dtype == np.float32
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    grey = data.x_train * 16
    assert_array_equal(grey, grey.round())
    assert (data.input_shape, data.num_classes) == ((8, 8, 1), 10)
    assert repr(data) == ("Dataset('digits', 1437 training and 360 test images 8x8x1, 10 classes)")


def test_no_test_digit_is_a_training_digit():
    data = load_digits()
    seen = {image.tobytes() for image in data.x_train}
    assert not any(image.tobytes() in seen for image in data.x_test)


def test_a_digit_looks_like_itself():
    data = load_digits()
    mean = [data.x_train[data.y_train == k].mean(axis=0).ravel() for k in range(10)]
    distances = [[np.linalg.norm(x.ravel() - m) for m in mean] for x in data.x_test]
    assert (np.argmin(distances, axis=1) == data.y_test).mean() > 0.85  # nearest mean


def test_shapes_are_the_same_for_one_seed_and_balanced():
    a, b, c = load_shapes(50, 20, seed=3), load_shapes(50, 20, seed=3), load_shapes(50, 20)
    assert_array_equal(a.x_train, b.x_train)
    assert_array_equal(a.y_test, b.y_test)
    assert (a.x_train != c.x_train).any()
    assert_array_equal(np.bincount(a.y_train), np.full(10, 5))
    assert a.x_train.shape == (50, 32, 32, 3)
    assert load_shapes(10, 10, size=20).x_test.shape == (10, 20, 20, 3)
    assert len(a.class_names) == 10


def test_every_shape_covers_a_part_of_its_image_and_not_all():
    data = load_shapes(200, 10, noise=0.0)
    for image in data.x_train:
        colours = np.unique(image.reshape(-1, 3).round(3), axis=0)
        assert len(colours) > 1
        assert (image >= 0).all()
        assert (image <= 1).all()


def test_batches_hold_every_example_once_with_its_label():
    x = np.arange(10)
    seen = list(batches(x, 10 * x, 4, rng=0))
    assert [len(xb) for xb, _ in seen] == [4, 4, 2]
    assert_array_equal(np.sort(np.concatenate([xb for xb, _ in seen])), x)
    assert all((yb == 10 * xb).all() for xb, yb in seen)


def test_batches_shuffle_examples_and_not_batches():
    x = np.arange(100)
    first, _ = next(iter(batches(x, x, 10, rng=0)))
    assert np.ptp(first) > 9
    a, b = (np.concatenate([xb for xb, _ in batches(x, x, 10, rng=s)]) for s in (0, 0))
    assert_array_equal(a, b)
    in_order = np.concatenate([xb for xb, _ in batches(x, x, 7, shuffle=False)])
    assert_array_equal(in_order, x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: batches(np.ones(3), np.ones(2), 1), "got 3 examples and 2 labels"),
        (lambda: batches(np.ones(0), np.ones(0), 1), "at least one, got 0 examples"),
        (lambda: batches(np.ones(3), np.ones(3), 0), "batch_size to be an integer >= 1, got 0"),
        (lambda: load_shapes(0), "train to be an integer >= 1, got 0"),
        (lambda: load_shapes(size=4), "size to be an integer >= 8, got 4"),
        (lambda: load_shapes(noise=-1), "noise to be a number >= 0, got -1"),
        (lambda: load_digits(dtype=int), "dtype float32 or float64, got <class 'int'>"),
    ],
)
def test_wrong_arguments_are_refused_at_once(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_neighbours_are_parted():
    x = np.arange(1000)
    order = np.concatenate([xb for xb, _ in batches(x, x, 100, rng=0)])
    assert (np.abs(np.diff(order)) == 1).mean() < 0.05
