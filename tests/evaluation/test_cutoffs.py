"""Cut-offs of predicted volumes: worked by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from nnseg.core.cutoffs import CutOffs, Question, parse_question, parse_share
from nnseg.core.errors import EvaluationError
from nnseg.core.scores import CaseScore, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.evaluation.cutoffs import choose_cutoff, describe_cutoff, net_benefit, roc_area, wilson

PRESENT = Question(label="lesion")


def scores_of(pairs: list[tuple[float, float]]) -> Scores:
    """Scores with the given predicted and reference volumes."""
    cases = tuple(
        CaseScore(
            name=f"case_{number}",
            labels={"lesion": LabelScore(tp=0, fp=0, fn=0, tn=1, dice=None, iou=None, volume_ml=ml, reference_ml=true)},
            mean_dice=None,
            mean_iou=None,
        )
        for number, (ml, true) in enumerate(pairs)
    )
    return Scores(labels=("lesion",), metrics=("dice",), cases=cases, averages=averages(cases, ["lesion"], ["dice"]))


SEPARATE = [*((0.0, 0.0),) * 3, (0.2, 0.0), (0.4, 0.0), (1.0, 2.0), (1.5, 2.0), (2.0, 2.0), (3.0, 2.0), (4.0, 2.0)]
"""All lesions are found, and two scans without one have a few voxels."""


def test_a_cut_off_between_false_and_true_volumes_separates_them():
    found = choose_cutoff(scores_of(SEPARATE), PRESENT)
    assert found.cutoff_ml == pytest.approx(0.7)  # the middle between 0.4 and 1
    assert (found.scans, found.yes, found.patients, found.auc, found.auc_interval) == (10, 5, 10, 1.0, (1.0, 1.0))
    assert (found.usual.sensitivity, found.usual.specificity) == (1.0, 0.6)  # any voxel: two of five are called wrongly
    # without the scan of 0.4 the cut-off is 0.6; without that of 1.0 it is 0.95, so that this one is still found
    assert (found.rates.sensitivity, found.rates.specificity) == (1.0, 1.0)
    assert found.rates.sensitivity_interval == pytest.approx((0.5655, 1.0), abs=1e-4)  # 5 / (5 + 1.96^2)
    assert [(p.cutoff_ml, p.sensitivity, p.specificity) for p in found.roc[:3]] == [
        (pytest.approx(0.1), 1.0, 0.6), (pytest.approx(0.3), 1.0, 0.8), (pytest.approx(0.7), 1.0, 1.0),
    ]  # fmt: skip
    assert found.benefit[-1].probability == 0.9
    assert [(b.chosen, b.every) for b in found.benefit if b.probability == 0.5] == [(0.5, 0.0)]
    assert found.answer(0.7).yes is False
    assert found.answer(0.71).yes is True
    assert describe_cutoff(found).startswith(
        "lesion present: 5 of 10 held-out scans of 10 patients. Area under the ROC curve 1.000"
    )


def test_answers_for_a_patient_come_from_the_cut_off_of_the_others():
    pairs = [*((0.0, 0.0),) * 4, (1.0, 0.0), (0.5, 2.0), *((2.0, 2.0),) * 4]
    found = choose_cutoff(scores_of(pairs), PRESENT)
    assert found.cutoff_ml == 0.0  # as good as 1.5, and nearer to the label map as it is
    # without the scan of 0.5 the cut-off is 1.5, and it is missed; without that of 1.0 it is 0, and it is called wrongly
    assert (found.usual.sensitivity, found.usual.specificity) == (1.0, 0.8)
    assert (found.rates.sensitivity, found.rates.specificity) == (0.8, 0.8)
    one = choose_cutoff(scores_of([*pairs, (0.5, 2.0)]), PRESENT, patients={"case_5": "p", "case_10": "p"})
    assert (one.patients, one.rates.sensitivity) == (10, pytest.approx(4 / 6))  # both scans of p are missed together


def test_a_volume_is_below_where_the_predicted_one_is_below_the_cut_off():
    pairs = [(true + 0.3, true) for true in (1.0, 1.2, 1.4, 1.6, 1.8, 2.2, 2.4, 2.6, 2.8, 3.0)]
    found = choose_cutoff(scores_of(pairs), Question(label="lesion", below_ml=2.0))
    assert found.cutoff_ml == pytest.approx(2.3)  # between 2.1 and 2.5, since all are predicted .3 too large
    assert (found.yes, found.auc, found.usual.sensitivity, found.usual.specificity) == (5, 1.0, 0.8, 1.0)
    assert (found.answer(2.2).yes, found.answer(2.4).yes) == (True, False)
    assert found.answer(2.2).question == "lesion below 2 ml"


def test_a_sensitivity_that_is_asked_for_is_reached_at_the_highest_specificity():
    pairs = [*((0.1 * n, 0.0) for n in range(10)), *((0.35 + 0.2 * n, 1.0) for n in range(10))]
    youden, sensitive = (choose_cutoff(scores_of(pairs), PRESENT, least_sensitivity=least) for least in (None, 1.0))
    assert sensitive.cutoff_ml == pytest.approx(0.325)  # between 0.3 and 0.35
    assert youden.cutoff_ml == pytest.approx(0.925)  # between 0.9 and 0.95: 7 of 10, and 10 of 10, against 10 and 4
    missed = [*pairs, (0.0, 1.0)]
    with pytest.raises(EvaluationError, match=r"no cut-off has a sensitivity of 1: 0\.909 is the highest"):
        choose_cutoff(scores_of(missed), PRESENT, least_sensitivity=1.0)


def test_areas_and_curves_agree_with_those_of_scikit_learn():
    random = np.random.default_rng(0)
    for _ in range(20):
        yes = np.arange(40) % 3 == 0
        volumes = np.round(random.gamma(1.0, 1.0, 40) + yes, 1)  # with ties
        assert roc_area(volumes, yes) == pytest.approx(roc_auc_score(yes, volumes))
        found = choose_cutoff(scores_of(list(zip(volumes.tolist(), yes.astype(float).tolist(), strict=True))), PRESENT)
        false, true, _ = roc_curve(yes, volumes, drop_intermediate=False)
        theirs = set(zip(np.round(true, 9), np.round(1 - false, 9), strict=True))
        assert {(round(p.sensitivity, 9), round(p.specificity, 9)) for p in found.roc} <= theirs
        assert found.rates.sensitivity + found.rates.specificity <= max(true - false) + 1 + 1e-9  # those of the fitted cut-off
        assert found.auc_interval[0] <= found.auc <= found.auc_interval[1]


def test_net_benefit_is_that_of_vickers_and_elkin():
    answers, yes = np.array([True, True, True, False]), np.array([True, True, False, True])
    assert net_benefit(answers, yes, 0.2) == pytest.approx(2 / 4 - 1 / 4 * 0.25)


def test_an_interval_of_a_share_is_that_of_wilson():
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_too_few_patients_and_unknown_labels_are_refused():
    with pytest.raises(EvaluationError, match="lesion present: the references of 4 patients say yes; at least 5 are needed"):
        choose_cutoff(scores_of(SEPARATE[:-1]), PRESENT)
    with pytest.raises(EvaluationError, match="there is no volume of tumour in the scores; they have lesion"):
        choose_cutoff(scores_of(SEPARATE), Question(label="tumour"))


def test_cut_offs_are_valid_while_the_volumes_are_the_same():
    scores = scores_of(SEPARATE)
    known = CutOffs(cutoffs=(choose_cutoff(scores, PRESENT),))
    assert known.valid_for(scores) == known
    assert known.valid_for(scores_of([*SEPARATE[:-1], (4.5, 2.0)])) is None
    assert known.valid_for(None) is None
    again = choose_cutoff(scores, PRESENT, least_sensitivity=0.5)
    assert known.replaced(again).cutoffs == (again,)


@pytest.mark.parametrize("text", ["", "above:2", "below", "below:", "below:0", "below:-1", "below:inf", "present:2"])
def test_questions_that_are_none_are_refused(text: str):
    with pytest.raises(EvaluationError, match="is no question; write present, or below:ML"):
        parse_question(text, "lesion")


def test_questions_and_shares_are_read():
    assert parse_question("below:2.5", "a") == Question(label="a", below_ml=2.5)
    assert parse_share("0.95") == 0.95
    for text in ("0", "1.1", "nan", "a"):
        with pytest.raises(EvaluationError, match="is not a share"):
            parse_share(text)
