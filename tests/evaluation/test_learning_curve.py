"""The learning curve: an inverse power law through the mean Dice of trainings on parts of the cases."""

import numpy as np
import pytest

from nnseg.evaluation.learning_curve import estimate_gain, measure_points

SIZES = (20, 40, 80)


def power_law(a: float, b: float, c: float, n: float) -> float:
    return a - b * n**-c


@pytest.mark.parametrize(("a", "b", "c"), [(0.92, 1.4, 0.8), (0.8, 0.6, 0.3), (0.95, 3.0, 1.5)])
@pytest.mark.parametrize("more", [10, 80, 1000])
def test_the_gain_of_a_power_law_is_that_of_its_formula(a, b, c, more):
    dice = np.array([[power_law(a, b, c, n)] * 6 for n in SIZES])
    found = estimate_gain(SIZES, dice, more)
    assert found.cases == more
    assert found.dice == pytest.approx(power_law(a, b, c, 80 + more) - power_law(a, b, c, 80), rel=0.05)
    assert found.interval == pytest.approx((found.dice, found.dice))  # no case differs from another


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random, held, trials = np.random.default_rng(0), 0, 60
    truth = power_law(0.9, 1.2, 0.7, 160) - power_law(0.9, 1.2, 0.7, 80)
    for _ in range(trials):
        cases = random.normal(0, 0.05, 40)  # what makes a case difficult is the same in all trainings
        dice = np.array([power_law(0.9, 1.2, 0.7, n) + cases + random.normal(0, 0.015, 40) for n in SIZES])
        low, high = estimate_gain(SIZES, dice, 80).interval
        held += low <= truth <= high
    assert held >= 0.85 * trials


def test_where_more_cases_do_not_help_none_is_expected_to():
    falling = np.array([[0.8, 0.7], [0.79, 0.71], [0.78, 0.69]])
    assert estimate_gain(SIZES, falling, 50).dice == 0
    level = np.full((3, 4), 0.6)
    assert estimate_gain(SIZES, level, 50).dice == 0


def test_no_dice_above_one_is_expected():
    steep = np.array([[0.1] * 5, [0.5] * 5, [0.98] * 5])
    assert estimate_gain(SIZES, steep, 10_000).dice == pytest.approx(0.02)


def test_points_are_means_with_intervals():
    dice = np.array([[0.5, 0.7, 0.6, 0.8, 0.9], [0.6, 0.8, 0.7, 0.8, 0.9], [0.7, 0.8, 0.7, 0.9, 0.9]])
    points = measure_points(SIZES, dice)
    assert [(one.cases, one.dice) for one in points] == [
        (20, pytest.approx(0.7)),
        (40, pytest.approx(0.76)),
        (80, pytest.approx(0.8)),
    ]
    assert all(one.interval[0] < one.dice < one.interval[1] for one in points)
