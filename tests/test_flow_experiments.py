"""Ledger, path lengths, lesions, loss surfaces and Jacobians as experiments, on small networks."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from minires.cli import drawings
from minires.experiments import (
    explosion,
    growth,
    identity,
    jacobian,
    lesions,
    path_lengths,
    shattering,
    surface,
)
from minires.experiments.shattering import Scale
from minires.experiments.trained import TRAINED, digits, network, streams
from minires.flow import LossSurface, gradient_by_path_length
from minires.flow.paths import repeatable
from minires.losses import SoftmaxCrossEntropy
from minires.ops import reference


@pytest.fixture(scope="module")
def audited():
    return identity.measure(seeds=3, depth=14, images=16, epochs=1)


@pytest.fixture(scope="module")
def measured():
    return path_lengths.measure(seeds=3, depth=14, images=8, epochs=1, samples=4)


@pytest.fixture(scope="module")
def lesioned():
    return lesions.measure(seeds=1, depth=20, epochs=4, repeats=3)


@pytest.fixture(scope="module")
def surveyed():
    return surface.measure(seeds=1, depths=(8,), epochs=1, images=32, points=5)


@pytest.fixture(scope="module")
def decomposed():
    return jacobian.measure(seeds=2, blocks=3)


def test_streams_of_one_seed_share_no_numbers_with_each_other_or_with_the_seed():
    rngs = [np.random.default_rng(0), *streams(0, 3)]
    assert len({rng.random() for rng in rngs}) == 4


# ---- the ledger


def test_the_shortcut_part_is_dy_at_every_identity_block(audited):
    assert audited.identities == 4  # of 6: two change the shape
    for when, seeds in (("start", 3), ("trained", TRAINED)):
        assert_array_equal(audited.exact[when], [4] * seeds)
        assert_array_equal(audited.mismatch[when], 0)
        assert audited.of_blocks("cosine", when).shape == (seeds, 6)
    assert [found.expected for found in identity.rows(audited)] == [4, 0, 4, 0, 0]


def test_the_audit_sees_a_shortcut_that_is_nearly_the_identity():
    model = network("residual", 14, np.random.default_rng(0), reference)
    model.stage1.block1.sum.shortcut = Scale(1 + 1e-15)
    _, exact, mismatch = identity.audit(model, 8, reference)
    assert (exact, mismatch) == (3, 0)


# ---- path lengths


def test_single_paths_of_a_length_add_up_to_the_exact_sum():
    model = network("preactivation", 8, np.random.default_rng(0), reference).astype(np.float64)
    (x, labels), loss = digits(4), SoftmaxCrossEntropy(ops=reference)
    sums = gradient_by_path_length(model, x, labels, loss=loss)
    parts = np.zeros_like(sums.parts)
    with repeatable(model):
        loss.forward(model.forward(x, training=True), labels)
        dy = loss.backward()
        for taken in itertools.product([False, True], repeat=3):
            parts[sum(taken)] += path_lengths.along_path(model, dy, iter(taken))
    assert_allclose(parts, sums.parts, atol=1e-12 * abs(sums.total).max())


def test_paths_are_drawn_in_proportion_to_their_ratios():
    ratios, rng = np.array([2.0, 0.5, 1.0, 0.1]), np.random.default_rng(0)
    symmetric = path_lengths.symmetric_sums(ratios)
    pairs = list(itertools.combinations(range(4), 2))
    products = np.array([ratios[list(pair)].prod() for pair in pairs])
    assert symmetric[0, 2] == pytest.approx(products.sum())
    drawn = [path_lengths.likely_path(ratios, symmetric, 2, rng) for _ in range(4000)]
    found = [tuple(np.flatnonzero(taken)) for taken in drawn]
    seen = [found.count(pair) / 4000 for pair in pairs]
    assert_allclose(seen, products / products.sum(), atol=0.03)


def test_weighted_paths_estimate_the_mean_over_all_paths():
    model = network("preactivation", 14, np.random.default_rng(0), reference).astype(np.float64)
    (x, labels), loss = digits(2), SoftmaxCrossEntropy(ops=reference)
    found = path_lengths.single_paths(model, x, labels, loss, 40, np.random.default_rng(1))
    norms = {k: [] for k in range(7)}
    with repeatable(model):
        loss.forward(model.forward(x, training=True), labels)
        dy = loss.backward()
        for taken in itertools.product([False, True], repeat=6):
            dx = path_lengths.along_path(model, dy, iter(taken))
            norms[sum(taken)].append(np.linalg.norm(dx))
    assert_allclose(found, [np.mean(norms[k]) for k in range(7)], rtol=0.2)


def test_the_parts_are_the_gradient_and_the_binomials_are_the_published_ones(measured):
    found = path_lengths.rows(measured)
    assert [line.agrees for line in found[:3]] == [True] * 3
    assert len(measured.start) == len(measured.trained) == TRAINED
    for run in measured.start:
        for shares in run.shares.values():
            assert shares.shape == (7,)
            assert shares.sum() == pytest.approx(1)


def test_the_same_seeds_give_the_same_numbers(measured):
    again = path_lengths.measure(seeds=1, depth=14, images=8, epochs=1, samples=4)
    assert_array_equal(again.trained[0].single, measured.trained[0].single)
    assert_array_equal(again.trained[0].sums.parts, measured.trained[0].sums.parts)


# ---- lesions


def test_a_plain_network_is_lost_without_a_block_and_a_residual_one_is_not(lesioned):
    found = {name: lesions.accuracy(runs[0]) for name, runs in lesioned.single.items()}
    assert np.median(found["plain"][1:]) < 0.3
    assert np.median(found["residual"][1:]) > found["residual"][0] - 0.15
    assert found["residual"].shape == (10,)


def test_the_error_grows_with_the_number_of_blocks_dropped(lesioned):
    assert lesions.correlation(lesioned.multi[0], lambda record: record.count) > 0.5
    assert {record.count for record in lesioned.multi[0]} == set(range(5))
    assert len(lesions.rows(lesioned)) == 8


# ---- surfaces


def made_surface(function):
    grid = np.linspace(-1, 1, 11)
    return LossSurface(grid, grid, function(grid[:, None], grid[None]), ())


def test_a_bowl_has_no_folds_a_wave_has_and_width_is_what_lies_below_guessing():
    assert surface.folds(made_surface(lambda a, b: a**2 + b**2)) == 0
    assert surface.folds(made_surface(lambda a, b: a**2 - b**2)) == 0.5
    assert surface.folds(made_surface(lambda a, b: np.cos(9 * a) + 0 * b)) > 0.2
    assert surface.width(made_surface(lambda a, b: 10 * a + 0 * b)) == 7 / 11


def test_a_surface_for_each_network_around_weights_that_repeat(surveyed):
    assert list(surveyed.surfaces) == ["plain-8", "residual-8"]
    again = surface.measure(seeds=1, depths=(8,), epochs=1, images=32, points=5)
    for name, (found,) in surveyed.surfaces.items():
        assert_array_equal(again.surfaces[name][0].loss, found.loss)
        assert found.centre == found.loss.min()
    assert len(surface.rows(surveyed)) == 3


# ---- Jacobians


def test_products_and_the_matrix_agree_and_only_the_plain_block_loses_directions(decomposed):
    agree = {found.quantity: found.agrees for found in jacobian.rows(decomposed)}
    assert list(agree.values())[:6] == [True] * 6, agree
    assert decomposed.block["plain"].shape == (2, 256)


def test_all_kinds_of_blocks_have_the_same_branch(decomposed):
    plain, residual, small = (
        jacobian.make_block(kind, streams(0, 1)[0], reference) for kind in jacobian.KINDS
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 8))
    branch = plain.forward(x, training=True)
    assert_allclose(residual.forward(x, training=True), x + branch)
    assert_allclose(small.forward(x, training=True), x + 0.1 * branch)


# ---- figures


@pytest.mark.parametrize(
    ("draw", "result", "files"),
    [
        (drawings.ledger, "audited", 4),
        (drawings.paths, "measured", 2),
        (drawings.lesions, "lesioned", 3),
        (drawings.surface, "surveyed", 1),
        (drawings.shattering, shattering, 2),
        (drawings.growth, growth, 1),
        (drawings.explosion, explosion, 1),
    ],
    ids=["ledger", "paths", "lesions", "surface", "shattering", "growth", "explosion"],
)
def test_every_figure_is_written(draw, result, files, tmp_path, request):
    small = {
        shattering: {"depths": (2, 4), "width": 8},
        growth: {"blocks": 2, "width": 16, "batch": 8},
        explosion: {"layers": 2, "width": 16, "batch": 8, "depth": 8, "images": 16},
    }
    if isinstance(result, str):
        result = request.getfixturevalue(result)
    else:
        result = result.measure(seeds=2, **small[result])
    names = draw(result, tmp_path)
    assert len(names) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("L").getcolors(256)) > 20  # not blank
