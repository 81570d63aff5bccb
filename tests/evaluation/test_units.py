"""Lengths and volumes are in what the files say: mm, a unit of microscopy, or voxels where no size is known."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.core.metrics import metric_of
from nnseg.core.scores import CaseScore
from nnseg.evaluation.compare import compare
from nnseg.evaluation.evaluate import evaluate_folders
from nnseg.reporting.sections.volumes import summarize_volumes

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


def test_tables_and_reports_say_pixels(tmp_path):
    write_png(tmp_path, cases=3)
    asked = ["evaluate", str(tmp_path / "made"), str(tmp_path / "given"), "--workers", "1", "--out"]
    done = CliRunner().invoke(app, [*asked, str(tmp_path / "s.csv")])
    assert done.exit_code == 0, done.output
    for text in ("HD95 (pixels)", "ASSD (pixels)", "NSD at 1 pixels", "Volume error (1000 pixels)"):
        assert text in done.output
    assert " mm" not in done.output.replace(str(tmp_path), "")
    with (tmp_path / "s.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["volume_1000_pixels"], row["hd_pixels"]) == ("0.028", "3.0")
    assert CliRunner().invoke(app, [*asked, str(tmp_path / "s.json")]).exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text())["cases"][0]["length_unit"] == "pixel"
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    assert summarize_volumes(scores)["unit"] == "1000 pixels"
    assert compare(scores, scores, ["hd95"]).length_unit == "pixel"
