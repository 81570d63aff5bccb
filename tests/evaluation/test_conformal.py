"""Split-conformal bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor

from nnseg.evaluation.conformal import conformal_bounds, fewest_errors


def test_bounds_by_hand():
    assert conformal_bounds([float(i) for i in range(8)], 0.9) is None
    assert conformal_bounds([-0.3, 0.1, 0.2, 0.0, 0.05, 0.1, -0.2, 0.15, 0.1], 0.9) == (-0.3, 0.3)  # the largest of 9
    assert conformal_bounds([float(i) for i in range(19)], 0.9) == (0.0, 18.0)  # one of 20 ranks at each end
    assert conformal_bounds([float(i) for i in range(29)], 0.9) == (0.0, 27.0)  # three of 30: the third one above
    assert conformal_bounds([float(i) for i in range(39)], 0.9) == (1.0, 37.0)


def test_nine_cases_are_the_fewest_for_ninety_percent():
    assert fewest_errors(0.9) == 9
    assert [conformal_bounds([0.0] * n, 0.9) is not None for n in (8, 9)] == [False, True]
    assert fewest_errors(0.95) == 19
    assert [conformal_bounds([0.0] * n, 0.95) is not None for n in (18, 19)] == [False, True]


@pytest.mark.parametrize(
    ("count", "bounds"),
    [(10, (-4.5, 4.5)), (12, (-4.5, 4.5)), (18, (-5.1, 5.1)), (39, (-3.8, 5.7)), (79, (-3.7, 5.6)), (100, (-3.6, 5.6))],
)
def test_mapie_has_the_same_bounds(count, bounds):
    """Of MAPIE 1.6.0: SplitConformalRegressor, prefit, AbsoluteConformityScore, of signed errors from 39 on (``sym=False``)."""
    assert conformal_bounds([(i * 7919 % 101) / 10 - 4 for i in range(count)], 0.9) == pytest.approx(bounds)


@pytest.mark.parametrize("count", [10, 12, 18, 39, 79, 100])
def test_mapie_gives_the_same_bounds(count):
    """Of absolute errors up to 18, of signed ones from 39 on."""
    regression = pytest.importorskip("mapie.regression", reason="mapie is not installed")
    scores = pytest.importorskip("mapie.conformity_scores")
    errors = np.random.default_rng(count).exponential(size=count) - 0.7
    zero = DummyRegressor(strategy="constant", constant=0.0).fit([[0.0]], [0.0])
    score = scores.AbsoluteConformityScore(sym=count < 19)
    oracle = regression.SplitConformalRegressor(estimator=zero, confidence_level=0.9, conformity_score=score, prefit=True)
    oracle.conformalize(np.zeros((count, 1)), errors)
    _, bounds = oracle.predict_interval([[0.0]])
    assert conformal_bounds(errors.tolist(), 0.9) == pytest.approx(tuple(bounds[0, :, 0].tolist()))


def test_an_infinite_error_is_the_largest():
    assert conformal_bounds([-math.inf, *[0.0] * 8], 0.9) == (-math.inf, math.inf)
    assert conformal_bounds([-math.inf, *[0.0] * 38], 0.9) == (0.0, 0.0)


@given(st.integers(9, 200), st.sampled_from([0.5, 0.8, 0.9]))
def test_of_all_ranks_of_a_new_error_so_many_lie_inside(count, level):
    """Of n + 1 different errors each is the new one in turn: that is the probability that the bounds hold."""
    errors = np.random.default_rng(count).normal(size=count + 1).tolist()
    inside = 0
    for i, new in enumerate(errors):
        low, high = conformal_bounds(errors[:i] + errors[i + 1 :], level)
        inside += low <= new <= high
    assert level <= (inside + 1e-9) / (count + 1) <= level + 1 / (count + 1) + 1e-9


@pytest.mark.parametrize("count", [9, 15, 25, 60])
def test_coverage_is_that_of_the_level_for_skewed_errors(count):
    random = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        *errors, new = random.exponential(size=count + 1).tolist()
        low, high = conformal_bounds(errors, 0.9)
        held.append(low <= new <= high)
    assert 0.88 <= np.mean(held) <= 0.9 + 1.5 / count
