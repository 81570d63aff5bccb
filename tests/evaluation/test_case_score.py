"""What is measured of a case, worked out by hand: 1 x 1 x n volumes are lines, 1 x n x m ones are pictures."""

import numpy as np
import pytest

from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels, Region
from nnseg.evaluation.case_score import Measures, measure_masks

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 2), ignore=9)
SPACING = (2.0, 1.0, 0.5)
MEASURES = Measures(tolerances=(0.5, 1.0), instances=("b",))


def maps(*arrays):
    return [LabelMap(labels=np.array(a, np.uint8), grid=Grid(shape=np.shape(a), spacing=SPACING)) for a in arrays]


def cube(low, high, value=1, size=8):
    volume = np.zeros((size,) * 3, np.uint8)
    volume[low:high, low:high, low:high] = value
    return volume


def measured(prediction, reference, labels=LABELS, *, annotated=None, measures=MEASURES):
    return measure_masks(*maps(prediction, reference), labels, measures, annotated=annotated)


def test_volumes_are_voxels_times_the_size_of_one():
    a = measured(cube(2, 6), cube(2, 5))["a"]  # 64 and 27 voxels of 1 mm3
    assert (a.volume_ml, a.reference_ml) == (pytest.approx(0.064), pytest.approx(0.027))
    assert a.volume_error_ml == pytest.approx(0.037)
    assert a.relative_volume_error == a.absolute_volume_error == pytest.approx(37 / 27)
    assert measured(cube(2, 5), cube(2, 6))["a"].relative_volume_error == pytest.approx(-37 / 64)


def test_what_agrees_has_no_distance():
    a = measured(cube(2, 6), cube(2, 6))["a"]
    assert (a.dice, a.hd, a.hd95, a.assd, a.nsd) == (1.0, 0.0, 0.0, 0.0, {"0.5": 1.0, "1": 1.0})


def test_a_shift_by_one_voxel_is_as_far_as_the_voxel_is_long():
    shifted = np.roll(cube(2, 6), 1, axis=0)
    a = measured(shifted, cube(2, 6), measures=Measures(tolerances=(1.9, 2.0)))["a"]
    assert (a.hd, a.hd95) == (2.0, 2.0)
    assert 0.0 < a.assd < 2.0
    assert 0.0 < a.nsd["1.9"] < a.nsd["2"] == 1.0  # sides agree, caps are 2 mm off


def test_two_empty_masks_are_undefined_in_everything_but_their_volumes():
    b = measured(cube(2, 6), cube(2, 6))["b"]
    assert (b.dice, b.iou, b.hd, b.hd95, b.assd, b.volume_error_ml, b.nsd) == (None,) * 6 + ({},)
    assert (b.volume_ml, b.reference_ml) == (0.0, 0.0)
    assert (b.lesions.false_positives, b.lesions.f1) == (0, None)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_scores_nothing_and_is_at_no_distance(swap):
    pair = (cube(2, 6), cube(2, 6, value=2))
    scores = measured(*(pair[::-1] if swap else pair))
    for a in (scores["a"], scores["b"]):
        assert (a.dice, a.iou, a.nsd) == (0.0, 0.0, {"0.5": 0.0, "1": 0.0})
        assert (a.hd, a.hd95, a.assd) == (None,) * 3
        assert a.surfaces.area_mm2 > 0
        assert a.surfaces.within_mm2 == {"0.5": 0.0, "1": 0.0}
    missing = scores["a"] if not swap else scores["b"]  # predicted, not there
    assert missing.relative_volume_error is None
    assert missing.volume_error_ml == pytest.approx(0.064)


def test_ignored_voxels_belong_to_no_mask():
    reference, prediction = cube(2, 6), cube(2, 6)
    reference[2:6, 2:6, 5:] = 9  # the predicted label goes on where nobody annotated
    a = measured(prediction, reference)["a"]
    assert (a.tp, a.fp, a.fn, a.dice) == (48, 0, 0, 1.0)
    assert (a.volume_ml, a.volume_error_ml, a.hd) == (pytest.approx(0.048), 0.0, 0.0)


def test_nothing_is_measured_of_what_nobody_annotated():
    scores = measured(cube(2, 6), cube(2, 6), annotated=("b",))
    a = scores["a"]
    assert (a.tp, a.tn, a.dice, a.hd, a.volume_ml, a.lesions) == (0, 0, None, None, None, None)
    assert scores["b"].volume_ml == 0.0


def test_regions_are_measured_as_one():
    regions = Labels(
        names=("background", "a", "b"),
        values=(0, 1, 2),
        regions=(Region(name="both", values=(1, 2), paint=1), Region(name="b", values=(2,), paint=2)),
    )
    reference = cube(2, 6) + cube(3, 5)  # the inner 8 voxels are 2
    scores = measured(cube(2, 6), reference, regions)
    assert (scores["both"].dice, scores["both"].hd) == (1.0, 0.0)
    assert (scores["b"].dice, scores["b"].reference_ml) == (0.0, pytest.approx(0.008))


def test_only_the_labels_named_are_counted_one_by_one():
    reference, prediction = cube(1, 3, value=2), cube(1, 3, value=2)
    reference[6, 6, 6] = 2
    prediction[6, 0, 0] = 2
    scores = measured(prediction, reference)
    found = scores["b"].lesions
    assert scores["a"].lesions is None
    assert (found.reference, found.predicted, found.matched, found.false_positives) == (2, 2, 1, 1)
    assert (found.f1, found.sensitivity, found.precision, found.panoptic_quality) == (0.5, 0.5, 0.5, 0.5)


def test_without_tolerances_no_distance_is_measured():
    a = measured(cube(2, 6), cube(2, 5), measures=Measures(tolerances=()))["a"]
    assert (a.hd, a.assd, a.nsd, a.surfaces) == (None, None, {}, None)
    assert a.dice == pytest.approx(54 / 91)


def test_the_crop_changes_nothing():
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 3, (4, 5, 6)).astype(np.uint8) for _ in range(2)]
    padded = [np.pad(a, 3) for a in small]
    few, many = measured(*small), measured(*padded)
    assert {n: s.model_copy(update={"tn": 0}) for n, s in few.items()} == {
        n: s.model_copy(update={"tn": 0}) for n, s in many.items()
    }
    assert many["a"].tn - few["a"].tn == padded[0].size - small[0].size


def test_a_region_may_reach_into_the_background():
    inverse = Labels(
        names=("background", "a"),
        values=(0, 1),
        regions=(Region(name="around", values=(0,), paint=0), Region(name="a", values=(1,), paint=1)),
    )
    around = measured(cube(3, 4), np.roll(cube(3, 4), 1, axis=2), inverse)["around"]
    assert (around.tp, around.fp, around.fn) == (8**3 - 2, 1, 1)
    assert around.surfaces.area_mm2 > 2 * 6 * 8 * 8 * 0.5  # that of the whole volume, not of a box around the voxel
