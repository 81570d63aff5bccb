"""Lengths and volumes are in what the files say: mm, a unit of microscopy, or voxels where no size is known."""

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnseg.core.fingerprint import CaseMeasure, Fingerprint, Intensity
from nnseg.core.labels import Labels
from nnseg.core.metrics import metric_of
from nnseg.core.scores import CaseScore
from nnseg.evaluation.folders import evaluate_folders
from nnseg.reporting.sections.data import _facts, _occurrence

SQUARE = np.zeros((12, 16), np.uint8)
SQUARE[2:6, 2:6] = 1
WIDER = SQUARE.copy()
WIDER[2:6, 6:9] = 1


def write_png(folder, cases=1):
    for side, mask in (("made", WIDER), ("given", SQUARE)):
        (folder / side).mkdir(parents=True)
        for i in range(cases):
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / side / f"p{i}.png"))


def write_tiff(folder, *sides):
    for side, mask in (("made", WIDER), ("given", SQUARE)):
        (folder / side).mkdir(parents=True)
        options = {"resolution": (5.0, 5.0), "metadata": {"unit": "um"}} if side in sides else {}  # 0.2 um
        tifffile.imwrite(folder / side / "p.tif", mask, imagej=True, **options)


def test_pictures_without_a_size_are_measured_in_pixels(tmp_path):
    write_png(tmp_path)
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    mask = scores.cases[0].labels["label 1"]
    assert (scores.length_unit, mask.hd, mask.nsd["1"] < 1.0) == ("pixel", 3.0, True)
    assert (mask.volume_ml, mask.reference_ml, mask.volume_error_ml) == (0.028, 0.016, pytest.approx(0.012))


def test_files_in_micrometres_are_measured_in_them(tmp_path):
    write_tiff(tmp_path, "made", "given")
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    mask = scores.cases[0].labels["label 1"]
    assert (scores.length_unit, mask.hd) == ("um", pytest.approx(0.6))
    assert mask.nsd["1"] == 1.0  # within 1 um
    assert mask.volume_error_ml == pytest.approx(12 * 0.2 * 0.2 / 1000)


def test_the_size_that_one_of_two_files_gives_counts_for_both(tmp_path):
    write_tiff(tmp_path, "made")
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    assert (scores.length_unit, scores.cases[0].labels["label 1"].hd) == ("um", pytest.approx(0.6))


def test_cases_with_and_without_a_size_are_mixed_with_a_warning(tmp_path, caplog):
    write_png(tmp_path)
    for side in ("made", "given"):
        sitk.WriteImage(sitk.GetImageFromArray(SQUARE[None]), str(tmp_path / side / "v.nii.gz"))
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    assert [case.length_unit for case in scores.cases] == ["pixel", "mm"]
    assert scores.length_unit == "mm"
    assert "lengths are measured in different units, by what the files say (1 case in pixels, 1 case in mm)" in caplog.text


def test_scores_of_before_are_in_mm():
    assert CaseScore.model_validate({"name": "a", "labels": {}, "mean_dice": None, "mean_iou": None}).length_unit == "mm"
    assert [metric_of(name).unit for name in ("hd95", "volume_error_ml", "dice", "lesion_false_positives")] == [
        "mm",
        "ml",
        "",
        "a case",
    ]
    assert metric_of("nsd_2").title == "NSD at 2 mm"
    assert (metric_of("nsd_2", "um").title, metric_of("hd", "voxel").unit) == ("NSD at 2 um", "voxels")
    titles = [metric_of(name, unit).title for name, unit in (("nsd_1", "pixel"), ("nsd_2", "pixel"), ("nsd_1", "mm"))]
    assert titles == ["NSD at 1 pixel", "NSD at 2 pixels", "NSD at 1 mm"]


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ({"length_unit": "um", "spacing": (0.001, 0.0002, 0.0002)}, ("1 x 0.2 x 0.2 um in the median", "0.00016 1000 um³")),
        (
            {"length_unit": "voxel", "spacing": (1.0, 1.0, 1.0)},
            ("none stored, 1 mm assumed: lengths are in voxels", "0.004 1000 voxels"),
        ),
        ({"length_unit": "inch", "spacing": (2.0, 1.0, 1.0)}, ("2 x 1 x 1 mm in the median", "0.008 ml")),
    ],
)
def test_a_dataset_is_reported_in_its_own_unit(made, shown):
    case = CaseMeasure(name="a", key="", shape=(4, 5, 6), cropped_shape=(4, 5, 6), voxels={"background": 116, "x": 4}, **made)
    intensity = Intensity(mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1)
    labels = Labels(names=("background", "x"), values=(0, 1))
    fingerprint = Fingerprint(dataset="d", layout="", channels=("i",), labels=labels, cases=(case,), intensities=(intensity,))
    assert _facts(fingerprint)["Voxel"].replace(" \u00d7 ", " x ") == shown[0]
    assert _occurrence(fingerprint, "x")[1] == shown[1]
