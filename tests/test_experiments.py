"""Published figures about gradients, measured again on few seeds."""

import csv
import functools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires import check_gradients
from minires.cli import COMMANDS, main
from minires.experiments import Row, explosion, growth, mean_and_error, row, shattering
from minires.experiments.shattering import Centre, Scale
from minires.experiments.trained import TRAINED
from minires.layers import Dense
from minires.ops import reference

# the module that `main` holds, which need not be the one that an import finds once doctests have
# been collected from it
reproduce = next(command for command in COMMANDS if command.__name__.endswith("reproduce"))

# ---- rows


def test_a_row_agrees_within_its_tolerance():
    assert Row("q", 3, 4, 0.1, 1).agrees
    assert not Row("q", 3, 4.01, 0.1, 1).agrees
    assert not Row("q", 3, math.nan, 0.1, 1).agrees
    found = row("q", 2, 0.5, [1, 2, 3])
    assert found.got == 2
    assert found.spread == pytest.approx(1 / math.sqrt(3))


def test_one_seed_has_no_spread():
    mean, error = mean_and_error(np.ones((1, 3)))
    assert_array_equal(mean, 1)
    assert np.isnan(error).all()


# ---- the layers


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", [Centre(3, dtype=np.float64), Scale(0.3)])
def test_backward_passes(layer, training):
    x = np.random.default_rng(0).standard_normal((5, 3))
    assert check_gradients(layer, x, training=training).ok


def test_the_check_sees_a_centre_that_forgets_the_mean():
    class Forgetful(Centre):
        def _backward(self, dy, training):
            return dy

    x = np.random.default_rng(0).standard_normal((5, 3))
    assert not check_gradients(Forgetful(3, dtype=np.float64), x).ok


def test_centre_keeps_the_mean_and_gives_it_back():
    centre = Centre(2)
    x = np.array([[1, 10], [3, 20]], np.float32)
    before = centre.snapshot()
    assert_array_equal(centre.forward(x, training=True), [[-1, -5], [1, 5]])
    assert_array_equal(centre.forward(x[:1]), [[-1, -5]])
    assert centre.forward(x).dtype == Scale(0.1).forward(x).dtype == np.float32
    centre.restore(before)
    assert_array_equal(centre.forward(x), x)
    with pytest.raises(ValueError, match=r"Centre expects x of shape \(N, 2\), got \(2, 3\)"):
        centre.forward(np.ones((2, 3), np.float32))


# ---- shattered gradients


@pytest.fixture(scope="module")
def shattered():
    return shattering.measure(seeds=3, depths=(2, 10, 24), ops=reference)


def lag1(result, net):
    return result.correlations[net][:, 1].mean()


def test_gradients_shatter_with_depth_and_not_without_centring(shattered):
    assert lag1(shattered, "plain, depth 2") > 0.9
    assert 0.6 < lag1(shattered, "plain, depth 10") < 0.9
    assert abs(lag1(shattered, "plain, depth 24")) < 0.2
    assert lag1(shattered, "not centred, depth 24") > 0.7


def test_residual_nets_shatter_less_and_less_with_a_small_branch(shattered):
    one = lag1(shattered, "residual, depth 24, scale 1")
    assert lag1(shattered, "plain, depth 24") + 0.4 < one
    assert one < lag1(shattered, "residual, depth 24, scale 0.1")


def test_the_result_holds_a_curve_a_seed(shattered):
    for net, curves in shattered.correlations.items():
        assert curves.shape == (3, 16), net
        assert_array_equal(curves[:, 0], 1)
        assert shattered.gradients[net].shape == shattered.x.shape == (256,)
    with pytest.raises(FrozenInstanceError):
        shattered.x = None


def test_depth_counts_dense_layers():
    nets = [
        shattering.plain_net(5, width=3, rng=np.random.default_rng(0)),
        shattering.residual_net(5, 1, width=3, rng=np.random.default_rng(0)),
    ]
    for net in nets:
        assert sum(isinstance(layer, Dense) for _, layer in net.named_layers()) == 5


def test_slopes_are_the_derivative_of_the_function_that_the_statistics_leave():
    given, x = {"width": 20, "ops": reference}, np.linspace(-2, 2, 256)[:, None]
    for make in (shattering.plain_net, lambda depth, **more: shattering.residual_net(4, 1, **more)):
        found = shattering.slopes(
            lambda make=make, **more: make(4, **more), given, np.random.default_rng(0), x
        )
        model = make(4, rng=np.random.default_rng(0), **given)
        model.forward(x, training=True)
        slope = (model.forward(x + 1e-7) - model.forward(x - 1e-7))[:, 0] / 2e-7
        assert np.isclose(found, slope, rtol=1e-5, atol=1e-5).mean() > 0.98  # all but kinks


# ---- growth


@pytest.fixture(scope="module")
def grown():
    return growth.measure(seeds=4, blocks=8, width=256, ops=reference)


