import numpy as np
import pytest

from nnseg.core.labels import Labels
from nnseg.core.metrics import METRICS, metric_of
from nnseg.core.scores import CaseScore, Counts, LabelScore, Lesions, Surfaces
from nnseg.evaluation.averages import FEW, averages, means_of_cases, table
from nnseg.evaluation.evaluate import case_score, summarize


def mask(**values):
    return LabelScore(**({"tp": 0, "fp": 0, "fn": 0, "tn": 0, "dice": None, "iou": None} | values))


def cases(*masks):
    return [CaseScore(name=f"c{i}", labels={"a": m}, mean_dice=m.dice, mean_iou=m.iou) for i, m in enumerate(masks)]


def lesions(reference, predicted, matched):
    return Lesions(
        reference=reference, predicted=predicted, matched=matched, matched_half=matched, sum_iou_matched=0.75 * matched,
        f1=None, sensitivity=None, precision=None, false_positives=predicted - matched, panoptic_quality=None,
    )  # fmt: skip


def test_the_mean_of_a_case_is_over_the_masks_that_are_defined():
    found = means_of_cases(np.array([[1.0, 0.5, np.nan], [np.nan, np.nan, np.nan], [np.nan, 0.25, np.nan]]))
    np.testing.assert_array_equal(found, [0.75, np.nan, 0.25])


def test_distances_are_left_out_and_counted_where_a_side_is_empty():
    found = averages(cases(mask(hd95=2.0), mask(hd95=4.0), mask(hd95=None)), ["a"], ["hd95"])
    assert (found.per_mask["hd95"].mean, found.per_mask["hd95"].n, found.per_mask["hd95"].n_undefined) == (3.0, 2, 1)
    assert found.pooled["hd95"].mean is None


def test_pooled_distances_weigh_by_area():
    near = mask(assd=1.0, nsd={"1": 1.0}, surfaces=Surfaces(area_mm2=10.0, distance_mm3=10.0, within_mm2={"1": 10.0}))
    far = mask(assd=4.0, nsd={"1": 0.2}, surfaces=Surfaces(area_mm2=30.0, distance_mm3=120.0, within_mm2={"1": 6.0}))
    found = averages(cases(near, far), ["a"], ["assd", "nsd_1"])
    assert (found.per_mask["assd"].mean, found.pooled["assd"].mean) == (2.5, pytest.approx(130 / 40))
    assert (found.per_mask["nsd_1"].mean, found.pooled["nsd_1"].mean) == (0.6, pytest.approx(16 / 40))


def test_a_missed_label_counts_as_nothing_in_pooled_surfaces():
    missed = mask(dice=0.0, nsd={"1": 0.0}, surfaces=Surfaces(area_mm2=30.0, distance_mm3=0.0, within_mm2={"1": 0.0}))
    whole = mask(assd=0.5, nsd={"1": 1.0}, surfaces=Surfaces(area_mm2=10.0, distance_mm3=5.0, within_mm2={"1": 10.0}))
    found = averages(cases(whole, missed), ["a"], ["nsd_1", "assd"])
    assert (found.per_mask["nsd_1"].mean, found.pooled["nsd_1"].mean) == (0.5, 0.25)
    assert found.pooled["assd"].mean == 0.5  # of what can be measured, as in the other averages


def test_pooled_volume_errors_are_ratios_of_sums():
    small = mask(volume_error_ml=1.0, reference_ml=1.0, relative_volume_error=1.0, absolute_volume_error=1.0)
    large = mask(volume_error_ml=-3.0, reference_ml=99.0, relative_volume_error=-3 / 99, absolute_volume_error=3 / 99)
    found = averages(cases(small, large), ["a"], ["relative_volume_error", "absolute_volume_error", "volume_error_ml"])
    assert found.pooled["relative_volume_error"].mean == pytest.approx(-0.02)
    assert found.pooled["absolute_volume_error"].mean == pytest.approx(0.04)
    assert found.pooled["volume_error_ml"].mean == found.per_mask["volume_error_ml"].mean == -1.0


def test_pooled_lesions_are_counted_over_all_cases():
    found = averages(
        cases(mask(lesions=lesions(1, 1, 1)), mask(lesions=lesions(3, 1, 0)), mask(lesions=lesions(0, 2, 0))),
        ["a"],
        ["lesion_sensitivity", "lesion_precision", "lesion_f1", "lesion_false_positives", "panoptic_quality"],
    ).pooled
    assert (found["lesion_sensitivity"].mean, found["lesion_precision"].mean, found["lesion_f1"].mean) == (0.25, 0.25, 0.25)
    assert (found["lesion_false_positives"].mean, found["panoptic_quality"].mean) == (1.0, 0.75 / 4)


def test_few_cases_have_no_interval():
    few, enough = (averages(cases(*[mask(dice=0.5 + i / 100) for i in range(n)]), ["a"], ["dice"]) for n in (FEW - 1, FEW))
    assert few.per_mask["dice"].interval is None
    low, high = enough.per_mask["dice"].interval
    assert 0.5 <= low < enough.per_mask["dice"].mean < high <= 0.54


def test_an_interval_is_that_of_the_normal_approximation_where_cases_are_many():
    dices = np.random.default_rng(0).normal(0.8, 0.05, 400).clip(0, 1)
    dice = averages(cases(*[mask(dice=d) for d in dices]), ["a"], ["dice"]).per_image["dice"]
    half = 1.96 * dices.std(ddof=1) / 20
    assert dice.interval == pytest.approx((dice.mean - half, dice.mean + half), abs=0.0006)
    assert dice.intervals["a"] == dice.interval


def test_a_pooled_interval_holds_the_pooled_mean():
    rng, labels = np.random.default_rng(1), Labels(names=("background", "a"), values=(0, 1))
    counts = [Counts(tp=int(t), fp=int(p), fn=int(n), tn=9) for t, p, n in rng.integers(1, 99, (30, 3))]
    pooled = summarize([case_score(f"{i:02}", {"a": c}) for i, c in enumerate(counts)], labels).averages.pooled["dice"]
    assert pooled.interval[0] < pooled.mean < pooled.interval[1]
    assert pooled.interval[1] - pooled.interval[0] < 0.3


def test_a_table_has_a_gap_where_nothing_is_defined():
    assert np.array_equal(table(cases(mask(dice=0.5), mask()), ["a"], "dice"), [[0.5], [np.nan]], equal_nan=True)


def test_every_metric_can_be_read_from_a_mask():
    assert [mask().metric("nsd_1" if name == "nsd" else name) for name in METRICS] == [None] * len(METRICS)
    assert metric_of("nsd_0.5").title == "NSD at 0.5 mm"
    with pytest.raises(KeyError):
        metric_of("hausdorff")
