"""Centring, scaling and augmentation, against their definition in loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import minires as mr
from minires.data import Preprocess
from minires.data.augment import below, cover, crop, cutout, flip, random_words, shrink


def images(count=50, H=8, W=6, C=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, H, W, C), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_channels_have_mean_0_and_deviation_1_over_all_training_pixels(dtype):
    x = images().astype(dtype)
    y = Preprocess.of(x)(x)
    assert y.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-5)


def test_the_mean_of_many_images_is_exact_though_it_is_read_in_pieces():
    x = images(count=2500, H=2, W=2)
    made = Preprocess.of(x)
    assert_allclose(made.mean, x.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    assert_allclose(1 / made.scale, x.std((0, 1, 2), dtype=np.float64), rtol=1e-6)


def test_pixels_are_centred_one_by_one_and_divided_by_255():
    x = images()
    y = Preprocess.of(x, normalize="pixels")(x)
    assert_allclose(y, (x - x.mean(axis=0)) / 255, atol=1e-6)


def test_without_normalisation_bytes_are_divided_by_255_and_floats_are_left():
    x = images()
    assert_allclose(Preprocess.of(x, normalize=None)(x), x / 255, rtol=1e-6)
    floats = x.astype(np.float32)
    assert_array_equal(Preprocess.of(floats, normalize=None)(floats), floats)


def test_a_constant_channel_becomes_zeros_and_no_nan():
    x = images()
    x[..., 1] = 7
    assert_array_equal(Preprocess.of(x)(x)[..., 1], 0)


@pytest.mark.parametrize("change", [{"pad": 2}, {"flip": True}, {"cutout": 3}])
def test_every_kind_of_change_is_the_one_of_the_definition(change):
    x, index = images(), np.arange(50) * 7
    made = Preprocess.of(x, seed=3, **change)
    y = made.training(x, index, epoch=4)
    words = random_words(3, 4, index, 5)
    places = below(words[:2], 5), below(words[2], 2), below(words[3], 8), below(words[4], 6)
    (down, right), mirrored, row, column = places
    for n, image in enumerate(made(x)):
        wanted = np.zeros_like(image)
        for i in range(8):
            for j in range(6):
                u, v = i, j
                if "pad" in change:
                    u, v = i + down[n] - 2, j + right[n] - 2
                if "flip" in change and mirrored[n]:
                    v = 5 - j
                hidden = "cutout" in change and (
                    0 <= i - row[n] + 1 < 3 and 0 <= j - column[n] + 1 < 3
                )
                if 0 <= u < 8 and 0 <= v < 6 and not hidden:
                    wanted[i, j] = image[u, v]
        assert_array_equal(y[n], wanted)


def test_tests_see_no_augmentation():
    x = images()
    plain, made = Preprocess.of(x), Preprocess.of(x, pad=2, flip=True, cutout=3)
    assert_array_equal(made(x), plain(x))
    assert_array_equal(plain.training(x, np.arange(50), 1), plain(x))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(50)), st.integers(1, 50))
def test_an_image_is_changed_the_same_way_in_any_batch(chosen, size):
    x = images()
    made = Preprocess.of(x, pad=2, flip=True, cutout=3, seed=5)
    together = made.training(x, np.arange(50), epoch=2)
    index = np.array(chosen[:size])
    alone = made.training(x[index], index, epoch=2)
    assert_array_equal(alone, together[index])
    assert_array_equal(shrink(alone, (6, 4)), shrink(together, (6, 4))[index])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"index": 1}])
def test_another_seed_epoch_or_index_draws_other_numbers(other):
    given = {"seed": 0, "epoch": 0, "index": 0} | other
    words = random_words(0, 0, np.arange(1000), 3)
    others = random_words(given["seed"], given["epoch"], np.arange(1000) + given["index"], 3)
    assert (words != others).all()


def test_the_numbers_are_uniform_and_draws_and_neighbours_are_unrelated():
    count = 60_000
    words = random_words(0, 0, np.arange(count), 2)
    places = below(words, 9)
    for draw in places:
        counts = np.bincount(draw, minlength=9)
        assert counts.size == 9
        chi_squared = ((counts - count / 9) ** 2 / (count / 9)).sum()
        assert chi_squared < 27  # 8 degrees of freedom: exceeded once in 1400 times
    signs = 2.0 * below(words, 2) - 1
    epochs = 2.0 * below(random_words(0, 1, np.arange(count), 1)[0], 2) - 1
    limit = 4 / np.sqrt(count)
    assert abs(np.mean(signs[0] * signs[1])) < limit
    assert abs(np.mean(signs[0] * epochs)) < limit
    assert abs(np.mean(signs[0, 1:] * signs[0, :-1])) < limit


def test_splitmix_gives_the_published_numbers():
    # the first two outputs of SplitMix64 from the state 1234567, as in the reference program
    from minires.data.augment import GOLDEN, mix

    state = np.array([1234567], np.uint64)
    found = [int(mix(state + k * GOLDEN)[0]) for k in np.arange(2, dtype=np.uint64)[:, None]]
    assert found == [6457827717110365317, 3203168211198807973]


def test_nothing_is_written_to_the_stored_images():
    x = images().astype(np.float32)
    before = x.copy()
    x.setflags(write=False)
    Preprocess.of(x, normalize=None, pad=2, flip=True, cutout=3).training(x, np.arange(50), 1)
    assert_array_equal(x, before)


def test_pure_functions_at_their_limits():
    x = images().astype(np.float32)
    same = np.full(50, 2)
    assert_array_equal(crop(x, 2, same, same), x)
    assert_array_equal(flip(x, np.zeros(50, bool)), x)
    assert (cutout(x, 100, same, same) == 0).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pad": -1}, "expects pad to be an integer >= 0, got -1"),
        ({"flip": "yes"}, "flip (or \"alternate\") to be True or False, got 'yes'"),
        ({"cutout": 1.5}, "expects cutout to be an integer >= 0, got 1.5"),
        ({"seed": -1}, "expects seed to be an integer >= 0, got -1"),
        ({"seed": 2**64}, "a seed below 2^64"),
        ({"normalize": "imagenet"}, "normalize to be one of 'channels', 'pixels', None"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match="Preprocess") as error:
        Preprocess.of(images(), **wrong)
    assert words in str(error.value)


@pytest.mark.parametrize("index", [np.arange(49), np.full(50, 0.5), np.arange(-1, 49), [[0] * 50]])
def test_what_are_no_numbers_of_the_images_is_refused(index):
    with pytest.raises(
        ValueError, match=r"index to be 50 integers from 0, one for each image, got"
    ):
        Preprocess.of(images(), flip=True).training(images(), index, epoch=0)


def test_alternating_flips_show_each_image_both_ways_in_any_two_epochs():
    x, index = images(), np.arange(50)
    made = Preprocess.of(x, flip="alternate", seed=2)
    plain = made(x)
    first, second, third = (made.training(x, index, epoch) for epoch in (3, 4, 5))
    mirrored = (first != plain).any(axis=(1, 2, 3))
    assert 10 < mirrored.sum() < 40
    assert_array_equal(first, flip(plain, mirrored))
    assert_array_equal(second, flip(plain, ~mirrored))
    assert_array_equal(third, first)


@pytest.mark.parametrize(
    ("H", "W", "h", "w"), [(8, 6, 6, 4), (8, 6, 4, 3), (5, 7, 5, 7), (9, 9, 1, 2)]
)
def test_shrinking_is_the_mean_over_the_area_of_a_pixel(H, W, h, w):
    x = np.random.default_rng(0).standard_normal((3, H, W, 2))
    fine = x.repeat(h, axis=1).repeat(w, axis=2)  # every old and new pixel is whole in it
    wanted = fine.reshape(3, h, H, w, W, 2).mean(axis=(2, 4))
    assert_allclose(shrink(x, (h, w)), wanted, rtol=1e-12, atol=1e-12)
    assert shrink(x.astype(np.float32), (h, w)).dtype == np.float32
    assert_allclose(cover(h, H).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("shape", "normalize", "words"),
    [
        ((50, 8, 6), None, r"\(N, H, W, 3\), got \(50, 8, 6\)"),
        ((50, 8, 6, 1), None, r"\(N, H, W, 3\), got \(50, 8, 6, 1\)"),
        ((50, 8, 8, 3), "pixels", r"\(N, 8, 6, 3\), got \(50, 8, 8, 3\)"),
    ],
)
def test_images_of_another_shape_are_refused(shape, normalize, words):
    with pytest.raises(ValueError, match=words):
        Preprocess.of(images(), normalize=normalize)(np.zeros(shape, np.uint8))
    with pytest.raises(TypeError, match="NumPy array, got list"):
        Preprocess.of([1, 2])


# ---- batches and fit


def test_batches_are_prepared_ahead_in_the_same_order():
    x, labels = images(), np.arange(50)
    made = Preprocess.of(x, pad=2, seed=1)

    def prepare(part, index):
        return made.training(part, index, epoch=3)

    plain = list(mr.data.batches(x, labels, 8, rng=0))
    ready = list(mr.data.batches(x, labels, 8, rng=0, prepare=prepare))
    assert len(plain) == len(ready) == 7
    for (raw, y), (seen, z) in zip(plain, ready, strict=True):
        assert_array_equal(y, z)
        assert_array_equal(seen, made.training(raw, y, epoch=3))


def test_one_batch_at_most_is_made_ahead():
    made = []
    coming = mr.data.ahead(lambda item: made.append(item) or item, range(5))
    assert next(coming) == 0
    assert len(made) <= 2
    assert list(coming) == [1, 2, 3, 4]
    assert list(mr.data.ahead(str, [])) == []


def test_an_error_in_preparation_comes_out_of_the_loop():
    def fail(x, index):
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        list(mr.data.batches(images(), np.arange(50), 8, prepare=fail))


def test_fit_takes_bytes_with_a_preprocess_and_says_so_without():
    x, labels = images(H=8, W=8), np.arange(50) % 2
    model = mr.models.resnet8(2, input_shape=(8, 8, 3), rng=0)
    optimizer = mr.SGD(model.parameters(), 0.01)
    with pytest.raises(ValueError, match=r"a preprocess, got uint8.*Preprocess\.of"):
        mr.fit(model, (x, labels), optimizer, 1, rng=0)
    made = Preprocess.of(x, pad=1, flip=True)
    pair = x, labels
    history = mr.fit(model, pair, optimizer, 2, validation=pair, preprocess=made, rng=0)
    assert history[1].step == 2
    by_hand = mr.evaluate(model, made(x), labels)
    assert history[1].test_loss == by_hand.loss
    assert_array_equal(mr.predict(model, x, preprocess=made), mr.predict(model, made(x)))


def test_epochs_of_fit_see_different_crops():
    x, seen = images(H=8, W=8), []
    made = Preprocess.of(x, pad=2)

    class Spy(mr.Identity):
        def _forward(self, y, training):
            if training:
                seen.append(y.copy())
            return super()._forward(y, training)

    model = mr.Sequential(Spy(), mr.Flatten(), mr.Dense(192, 2, rng=0))
    optimizer = mr.SGD(model.parameters(), 0.0)
    options = {"batch_size": 50, "shuffle": False, "preprocess": made, "rng": 0}
    mr.fit(model, (x, np.arange(50) % 2), optimizer, 2, **options)
    assert_array_equal(seen[0], made.training(x, np.arange(50), 1))
    assert_array_equal(seen[1], made.training(x, np.arange(50), 2))
