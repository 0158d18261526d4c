"""Learning rate schedules; `test_oracles.py` compares with PyTorch."""

import math

import pytest

from minires.schedules import Constant, Cosine, OneCycle, Step, WarmUp


def test_constant_and_step():
    assert Constant(0.3)(17) == 0.3
    schedule = Step(0.1, (10, 20))
    rates = [schedule(step) for step in (0, 9, 10, 19, 20)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_cosine_goes_down_half_a_wave_and_stays():
    schedule = Cosine(1.0, 100, last=0.2)
    assert schedule(0) == 1.0
    assert schedule(50) == pytest.approx(0.6)
    assert schedule(100) == schedule(1000) == pytest.approx(0.2)
    rates = [schedule(step) for step in range(101)]
    assert rates == sorted(rates, reverse=True)


def test_one_cycle_rises_for_its_share_and_falls_to_almost_nothing():
    schedule = OneCycle(1.0, 100)
    rates = [schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[29] == 1.0
    assert rates[99] == pytest.approx(1 / 25 / 1e4)
    assert rates[:30] == sorted(rates[:30])
    assert rates[29:] == sorted(rates[29:], reverse=True)


def test_warm_up_leads_to_the_start_of_another_schedule():
    schedule = WarmUp(Step(0.4, (10,)), steps=4)
    rates = [schedule(step) for step in (0, 1, 2, 3, 4, 13, 14)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.04])
    assert WarmUp(Constant(1.0), steps=2, factor=0.5)(1) == 0.75


def test_a_schedule_is_plain_data():
    schedule = WarmUp(OneCycle(0.1, 50), 5)
    assert schedule == WarmUp(OneCycle(0.1, 50), 5)
    assert repr(schedule).startswith("WarmUp(schedule=OneCycle(lr=0.1, steps=50")


@pytest.mark.parametrize("steps", [2, 3, 4, 10])
def test_short_cycles_have_finite_rates(steps):
    schedule = OneCycle(1.0, steps)
    assert all(math.isfinite(schedule(step)) and schedule(step) >= 0 for step in range(steps + 5))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Constant(-1), ValueError, "Constant expects lr to be a number >= 0, got -1"),
        (lambda: Step(0.1, (10.5,)), ValueError, "milestones to be an integer >= 1, got 10.5"),
        (lambda: Step(0.1, (10,), factor=0), ValueError, "factor to be a number > 0, got 0"),
        (lambda: Cosine(0.1, 0), ValueError, "steps to be an integer >= 1, got 0"),
        (lambda: OneCycle(0.1, 1), ValueError, "steps to be an integer >= 2, got 1"),
        (lambda: OneCycle(0.1, 9, rise=1.0), ValueError, "rise to be a number < 1 and > 0"),
        (lambda: WarmUp(0.1, 5), TypeError, "a schedule to warm up to, got 0.1"),
    ],
)
def test_wrong_arguments_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
