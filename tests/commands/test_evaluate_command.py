import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.evaluate import evaluate_folders, parse_tolerances
from nnseg.commands.legend import read_legend
from nnseg.core.errors import EvaluationError, NnsegError
from nnseg.core.scores import Scores
from nnseg.evaluation.compare import compare
from nnseg.reporting.sections.volumes import summarize_volumes
from nnseg.storage.files import read_json


def write(folder: Path, name: str, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


@pytest.fixture
def folders(tmp_path):
    volume = np.zeros((6, 8, 8))
    volume[1:4, 1:4, 1:4], volume[4, 6, 6] = 1, 2
    write(tmp_path / "given", "one", volume)
    write(tmp_path / "made", "one", np.roll(volume, 1, axis=2))
    write(tmp_path / "given", "=two", volume)
    write(tmp_path / "made", "=two", volume)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "organ": 1, "lesion": 2}, "instances": ["lesion"]})
    )
    return tmp_path


def test_a_dataset_json_names_labels_and_what_counts_one_by_one(folders):
    assert read_legend(folders)[1] == ("lesion",)
    scores = evaluate_folders(folders / "made", folders / "given", legend=folders / "dataset.json").scores
    assert scores.labels == ("organ", "lesion")
    assert (scores.cases[1].labels["lesion"].lesions.f1, scores.cases[1].labels["organ"].lesions) == (0.0, None)
    assert "lesion_f1" in scores.metrics


def test_scores_are_written_as_json_as_a_table_and_as_nnunet_does(folders):
    made, given = str(folders / "made"), str(folders / "given")
    for name, more in (("s.json", []), ("s.csv", []), ("summary.json", ["--format", "nnunet"])):
        result = CliRunner().invoke(app, ["evaluate", made, given, "--out", str(folders / name), "--workers", "1", *more])
        assert result.exit_code == 0, result.output
    scores = read_json(folders / "s.json", Scores)
    assert scores.averages.per_mask["dice"].mean == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    with (folders / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["'=two", "'=two", "one", "one"]
    assert float(rows[2]["dice"]) == pytest.approx(2 / 3)
    assert (rows[3]["hd95"], rows[3]["volume_ml"]) == (str(scores.cases[1].labels["label 2"].hd95), "0.002")
    assert json.loads((folders / "summary.json").read_text())["mean"]["1"]["Dice"] == pytest.approx(5 / 6)


def test_tolerances_are_read_or_refused():
    assert (parse_tolerances("2,1,0.5,1.0000001"), parse_tolerances("none")) == ((0.5, 1.0, 2.0), ())
    for wrong in ("", "1;2", "-1", "inf", "nan"):
        with pytest.raises(NnsegError, match="tolerances"):
            parse_tolerances(wrong)


def test_without_tolerances_no_distance_is_in_the_scores(folders):
    scores = evaluate_folders(folders / "made", folders / "given", tolerances=()).scores
    assert scores.metrics[:2] == ("dice", "iou")
    assert not {"hd", "hd95", "assd"} & set(scores.metrics)


def test_a_legend_that_is_none_and_instances_that_are_no_labels_are_refused(folders):
    with pytest.raises(EvaluationError, match="does not define labels"):
        evaluate_folders(folders / "made", folders / "given", legend=folders / "made")
    with pytest.raises(EvaluationError, match="instances of tumour"):
        evaluate_folders(folders / "made", folders / "given", instances=("tumour",))
    (folders / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1}, "instances": ["tumor"]}')
    with pytest.raises(NnsegError, match=r"instances.*expected some of organ"):
        evaluate_folders(folders / "made", folders / "given", legend=folders)


def test_a_case_that_failed_says_why_in_a_column_of_its_own(folders):
    (folders / "made" / "one.nii.gz").unlink()
    asked = ["evaluate", str(folders / "made"), str(folders / "given"), "--out", str(folders / "s.csv"), "--workers", "1"]
    assert CliRunner().invoke(app, asked).exit_code == 1
    with (folders / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["failed"][:17]) for row in rows] == [("'=two", ""), ("'=two", ""), ("one", "no prediction for")]
    assert {value for name, value in rows[2].items() if name not in ("case", "failed")} == {""}


def test_many_cases_that_fail_for_one_reason_are_one_line(folders):
    for i in range(12):
        write(folders / "given", f"more{i:02d}", np.ones((6, 8, 8)))
    done = CliRunner().invoke(app, ["evaluate", str(folders / "made"), str(folders / "given"), "--workers", "1"])
    assert done.exit_code == 1
    assert "12 failed, all others are done:" in done.stderr
    assert f"cases more00, more01, more02, more03, more04 and 7 more: no prediction for it in {folders / 'made'}" in done.stderr


def test_uncertainty_beside_predictions_does_not_fail(folders, capsys):
    write(folders / "made", "one_uncertainty", np.ones((6, 8, 8)))
    done = CliRunner().invoke(app, ["evaluate", str(folders / "made"), str(folders / "given"), "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "not read: 1 uncertainty map" in done.stderr


def test_a_format_without_a_file_is_refused(folders):
    result = CliRunner().invoke(app, ["evaluate", str(folders / "made"), str(folders / "given"), "--format", "nnunet"])
    assert isinstance(result.exception, EvaluationError)
    assert "give one with --out" in str(result.exception)


def test_tables_and_reports_say_pixels(tmp_path):
    square = np.zeros((12, 16), np.uint8)
    square[2:6, 2:6] = 1
    for folder, mask in (("made", np.maximum(square, np.roll(square, 3, 1))), ("given", square)):
        (tmp_path / folder).mkdir()
        for i in range(3):
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / folder / f"p{i}.png"))
    asked = ["evaluate", str(tmp_path / "made"), str(tmp_path / "given"), "--workers", "1", "--out"]
    done = CliRunner().invoke(app, [*asked, str(tmp_path / "s.csv")])
    assert done.exit_code == 0, done.output
    for text in ("HD95 (pixels)", "ASSD (pixels)", "NSD at 1 pixel", "Volume error (1000 pixels)"):
        assert text in done.output
    assert " mm" not in done.output.replace(str(tmp_path), "")
    with (tmp_path / "s.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["volume_1000_pixels"], row["hd_pixels"]) == ("0.028", "3.0")
    assert CliRunner().invoke(app, [*asked, str(tmp_path / "s.json")]).exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text())["cases"][0]["length_unit"] == "pixel"
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given").scores
    assert summarize_volumes(scores)["unit"] == "1000 pixels"
    assert compare(scores, scores, ["hd95"]).length_unit == "pixel"
