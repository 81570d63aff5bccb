import numpy as np
import pytest
from scipy import stats

from nnseg.evaluation.statistics import EXACT, sign_flip


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
