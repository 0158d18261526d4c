"""What check cells say: a right answer passes, a wrong one is told which mistake it looks like."""

import numpy as np
import pytest

import minires as mr
from minires.exercises import ExerciseError, expect, expect_gradients

RIGHT = np.arange(1.0, 7.0).reshape(2, 3)


def told(got, expected=RIGHT, **options):
    """The message for an answer that is not right."""
    with pytest.raises(ExerciseError) as error:
        expect("f", got, expected, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (RIGHT, RIGHT),
        (RIGHT + 1e-9, RIGHT),
        (RIGHT.tolist(), RIGHT),
        (7, 7),
        (np.float32(0.5), 0.5),
        ("b", "b"),
        (True, True),
        (np.zeros(3), np.zeros(3)),
        ((RIGHT, 2.0), {"dx": RIGHT, "loss": 2.0}),
        (np.array([1.0, 2.0]), {"first": 1.0, "second": 2.0}),
    ],
)
def test_a_right_answer_passes_and_is_said_to_be_right(got, expected, capsys):
    expect("f", got, expected)
    assert capsys.readouterr().out == "f: right.\n"


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (None, "f: not yet. Got None: write the answer where the dots are."),
        (..., "f: not yet. Got Ellipsis: write the answer where the dots are."),
        ("abc", "f: not yet. Expected numbers, got str."),
        (-RIGHT, "The sign is the wrong way round: 6 of 6 numbers differ, most at [1, 2]"),
        (-RIGHT * (1 + 1e-9), "The sign is the wrong way round"),
        (-RIGHT * 1.01, "It is -1.01 times what it should be"),
        (RIGHT.T, "The numbers are right, transposed: expected shape (2, 3), got (3, 2)."),
        (RIGHT[:1], "The shape is wrong: expected shape (2, 3), got (1, 3)."),
        (RIGHT * np.nan, "6 of 6 numbers are NaN or infinite."),
        (RIGHT * 0, "Every number is zero."),
        (RIGHT * 1.5, "It is 1.5 times what it should be."),
        (RIGHT * 8, "It is 8 times what it should be: a division by N = 8 is missing."),
        (RIGHT / 8, "It is 0.125 times what it should be: one division by N = 8 too many."),
        (RIGHT * -8, "a division by N = 8 is missing, and the sign is the wrong way round."),
        (RIGHT + [0, 0, 1], "2 of 6 numbers differ, most at [0, 2]: expected 3, got 4."),
        (RIGHT**2, "It looks as if the square root is missing."),
        (np.stack([RIGHT / 2] * 2), "The sum over the first axis is missing: expected shape"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(got, message):
    assert message in told(got, sizes={"N": 8}, mistakes={"the square root is missing": RIGHT**2})


def test_members_of_a_tuple_are_named():
    expected = {"dx": RIGHT, "dw": 2 * RIGHT}
    assert "write dx, dw where the dots are" in told(None, expected)
    assert "Expected 2 values, (dx, dw), got ndarray of shape (2, 3)." in told(RIGHT, expected)
    assert "Expected 2 values, (dx, dw), got 3 values." in told((1, 2, 3), expected)
    assert "dw is None: write it" in told((RIGHT, None), expected)
    assert "dw: The sign is the wrong way round" in told((RIGHT, -2 * RIGHT), expected)
    mistakes = {"the factor 2 is missing": {"dw": RIGHT}}
    message = told((RIGHT, RIGHT), expected, mistakes=mistakes)
    assert message == "f: not yet. dw: It looks as if the factor 2 is missing."


def test_words_and_truth_values_are_compared_as_they_are():
    assert told("a", "b") == "f: not yet. 'a' is not the answer."
    mistakes = {"the gradient explodes": "a"}
    assert "It looks as if the gradient explodes." in told("a", "b", mistakes=mistakes)
    assert "1 is not the answer" in told(1, True)


def test_an_answer_may_miss_by_rtol_of_the_largest_number_and_not_by_more():
    expect("f", RIGHT + 0.5e-3 * 6, RIGHT, rtol=1e-3)
    assert "differ" in told(RIGHT + [[2e-3 * 6, 0, 0], [0, 0, 0]], rtol=1e-3)


def test_gradients_are_checked_by_differences(capsys):
    x = np.random.default_rng(0).standard_normal((3, 4))
    expect_gradients("sin", (np.sin, lambda dy, x: dy * np.cos(x)), x)
    assert capsys.readouterr().out == "sin: right.\n"
    with pytest.raises(ExerciseError, match=r"sin: not yet\. .* Think of cos\.(.|\n)*analytic"):
        expect_gradients("sin", (np.sin, lambda dy, x: dy * np.sin(x)), x, hint="Think of cos.")
    for unsolved in (None, (np.sin, lambda dy, x: None), (lambda x: None, lambda dy, x: None)):
        with pytest.raises(ExerciseError, match=r"sin: not yet\. Got None: write"):
            expect_gradients("sin", unsolved, x)
    with pytest.raises(ExerciseError, match=r"The check ended with ZeroDivisionError: .* by zero"):
        expect_gradients("sin", (lambda x: 1 / 0, np.cos), x)
    expect_gradients("Dense", mr.Dense(4, 2, rng=0).astype(np.float64), x)


def test_ipython_shows_the_message_alone():
    error = ExerciseError("f: not yet.")
    assert error._render_traceback_(ExerciseError, error, None) == ["f: not yet."]


@pytest.mark.parametrize("half", [0, 1])
def test_one_unwritten_half_of_a_pair_is_told(half):
    pair = [np.sin, lambda dy, x: dy * np.cos(x)]
    pair[half] = ...
    with pytest.raises(ExerciseError, match=r"Got Ellipsis: write the answer where the dots are\."):
        expect_gradients("sin", tuple(pair), np.ones(3))


def test_odd_answers_get_a_message_too():
    assert "Expected numbers, got str." in told("2.0", 2.0)
    assert "is not the answer" in told(np.array([1, 2]), True, mistakes={"it is false": False})
    assert "1 of 3 numbers differ" in told([1, 2.001, 4], np.array([1.0, 2, 3]), rtol=1e-2)
