"""The choice between plans and ensembles, by hand and under chance."""

from itertools import product

import numpy as np
import pytest

from nnseg.core.decisions import candidate_ensembles, ensemble_name
from nnseg.evaluation.model_selection import LEAST_CASES, CandidateScores, select

NAN = float("nan")


def scored(name, dice, seconds=1.0):
    """Of one plan or, joined by "+", of several."""
    return CandidateScores(
        plans=dict.fromkeys(name.split("+"), 1.0), dice=np.array(dice, float).reshape(len(dice), -1), seconds=seconds
    )


def folds(cases):
    return [i % 5 for i in range(cases)]


def simulated(seed, *, cases=50, gain=0.0):
    """Two plans and their five candidates: cases differ in difficulty, plans in luck; an ensemble is better by ``gain``."""
    random = np.random.default_rng(seed)
    hard = random.normal(0.8, 0.08, cases)
    return [
        CandidateScores(
            plans=plans,
            dice=np.clip(hard + gain * (len(plans) > 1) + random.normal(0, 0.02, cases), 0, 1)[:, None],
            seconds=float(len(plans)),
        )
        for plans in candidate_ensembles(["2d", "3d"])
    ]


def test_an_ensemble_that_is_better_in_every_case_is_taken():
    single = np.linspace(0.7, 0.9, 12)
    choice = select([scored("2d", single - 0.1, 2.0), scored("3d", single, 3.0), scored("2d+3d", single + 0.01, 5.0)], folds(12))
    assert choice.plans == {"2d": 1.0, "3d": 1.0}
    assert choice.best_single == "3d"
    assert choice.nested.gain == pytest.approx(0.01)
    assert choice.nested.interval == pytest.approx((0.01, 0.01))
    assert choice.p == pytest.approx(2**-12)
    assert choice.time_ratio == pytest.approx(5 / 3)
    assert [c.name for c in choice.candidates] == ["2d+3d", "3d", "2d"]
    first, second, third = choice.candidates
    assert (first.dice, first.gain, first.p) == (pytest.approx(0.81), pytest.approx(0.01), pytest.approx(2**-12))
    assert (second.gain, second.gain_interval, second.p) == (None, None, None)
    assert (third.gain, third.p) == (pytest.approx(-0.1), 1.0)
    assert "2d+3d is chosen" in choice.reason


def test_a_gain_that_may_be_chance_is_not_enough():
    change = np.array([0.03, 0.02, 0.02, 0.02, -0.02, -0.03] + [0.0] * 6)
    choice = select([scored("2d", [0.5] * 12), scored("3d", [0.8] * 12), scored("2d+3d", 0.8 + change)], folds(12))
    assert choice.plans == {"3d": 1.0}
    assert choice.nested.gain == pytest.approx(0.04 / 12)
    assert choice.p == choice.candidate("2d+3d").p == pytest.approx(sum_at_least(change[:6], 0.04))
    assert choice.p > 0.05
    assert choice.candidate("2d+3d").dice > choice.candidate("3d").dice
    assert "not significant" in choice.reason


def sum_at_least(changes, least):
    """The share of all signs that give such a sum."""
    return np.mean([np.dot(signs, changes) >= least - 1e-9 for signs in product((-1, 1), repeat=len(changes))])


def test_the_choice_among_ensembles_is_paid_for():
    """Two ensembles that rise in other cases: the best of both is as good by chance about twice as often as one alone."""
    one, other = np.zeros(12), np.zeros(12)
    one[:4], other[4:8] = 0.01, 0.01
    singles = [scored("2d", [0.5] * 12), scored("3d", [0.8] * 12)]
    choice = select([*singles, scored("2d+3d", 0.8 + one), scored("3d+4d", 0.8 + other)], folds(12))
    assert choice.candidate("2d+3d").p == choice.candidate("3d+4d").p == 1 / 16
    assert choice.p == pytest.approx(1 - (15 / 16) ** 2)


