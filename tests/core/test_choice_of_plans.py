"""Candidates of a choice, and their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nnseg.core.decisions import Choice, EnsembleCandidate, candidate_ensembles, ensemble_name


def test_candidates_of_one_two_and_three_plans():
    assert candidate_ensembles(["3d"]) == ({"3d": 1.0},)
    assert [ensemble_name(plans) for plans in candidate_ensembles(["2d", "3d"])] == ["2d", "3d", "2d+3d", "2x2d+3d", "2d+2x3d"]
    three = [ensemble_name(plans) for plans in candidate_ensembles(["2d", "3d", "3d_cascade"])]
    assert len(three) == len(set(three)) == 3 + 3 * 3 + 4
    assert three[-4:] == ["2d+3d+3d_cascade", "2x2d+3d+3d_cascade", "2d+2x3d+3d_cascade", "2d+3d+2x3d_cascade"]


@given(st.dictionaries(st.sampled_from(["2d", "3d", "3d_lowres"]), st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1), st.randoms())
def test_a_name_depends_on_ratios_and_not_on_the_order(plans, random):
    shuffled = list(plans.items())
    random.shuffle(shuffled)
    assert ensemble_name({name: 4 * weight for name, weight in shuffled}) == ensemble_name(plans)


def test_other_ratios_have_other_names():
    assert ensemble_name({"2d": 1, "3d": 2.5}) == "2d+2.5x3d"
    assert len({ensemble_name({"2d": 1, "3d": weight}) for weight in (1, 2, 3, 0.5)}) == 4


def test_the_price_is_the_ratio_of_seconds():
    candidates = (
        EnsembleCandidate(plans={"2d": 1, "3d": 1}, dice=0.9, seconds=9),
        EnsembleCandidate(plans={"3d": 1}, dice=0.8, seconds=6),
    )
    assert Choice(plans={"2d": 2, "3d": 2}, best_single="3d", candidates=candidates).time_ratio == 1.5
    assert Choice(plans={"2d": 5, "3d": 1}, best_single="3d", candidates=candidates).time_ratio is None


def test_a_choice_that_was_edited_says_so():
    choice = Choice(plans={"3d": 1.0}, decided="3d", reason="3d is best")
    assert choice.explained == "3d is best"
    assert choice.model_copy(update={"plans": {"3d": 7.0}}).explained == "3d is best"
    edited = choice.model_copy(update={"plans": {"2d": 1.0, "3d": 2.0}})
    assert edited.explained == "3d is best; overruled by hand: 2d+2x3d is used"


@pytest.mark.parametrize("plans", [{}, {"2d": 0}, {"2d": -1}, {"2d": float("inf")}, {"2d": float("nan")}])
def test_weights_that_mean_nothing_are_refused(plans):
    with pytest.raises(ValidationError):
        Choice(plans=plans)
