import numpy as np
import pytest

from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap
from nnseg.core.label_volumes import volumes_of
from nnseg.core.labels import Labels, Region
from nnseg.core.population import Person, make_population
from nnseg.core.trust import Agreement, Confidence
from nnseg.volumetry.volumes import Patient, asymmetries, describe_volumes

KIDNEYS = Labels(names=("background", "Left Kidney", "Right Kidney"), values=(0, 1, 2))


def label_map(values, spacing=(5.0, 2.0, 1.0)) -> LabelMap:
    voxels = np.array(values)
    return LabelMap(labels=voxels, grid=Grid(shape=voxels.shape, spacing=spacing))


def test_a_volume_is_voxels_times_the_volume_of_one():
    found = volumes_of(label_map([[[0, 1, 1], [2, 1, 0]]]), KIDNEYS)
    assert found == {"Left Kidney": pytest.approx(0.03), "Right Kidney": pytest.approx(0.01)}


def test_regions_are_unions_and_values_may_be_any():
    labels = Labels(
        names=("background", "oedema", "core"),
        values=(0, 9_000_000, -7),
        regions=(Region(name="whole", values=(9_000_000, -7), paint=9_000_000), Region(name="core", values=(-7,), paint=-7)),
    )
    found = volumes_of(label_map([[[0, 9_000_000], [-7, -7]]], (10.0, 10.0, 10.0)), labels)
    assert found == {"whole": pytest.approx(3.0), "core": pytest.approx(2.0)}


def test_a_large_map_is_counted_exactly():
    voxels = np.random.default_rng(0).integers(0, 3, (7, 33, 21)).astype(np.uint8)
    found = volumes_of(label_map(voxels, (1.0, 1.0, 1.0)), KIDNEYS)
    assert found == {"Left Kidney": int((voxels == 1).sum()) / 1000, "Right Kidney": int((voxels == 2).sum()) / 1000}


def test_asymmetry_is_of_pairs_only():
    found = asymmetries({"Left Kidney": 150.0, "Right Kidney": 100.0, "Liver": 1500.0, "spleen_l": 0.0, "spleen_r": 0.0})
    assert found == {"Left Kidney": 40.0, "Right Kidney": 40.0}
    assert asymmetries({"kidney_left": 0.0, "kidney_right": 3.0})["kidney_left"] == -200.0


def confidence(**changes) -> Confidence:
    agreement = Agreement(
        labels={"Left Kidney": 0.9, "Right Kidney": 0.9}, foreground=0.9, voxels={"Left Kidney": 9.0, "Right Kidney": 0.0}
    )
    known = {"quality": 0.42, "expected_dice": {"Left Kidney": 0.8}, "flagged": True, "unlike": ("spacing 5 mm along z",)}
    return Confidence(**known | changes, agreement=agreement)


def test_a_doubtful_scan_is_flagged_with_every_reason():
    others = make_population([Person(volumes={"Left Kidney": 100.0 + i, "Right Kidney": 100.0 + i}) for i in range(40)], "others")
    case = describe_volumes(
        "a",
        {"Left Kidney": 120.0, "Right Kidney": 0.0},
        population=others,
        confidence=confidence(),
        notes=("spacing 5 mm along z [NS-S032]", "2 voxels were not numbers"),
    )
    assert case.flags == ("low expected quality, Dice 0.42", "foreign scan: spacing 5 mm along z", "Right Kidney not found")
    assert case.notes == ("2 voxels were not numbers",)
    assert case.unusual == {"Right Kidney": "low"}
    assert case.labels["Left Kidney"].expected_dice == 0.8
    assert case.labels["Right Kidney"].expected_dice is None
    assert case.labels["Left Kidney"].asymmetry == 200.0


def test_an_unusual_volume_alone_is_no_flag():
    others = make_population([Person(volumes={"Left Kidney": 100.0 + i}) for i in range(40)], "others")
    case = describe_volumes("a", {"Left Kidney": 900.0}, population=others, confidence=confidence(flagged=False, unlike=()))
    assert case.unusual == {"Left Kidney": "high"}
    assert case.flags == ()


def test_without_a_population_there_are_only_volumes():
    case = describe_volumes("a", {"Left Kidney": 120.0}, patient=Patient(age=40.0))
    assert (case.flags, case.unusual, case.quality, case.labels["Left Kidney"].percentile) == ((), {}, None, None)


def test_a_foreign_scan_is_flagged_without_uncertainty():
    case = describe_volumes("a", {"Left Kidney": 1.0}, notes=("spacing 5 mm along z [NS-S032]", "2 voxels were not numbers"))
    assert (case.flags, case.notes) == (("foreign scan: spacing 5 mm along z",), ("2 voxels were not numbers",))


def test_intervals_are_those_of_the_volume_and_of_the_dice():
    known = confidence(dice_intervals={"Left Kidney": (0.7, 0.9)}, volume_factors={"Left Kidney": (0.5, 1.25)})
    case = describe_volumes("a", {"Left Kidney": 120.0, "Right Kidney": 8.0}, confidence=known)
    left, right = case.labels.values()
    assert (left.dice_interval, left.interval) == ((0.7, 0.9), (60.0, 150.0))
    assert (right.dice_interval, right.interval) == (None, None)
