"""Scores on another dataset beside those of held-out cases: differences, intervals, and how sure a model rightly is."""

import numpy as np
import pytest

from nnseg.core.card import MetricSummary
from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.core.scores import CaseScore, Counts, Scores
from nnseg.core.trust import Agreement, Confidence, LabelTrust, Trust
from nnseg.evaluation.case_score import label_score
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.evaluation.external import assess_confidence, compare_scores

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 2))


def scores(tps, names="cdefghijklmnopq") -> Scores:
    """Dice 2 tp / (2 tp + 20) of label a, and the same of b but for one voxel."""
    cases = [
        case_score(name, {"a": Counts(tp=tp, fp=10, fn=10, tn=99), "b": Counts(tp=tp, fp=10, fn=10, tn=99)})
        for name, tp in zip(names, tps, strict=False)
    ]
    return summarize(cases, LABELS)


def dice(tp: int) -> float:
    return 2 * tp / (2 * tp + 20)


def test_the_difference_is_that_of_the_means_and_its_interval_holds_it():
    found = {(of.metric, of.label): of for of in compare_scores(scores(range(40, 50)), scores(range(80, 92)))}
    mean = found["dice", ""]
    inner, outer = np.mean([dice(tp) for tp in range(80, 92)]), np.mean([dice(tp) for tp in range(40, 50)])
    assert (mean.internal, mean.external, mean.difference) == pytest.approx((inner, outer, outer - inner))
    assert mean.interval[0] < mean.difference < mean.interval[1] < 0
    assert found["dice", "a"].difference == pytest.approx(mean.difference)
    assert {metric for metric, _ in found} == set(scores([40]).metrics)


def test_the_interval_is_as_wide_as_the_two_groups_need():
    """Of two means of n values with standard deviations s: 1.96 * sqrt(s²/n + s²/m) on either side."""
    random = np.random.default_rng(0)
    first, second = (random.integers(20, 90, 400) for _ in range(2))
    names = [f"c{i}" for i in range(400)]
    found = next(compare_scores(scores(first, names), scores(second, names)))
    values = [np.array([dice(tp) for tp in tps]) for tps in (first, second)]
    half = 1.96 * np.sqrt(sum(one.var() / 400 for one in values))
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(half, rel=0.1)


def test_labels_that_only_one_side_has_are_left_out():
    known = summarize(
        [case_score(n, {"a": Counts(tp=9, fp=1, fn=1, tn=9)}) for n in "cdefg"], Labels(names=("background", "a"), values=(0, 1))
    )
    found = list(compare_scores(scores(range(40, 46)), known))
    assert {of.label for of in found} == {""}
    assert found[0].external == pytest.approx(np.mean([dice(tp) for tp in range(40, 46)]))
    assert found[0].internal == pytest.approx(0.9)


def test_a_model_card_gives_the_mean_and_its_interval():
    of = MetricSummary(
        title="Dice", average="per_image", mean=0.9, interval=(0.88, 0.92), labels=(("a", 0.95, None), ("b", 0.8, (0.7, 0.9)))
    )
    found = {of.label: of for of in compare_scores(scores(range(40, 50)), [of]) if of.metric == "dice"}
    assert found[""].internal == 0.9
    outside = np.mean([dice(tp) for tp in range(40, 50)])
    assert found[""].difference == pytest.approx(outside - 0.9)
    own = next(compare_scores(scores(range(40, 50)), None))
    assert (own.internal, own.difference, own.interval) == (None, None, None)
    width = found[""].interval[1] - found[""].interval[0]
    assert 0.04 < width < 0.08
    assert found["a"].interval is None  # nothing says how sure the mean is


def test_errors_of_volume_keep_their_sign_as_in_tables_and_on_cards():
    small = label_score(Counts(tp=40, fp=5, fn=15, tn=99), grid=Grid(shape=(3, 5, 10)))
    cases = [CaseScore(name=n, labels={"a": small}, mean_dice=None, mean_iou=None) for n in "cdefg"]
    known = summarize(cases, Labels(names=("background", "a"), values=(0, 1)))
    found = {of.metric: of for of in compare_scores(known, known)}
    assert found["relative_volume_error"].external == found["relative_volume_error"].internal == pytest.approx(-10 / 55)
    assert found["absolute_volume_error"].external == pytest.approx(10 / 55)


def test_few_cases_have_no_interval():
    assert next(compare_scores(scores(range(40, 44)), scores(range(40, 60)))).interval is None


def confidence(expected: float, *, low: float, high: float, flagged: bool) -> Confidence:
    agreement = Agreement(labels={"a": 0.9, "b": 0.9}, foreground=0.9, voxels={"a": 5.0, "b": 5.0})
    return Confidence(
        quality=expected, expected_dice={"a": expected}, dice_intervals={"a": (low, high)}, volume_factors={"a": (0.9, 1.1)},
        flagged=flagged, foreign=not flagged, unlike=(), agreement=agreement,
    )  # fmt: skip


def test_expected_dice_and_intervals_are_compared_with_the_truth():
    known = scores([40, 90])  # Dice .8 and .9
    confidences = {
        "c": confidence(0.9, low=0.85, high=0.95, flagged=False),  # too sure: .8 lies outside
        "d": confidence(0.85, low=0.8, high=0.95, flagged=True),
    }
    trust = Trust(cases=9, error=0.03, labels={"a": LabelTrust()})
    found = assess_confidence(known, confidences, trust)
    assert found["expected"] == pytest.approx(0.875)
    assert found["true"] == pytest.approx(0.85)
    assert (found["error"], found["internal_error"]) == (pytest.approx(0.075), 0.03)
    assert (found["dice_coverage"].share, found["dice_coverage"].n) == (0.5, 2)
    assert (found["volume_coverage"].share, found["volume_coverage"].n) == (1.0, 2)  # as large as predicted
    assert (found["flagged"], found["foreign"], found["calibration"]) == (1, 1, None)


def test_of_a_model_that_was_not_calibrated_only_the_truth_is_told():
    assert assess_confidence(scores([40, 90]), {}, None) == {"true": pytest.approx(0.85)}