def test_the_rules_of_growth_hold_for_any_depth(grown):
    assert [found.expected for found in growth.rows(grown)] == [8, 9, 0, -8, 4, 0, -4]
    for found in growth.rows(grown):
        assert found.agrees, found


def test_variance_doubles_in_every_residual_block_and_batch_norm_adds_one(grown):
    doubling = np.log2(grown.variance["residual"]).mean(axis=0)
    assert_allclose(doubling, np.arange(9), atol=0.4)
    assert_allclose(grown.variance["residual, batch norm"].mean(axis=0), np.arange(9) + 1, rtol=0.1)
    for curves in grown.gradient.values():
        assert curves.shape == (4, 9)
        assert_array_equal(curves[:, -1], 1)


# ---- explosion


@pytest.fixture(scope="module")
def exploded():
    return explosion.measure(seeds=1, layers=8, width=256, batch=256, images=128)


def test_batch_norm_and_relu_explode_at_the_published_rate(exploded):
    assert exploded.factors.shape == (1, 7)
    assert 1.15 < np.sqrt(exploded.factors).mean() < 1.27
    assert exploded.factors.mean() == pytest.approx(math.pi / (math.pi - 1), abs=0.05)


def test_plain_56_spreads_over_orders_of_magnitude_and_the_residual_net_does_not(exploded):
    assert exploded.weight_gradients["plain"].shape == (1, 55)
    assert exploded.upstream_gradients["plain"].shape == (1, 28)
    plain, residual = (
        explosion.orders(exploded.weight_gradients[kind])[0] for kind in ("plain", "residual")
    )
    assert 2 < plain < 4
    assert residual < 1
    # its layers are narrow: the factor of wide ones is not reached, and the table says so
    assert [found.agrees for found in explosion.rows(exploded)[2:]] == [True, False, True]


# ---- the command


def one_row(got):
    return reproduce.Experiment("article", lambda options: got, lambda got: [row("q", 2, 1, [got])])


def test_reproduce_says_whether_the_figures_agree(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"growth": one_row(2.5)})
    assert main(["reproduce", "growth", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "quantity" in out
    assert "2.000 +- 1.000  2.500       -               yes" in out
    assert "1 of 1 within tolerance" in out
    with (tmp_path / "out" / "growth.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["agrees"] == "True"
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"growth": one_row(3.5)})
    assert main(["reproduce", "growth"]) == 1
    assert "0 of 1 within tolerance" in capsys.readouterr().out


def test_reproduce_draws_if_the_experiment_can(monkeypatch, capsys, tmp_path):
    def draw(result, folder):
        (folder / "growth.txt").write_text(str(result))
        return ["growth.txt"]

    experiment = reproduce.Experiment("article", lambda options: 1, lambda result: [], draw)
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"growth": experiment})
    assert main(["reproduce", "growth", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "growth.txt").read_text() == "1"
    assert "wrote growth.csv, growth.txt into" in capsys.readouterr().out


def test_reproduce_runs_an_experiment_for_real(monkeypatch, capsys):
    small = functools.partial(reproduce.growth.measure, blocks=3, width=64, batch=16)
    monkeypatch.setattr(reproduce.growth, "measure", small)
    main(["reproduce", "growth", "--seeds", "2", "--ops", "reference"])
    out = capsys.readouterr().out
    assert "growth: De and Smith (2020), arXiv:2002.10444; 2 seeds" in out
    assert "log2 variance after 3 blocks, residual" in out


def test_reproduce_names_its_experiments(capsys):
    assert main(["reproduce", "fly"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "invalid choice: 'fly' (choose from" in error
    assert main(["reproduce", "--help"]) == 0
    assert "shattering, growth, explosion" in capsys.readouterr().out


# ---- minires reproduce


def test_reproduce_measures_and_prints_the_seeds_an_experiment_has_at_most(monkeypatch, capsys):
    def run(asked, **limit):
        seeds = []
        experiment = reproduce.Experiment(
            "article", lambda options: seeds.append(options.seeds), lambda result: [], **limit
        )
        monkeypatch.setattr(reproduce, "EXPERIMENTS", {"surface": experiment})
        assert main(["reproduce", "surface", "--seeds", str(asked)]) == 0
        return f"surface: article; {seeds[0]} seeds\n" in capsys.readouterr().out, *seeds

    assert run(10, most_seeds=3) == (True, 3)
    assert run(1, most_seeds=3) == (True, 1)
    assert run(10) == (True, 10)


def test_experiments_that_train_a_network_for_every_seed_say_so():
    most = {name: found.most_seeds for name, found in reproduce.EXPERIMENTS.items()}
    limited = {name: seeds for name, seeds in most.items() if seeds is not None}
    assert limited == {"grid": 3, "paths": TRAINED, "lesions": TRAINED, "surface": TRAINED}
