import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.scores import CaseScore, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.evaluation.volume_agreement import agreement, intraclass_correlation, volume_agreement

SIX_BY_FOUR = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
"""Shrout and Fleiss 1979, table 2: six subjects, four judges."""


def test_the_published_example_of_shrout_and_fleiss():
    icc, interval = intraclass_correlation(SIX_BY_FOUR)
    assert icc == pytest.approx(0.29, abs=0.005)
    assert interval == pytest.approx((0.019, 0.761), abs=0.0005)  # as R's psych and irr print it


def test_the_intraclass_correlation_by_hand():
    # means of rows 1.5 2.5 3.5 and columns 2 3: between rows 2 * 2 / 2 = 2, between columns 3 * 0.5 / 1 = 1.5, nothing left
    icc, _ = intraclass_correlation(np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]))
    assert icc == pytest.approx(2 / (2 + 2 * 1.5 / 3))


def test_perfect_agreement_is_one_and_subjects_that_are_all_alike_have_none():
    assert intraclass_correlation(np.array([[1.1, 1.1], [2.0, 2.0], [3.0, 3.0]])) == (1.0, (1.0, 1.0))
    assert intraclass_correlation(np.array([[1.1, 1.1], [1.1, 1.1], [1.1, 1.1]])) == (None, None)
    assert intraclass_correlation(np.array([[1.1, 2.2], [1.1, 2.2], [1.1, 2.2]])) == (None, None)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=3, max_size=20), st.floats(0.5, 3), st.floats(-1, 50))
def test_the_intraclass_correlation_does_not_depend_on_units(pairs, scale, shift):
    ratings = np.array(pairs)
    if np.ptp(ratings.mean(1)) < 1e-3:
        return
    icc, interval = intraclass_correlation(ratings)
    again, interval_again = intraclass_correlation(ratings * scale + shift)
    assert again == pytest.approx(icc, abs=1e-6)
    assert interval_again == pytest.approx(interval, abs=1e-5)
    assert interval[0] <= interval[1]
    if icc >= 0:  # for negative values the approximate degrees of freedom may be near 0, and the interval beside the value
        assert interval[0] <= icc <= interval[1]


def test_the_interval_of_the_intraclass_correlation_holds_the_truth():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        subjects = random.normal(0, 2, (20, 1))  # variance 4 of 5
        low, high = intraclass_correlation(subjects + random.normal(0, 1, (20, 2)))[1]
        held += low <= 0.8 <= high
    assert 0.92 < held / 400 < 0.98


def test_limits_of_agreement_by_hand():
    found = volume_agreement(np.array([[11.0, 10.0], [19.0, 20.0], [33.0, 30.0]]))  # differences 1, -1, 3: mean 1, deviation 2
    assert (found.n, found.mean_reference_ml) == (3, 20.0)
    assert found.bias_ml == pytest.approx(1)
    assert found.limits_ml == pytest.approx((1 - 1.96 * 2, 1 + 1.96 * 2))
    of_bias = 4.302653 * 2 / 3**0.5  # t of 2 degrees of freedom
    assert found.bias_interval == pytest.approx((1 - of_bias, 1 + of_bias))
    of_limit = 4.302653 * 2 * (1 / 3 + 1.96**2 / 4) ** 0.5
    assert found.upper_interval == pytest.approx((4.92 - of_limit, 4.92 + of_limit))
    assert found.lower_interval == pytest.approx((-2.92 - of_limit, -2.92 + of_limit))


def test_limits_of_agreement_of_bland_and_altmans_blood_pressures():
    """1999, section 2: 85 differences with mean -16.29 and deviation 19.61 mmHg have limits -54.7 and 22.1."""
    spread = np.random.default_rng(0).normal(size=85)
    differences = -16.29 + 19.61 * (spread - spread.mean()) / spread.std(ddof=1)
    found = volume_agreement(np.stack([200 + differences, np.full(85, 200.0)], 1))
    assert found.limits_ml == pytest.approx((-54.7, 22.1), abs=0.06)


def test_the_interval_of_a_limit_holds_the_true_limit():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        reference = random.uniform(5, 10, 30)
        low, high = volume_agreement(np.stack([reference + random.normal(0.5, 1, 30), reference], 1)).upper_interval
        held += low <= 0.5 + 1.96 <= high
    assert 0.9 < held / 400 < 0.98


def test_each_label_is_measured_on_the_cases_that_show_it():
    def mask(predicted: float | None, reference: float | None, voxels: int) -> LabelScore:
        known = {"volume_ml": predicted, "reference_ml": reference}
        return LabelScore(tp=voxels, fp=0, fn=0, tn=9, dice=1.0 if voxels else None, iou=None, **known)

    many = [
        (mask(1.0, 1.5, 3), mask(0.0, 0.0, 0)),
        (mask(2.0, 2.5, 3), mask(5.0, 5.0, 4)),
        (mask(3.0, 3.5, 3), mask(None, None, 0)),
    ]
    cases = tuple(CaseScore(name=str(i), labels={"a": a, "b": b}, mean_dice=None, mean_iou=None) for i, (a, b) in enumerate(many))
    scores = Scores(labels=("a", "b"), metrics=("dice",), cases=cases, averages=averages(cases, ("a", "b"), ("dice",)))
    found = agreement(scores)
    assert set(found) == {"a"}  # one case is too few
    assert (found["a"].n, found["a"].bias_ml) == (3, -0.5)
    assert found["a"].limits_ml == pytest.approx((-0.5, -0.5))
