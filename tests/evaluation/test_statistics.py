import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnseg.evaluation import statistics
from nnseg.evaluation.statistics import EXACT, bootstrap_weights, holm, interval, kruskal_wallis, sign_flip, wilcoxon


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0.0, 0.0], 1.0),
        ([1.0], 1 / 2),
        ([1.0, 2.0, 3.0], 1 / 8),
        ([0.0, 1.0, 2.0, 0.0, 3.0], 1 / 8),
        ([-1.0, -2.0, -3.0], 1.0),
        ([-1.0, 2.0, 3.0], 2 / 8),  # 4 or 6 of -6 -4 -2 0 0 2 4 6
        ([0.1, 0.2, -0.3], 5 / 8),  # 0 must equal 0, however it was rounded
    ],
)
def test_the_share_of_signs_that_sum_to_as_much(differences: list[float], p: float):
    assert sign_flip(np.array(differences)) == pytest.approx(p)


@pytest.mark.parametrize("n", [8, EXACT, EXACT + 1, 60])
def test_scipy_agrees(n: int):
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    theirs = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="greater", n_resamples=9999, rng=1
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue, abs=0.015)


def test_many_pairs_give_the_same_p_again_and_never_none():
    differences = np.random.default_rng(0).uniform(0.1, 1.0, 300)
    assert sign_flip(differences) == sign_flip(differences) == pytest.approx(1 / 5000)
    assert sign_flip(-differences) == 1.0


def test_chance_passes_as_often_as_it_says():
    random = np.random.default_rng(0)
    passed = np.mean([sign_flip(random.normal(0, 1, 10)) <= 0.05 for _ in range(600)])
    assert 0.03 < passed < 0.07


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([1.0], 1.0),
        ([1.0, 2.0, 3.0], 2 / 8),
        ([-1.0, -2.0, -3.0], 2 / 8),
        ([-1.0, 2.0, 3.0], 4 / 8),  # 4, 6 and -4, -6 of -6 -4 -2 0 0 2 4 6
        ([0.1, 0.2, -0.3], 1.0),
    ],
)
def test_the_share_of_signs_that_sum_to_as_much_on_either_side(differences: list[float], p: float):
    assert sign_flip(np.array(differences), two_sided=True) == pytest.approx(p)


@pytest.mark.parametrize("n", [8, 60])
def test_scipy_agrees_on_both_sides(n: int):
    differences = np.random.default_rng(n).normal(-0.3, 1.0, n)
    theirs = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=9999, rng=1
    )
    assert sign_flip(differences, two_sided=True) == pytest.approx(theirs.pvalue, abs=0.015)


def test_more_draws_let_p_be_smaller():
    assert sign_flip(np.ones(40), two_sided=True, draws=19999) == pytest.approx(1 / 20000)


def test_draws_of_cases_have_as_many_as_there_are_and_are_the_same_again():
    weights = bootstrap_weights(7, 50)
    assert weights.shape == (50, 7)
    assert (weights.sum(1) == 7).all()
    assert (weights == bootstrap_weights(7, 50)).all()
    assert not (weights == bootstrap_weights(7, 50, seed=1)).all()
    assert bootstrap_weights(0, 3).shape == (3, 0)


def test_the_interval_leaves_a_fortieth_out_on_either_side():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.array([np.nan, 2.0, np.nan])) == (2.0, 2.0)
    assert interval(np.full(3, np.nan)) is None


def test_scipy_gives_the_same_bootstrap_interval():
    values = np.random.default_rng(3).beta(18, 2, 40)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
    assert interval(bootstrap_weights(40) @ values / 40) == pytest.approx((theirs.low, theirs.high), abs=0.002)


@pytest.mark.parametrize(("n", "least", "most"), [(5, 0.78, 0.87), (20, 0.90, 0.95), (60, 0.92, 0.97)])
def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say(n: int, least: float, most: float):
    random, weights = np.random.default_rng(0), bootstrap_weights(n, 1000)
    ends = [interval(weights @ random.normal(0.9, 0.05, n) / n) for _ in range(600)]
    assert least < np.mean([low <= 0.9 <= high for low, high in ends]) < most


def test_wilcoxon_by_hand():
    assert wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, -5.0])) == pytest.approx(20 / 32)  # ranks that sum to 5 or less, either side
    assert wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert wilcoxon(np.array([0.0, 0.0])) == wilcoxon(np.array([])) == 1.0


def test_wilcoxon_leaves_pairs_without_difference_out():
    assert wilcoxon(np.array([0.0, 1.0, 2.0, 3.0, 0.0, 4.0, -5.0])) == wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, -5.0]))


@pytest.mark.parametrize(("n", "digits"), [(4, 6), (9, 1), (11, 1), (14, 6), (60, 6), (60, 1)])
def test_scipy_agrees_on_signed_ranks(n: int, digits: int):
    differences = np.round(np.random.default_rng(n).normal(0.3, 1.0, n), digits)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        (0.03, 0.06, 0.06, 0.02)
    )  # times 4, 3, 2, 1 in rising order, never falling
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_signs_drawn_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(6).normal(0.2, 1, 30)
    whole = [sign_flip(differences, two_sided=two_sided) for two_sided in (True, False)]
    monkeypatch.setattr(statistics, "MOST_SIGNS", 30 * 1001)
    assert [sign_flip(differences, two_sided=two_sided) for two_sided in (True, False)] == whole


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values: list[float]):
    found = np.array(holm(p_values))
    plain = np.array(p_values)
    assert (found >= plain).all()
    assert (found <= np.minimum(1, plain * len(plain)) + 1e-12).all()
    assert (np.diff(found[np.argsort(plain, kind="stable")]) >= 0).all()


def test_ranks_of_groups_by_hand():
    values, groups = np.array([1.0, 2.0, 3.0, 4.0]), ["a", "a", "b", "b"]
    assert kruskal_wallis(values, groups) == pytest.approx(1 / 3, abs=0.03)  # 2 of the 6 ways to choose a pair are as far apart
    assert kruskal_wallis(np.ones(4), groups) == 1.0
    assert kruskal_wallis(values, ["a"] * 4) == 1.0


def test_scipy_agrees_on_groups():
    random = np.random.default_rng(5)
    values, groups = np.round(random.normal(0, 1, 90), 1), random.integers(0, 3, 90)
    values[groups == 2] += 0.5
    theirs = stats.kruskal(*(values[groups == g] for g in range(3))).pvalue
    assert kruskal_wallis(values, groups.astype(str).tolist()) == pytest.approx(theirs, abs=0.02)


def test_groups_by_chance_pass_as_often_as_they_should():
    random = np.random.default_rng(0)
    groups = ["a"] * 3 + ["b"] * 4 + ["c"] * 12
    passed = np.mean([kruskal_wallis(random.normal(0, 1, 19), groups, draws=499) <= 0.05 for _ in range(500)])
    assert 0.03 < passed < 0.07