def test_the_gain_is_measured_where_others_chose():
    """Each ensemble is lucky in one fold and bad elsewhere: there the others would never have chosen it."""
    lucky, ensembles = np.full(15, 0.8), []
    for part, name in enumerate(("2d+3d", "2d+4d", "3d+4d")):
        dice = np.full(15, 0.79)
        dice[part::3] = 0.9
        ensembles.append(scored(name, dice))
    choice = select([*(scored(name, lucky) for name in ("2d", "3d", "4d")), *ensembles], [i % 3 for i in range(15)])
    assert choice.candidate("2d+3d").gain == pytest.approx(0.1 / 3 - 0.02 / 3)
    assert choice.nested.gain == pytest.approx(-0.01)
    assert len(choice.plans) == 1


@pytest.mark.parametrize("cases", [1, 4, LEAST_CASES - 1])
def test_few_cases_take_the_best_plan_alone_and_say_so(cases):
    choice = select([scored("2d", [0.8] * cases), scored("3d", [0.7] * cases), scored("2d+3d", [0.99] * cases)], folds(cases))
    assert choice.plans == {"2d": 1.0}
    assert choice.nested is choice.p is None
    assert (choice.candidates[0].interval is None) == (cases < 5)
    assert f"{cases} held-out case" in choice.reason
    assert "2d is the best single plan" in choice.reason


def test_of_equals_the_cheaper_is_taken():
    dice = np.linspace(0.5, 0.9, 20)
    choice = select([scored("2d", dice, 3.0), scored("3d", dice, 2.0), scored("2d+3d", dice, 5.0)], folds(20))
    assert choice.plans == {"3d": 1.0}
    assert [c.name for c in choice.candidates] == ["3d", "2d", "2d+3d"]


def test_what_rightly_shows_nothing_gets_1_where_another_gives_a_false_alarm():
    """The second label is nowhere; 2d sees it in case 0, so that it counts there for all."""
    quiet, loud = [[0.8, NAN], [0.6, NAN]], [[0.8, 0.0], [0.6, NAN]]
    choice = select([scored("3d", quiet), scored("2d", loud)], [0, 1])
    assert choice.candidate("3d").dice == pytest.approx((0.8 + 1 + 0.6) / 3)
    assert choice.candidate("2d").dice == pytest.approx((0.8 + 0 + 0.6) / 3)


def test_cases_in_which_nothing_is_annotated_do_not_count():
    dice = [0.5] * 12 + [NAN] * 8
    assert select([scored("2d", dice), scored("3d", dice)], folds(20)).cases == 12
    assert select([scored("2d", [NAN] * 3), scored("3d", [NAN] * 3), scored("2d+3d", [NAN] * 3)], folds(3)).cases == 0


def test_a_single_fold_is_divided_so_that_some_have_no_say():
    candidates = simulated(3, gain=0.03)
    single, five = select(candidates, [0] * 50), select(candidates, folds(50))
    assert single == five


@pytest.mark.parametrize("choices", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_equally_good_plans_are_ensembled_by_chance_in_one_of_twenty_choices_at_most(choices):
    taken = [len(select(simulated(seed), folds(50)).plans) > 1 for seed in range(choices)]
    assert np.mean(taken) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / choices)


def test_a_truly_better_ensemble_is_taken():
    choices = [select(simulated(seed, gain=0.015), folds(50)) for seed in range(20)]
    assert np.mean([len(choice.plans) > 1 for choice in choices]) > 0.9
    assert np.mean([choice.nested.gain for choice in choices]) == pytest.approx(0.015, abs=0.004)


def test_a_choice_is_never_below_the_best_single_plan():
    for seed in range(20):
        choice = select(simulated(seed, cases=15), folds(15))
        assert choice.candidate(ensemble_name(choice.plans)).dice >= choice.candidate(choice.best_single).dice


def test_a_bad_ensemble_does_not_hide_a_good_one():
    """One that is far worse in every case, by very different amounts, has large sums of signs; it must not set the standard."""
    rng = np.random.default_rng(0)
    base, little = rng.normal(0.8, 0.05, 60), rng.normal(0.003, 0.004, 60)
    bad = scored("2x2d+3d", base - rng.uniform(0.02, 0.16, 60))
    choice = select([scored("2d", base - 0.15), scored("3d", base), bad, scored("2d+2x3d", base + little)], folds(60))
    assert ensemble_name(choice.plans) == "2d+2x3d"
    assert choice.candidate("2d+2x3d").p <= choice.p < 0.01
