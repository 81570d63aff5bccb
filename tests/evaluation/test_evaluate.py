import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnseg.core.errors import EvaluationError
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, Failure, Scores
from nnseg.evaluation.evaluate import case_score, evaluate, summarize
from nnseg.evaluation.folders import evaluate_folders
from nnseg.evaluation.pairs import FilePair

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 2))
PERFECT = Counts(tp=10, fp=0, fn=0, tn=90)
THIRD = Counts(tp=1, fp=2, fn=2, tn=95)  # Dice 2/6, IoU 1/5
EMPTY = Counts(tp=0, fp=0, fn=0, tn=100)
WRONG = Counts(tp=0, fp=4, fn=0, tn=96)


def three_cases() -> Scores:
    """a is defined in two cases, b in two, and one case shows neither."""
    counts = {
        "x": {"a": PERFECT, "b": THIRD},
        "y": {"a": EMPTY, "b": WRONG},
        "z": {"a": EMPTY, "b": EMPTY},
        "w": {"a": THIRD, "b": EMPTY},
    }
    return summarize([case_score(name, c) for name, c in counts.items()], LABELS)


def test_cases_are_listed_by_name_with_their_means():
    cases = three_cases().cases
    assert [c.name for c in cases] == ["w", "x", "y", "z"]
    assert [c.mean_dice for c in cases] == [pytest.approx(1 / 3), pytest.approx((1 + 1 / 3) / 2), 0.0, None]
    assert cases[1].mean_iou == pytest.approx((1 + 1 / 5) / 2)


def test_per_mask_counts_each_defined_mask_once():
    average = three_cases().averages.per_mask
    assert average["dice"].mean == pytest.approx((1 + 1 / 3 + 0 + 1 / 3) / 4)
    assert average["iou"].mean == pytest.approx((1 + 1 / 5 + 0 + 1 / 5) / 4)
    assert average["dice"].labels == pytest.approx({"a": 2 / 3, "b": 1 / 6})
    assert (average["dice"].n, average["dice"].n_undefined) == (4, 4)


def test_per_image_counts_each_case_once():
    average = three_cases().averages.per_image
    assert average["dice"].mean == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert average["dice"].labels == three_cases().averages.per_mask["dice"].labels
    assert (average["dice"].n, average["dice"].n_undefined) == (3, 1)


def test_pooled_sums_voxels_before_the_ratio():
    average = three_cases().averages.pooled
    assert average["dice"].labels == pytest.approx({"a": 22 / 26, "b": 2 / 10})
    assert average["iou"].labels == pytest.approx({"a": 11 / 15, "b": 1 / 9})
    assert average["dice"].mean == pytest.approx((22 / 26 + 2 / 10) / 2)
    assert (average["dice"].n, average["dice"].n_undefined) == (2, 0)


def test_averages_of_nothing_are_undefined_and_json_holds_no_nan():
    scores = summarize([case_score("z", {"a": EMPTY, "b": EMPTY})], LABELS)
    assert scores.averages.per_mask["dice"].mean is None
    text = scores.model_dump_json()
    assert "NaN" not in text
    iou = json.loads(text)["averages"]["pooled"]["iou"]
    assert (iou["mean"], iou["labels"], iou["interval"], iou["n"]) == (None, {"a": None, "b": None}, None, 0)


def test_scores_survive_their_json():
    assert Scores.model_validate_json(three_cases().model_dump_json()) == three_cases()


def test_counts_of_nnunet_give_the_averages_known_of_them():
    file = Path(__file__).resolve().parents[3] / "shared" / "reference" / "nnunet_hippocampus_oof.json"
    if not file.exists():
        pytest.skip("the counts of nnU-Net (../shared/reference) are not on this machine")
    labels = Labels(names=("background", "Anterior", "Posterior"), values=(0, 1, 2))
    cases = []
    for name, case in json.loads(file.read_text())["cases"].items():
        counts = {
            n: Counts(tp=case[v]["TP"], fp=case[v]["FP"], fn=case[v]["FN"], tn=0)
            for n, v in (("Anterior", "1"), ("Posterior", "2"))
        }
        cases.append(case_score(name, counts))
    averages = summarize(cases, labels).averages
    assert [round(v, 4) for v in averages.per_mask["iou"].labels.values()] == [0.8175, 0.7912]
    assert [round(v, 4) for v in averages.pooled["iou"].labels.values()] == [0.8175, 0.7898]
    assert [round(v, 4) for v in averages.pooled["dice"].labels.values()] == [0.8996, 0.8826]
    assert round(averages.per_mask["dice"].mean, 4) == 0.8904


def write(folder: Path, name: str, labels: list[list[list[int]]], *, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.array(labels, np.uint8))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(folder / name))


ONE = [[[0, 1], [2, 2]], [[0, 1], [0, 0]]]
OTHER = [[[0, 1], [2, 1]], [[0, 1], [0, 0]]]


def test_folders_are_paired_by_name_whatever_the_suffix(tmp_path):
    write(tmp_path / "made", "case1.nii.gz", OTHER)
    write(tmp_path / "given", "case1.mha", ONE)
    (tmp_path / "made" / "predictions.json").write_text("{}")
    (case,) = evaluate_folders(tmp_path / "made", tmp_path / "given", LABELS).cases
    assert (case.name, case.labels["a"].dice, case.labels["b"].dice) == ("case1", pytest.approx(4 / 5), pytest.approx(2 / 3))


def test_a_label_that_was_not_annotated_has_no_score_and_counts_in_no_average(tmp_path):
    write(tmp_path, "given.nii.gz", [[[0, 1], [0, 0]]])
    write(tmp_path, "made.nii.gz", [[[2, 1], [2, 0]]])
    prediction, reference = tmp_path / "made.nii.gz", tmp_path / "given.nii.gz"
    pairs = [FilePair(name="all", prediction=prediction, reference=reference)]
    pairs.append(FilePair(name="part", prediction=prediction, reference=reference, annotated=("a",)))
    scores = evaluate(pairs, LABELS)
    assert [(c.labels["a"].dice, c.labels["b"].dice, c.mean_dice) for c in scores.cases] == [(1.0, 0.0, 0.5), (1.0, None, 1.0)]
    assert scores.averages.per_mask["dice"].labels == {"a": 1.0, "b": 0.0}
    assert scores.averages.per_mask["dice"].mean == pytest.approx(2 / 3)
    assert (scores.averages.per_mask["dice"].n, scores.averages.per_mask["dice"].n_undefined) == (3, 1)
    assert scores.averages.per_image["dice"].mean == 0.75
    assert scores.averages.pooled["dice"].labels == {"a": 1.0, "b": 0.0}


def test_a_reference_without_positions_lies_where_the_predicted_picture_does(tmp_path):
    for folder in ("made", "given"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "case1.tif", np.array(ONE, np.uint8)[0])
    (tmp_path / "made" / "case1.json").write_text('{"spacing": [1.0, 0.3, 0.3]}')
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given", LABELS)
    assert [c.mean_dice for c in scores.cases] == [1.0]


def test_grids_that_differ_by_rounding_are_the_same(tmp_path):
    write(tmp_path / "made", "case1.nii.gz", ONE, spacing=(1.0, 1.0, 1.01))
    write(tmp_path / "given", "case1.nii.gz", ONE)
    assert evaluate_folders(tmp_path / "made", tmp_path / "given", LABELS).failed == ()


def test_label_maps_of_a_tilted_gantry_are_compared_on_their_own_sheared_grid(tmp_path):
    affine = np.array([[0.5, 0, 0, 3], [0, 0.5, 0.6, 4], [0, 0, 0.8, 5], [0, 0, 0, 1]])  # 1 mm along a leaning z
    for folder, labels in (("made", OTHER), ("given", ONE)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(np.array(labels, np.uint8), affine), tmp_path / folder / "ct.nii.gz")
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given", LABELS)
    (case,) = scores.cases
    assert (case.labels["a"].dice, case.labels["b"].dice) == (pytest.approx(4 / 5), pytest.approx(2 / 3))
    assert case.labels["a"].volume_ml == pytest.approx(3 * 0.5 * 0.5 * 0.8 / 1000)
    assert case.labels["b"].hd == pytest.approx(math.sqrt(0.6**2 + 0.8**2))  # the voxel that is missing lies one step along z


def test_labels_are_read_off_the_references(tmp_path):
    write(tmp_path / "made", "case1.nii.gz", ONE)
    write(tmp_path / "given", "case1.nii.gz", ONE)
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    assert scores.labels == ("label 1", "label 2")
    assert scores.averages.per_mask["dice"].mean == 1.0


def test_a_case_that_cannot_be_compared_fails_alone_and_is_named(tmp_path):
    made, given = tmp_path / "made", tmp_path / "given"
    for folder in (made, given):
        write(folder, "good.nii.gz", ONE)
    write(made, "unasked.nii.gz", ONE)
    write(given, "missed.nii.gz", ONE)
    write(made, "shape.nii.gz", ONE[:1])
    write(given, "shape.nii.gz", ONE)
    write(made, "grid.nii.gz", ONE, spacing=(1.0, 1.0, 2.0))
    write(given, "grid.nii.gz", ONE)
    write(made, "value.nii.gz", [[[0, 1], [2, 7]]])
    write(given, "value.nii.gz", ONE[:1])
    write(given, "broken.nii.gz", ONE)
    (made / "broken.nii.gz").write_bytes(b"not an image")
    scores = evaluate_folders(made, given, LABELS)
    assert [c.name for c in scores.cases] == ["good"]
    reasons = {f.name: f.reason for f in scores.failed}
    assert list(reasons) == ["broken", "grid", "missed", "shape", "unasked", "value"]
    assert "1 x 2 x 2" in reasons["shape"]
    assert "2 x 2 x 2" in reasons["shape"]
    assert "1 mm apart" in reasons["grid"]
    assert "no prediction" in reasons["missed"]
    assert "no reference" in reasons["unasked"]
    assert "prediction has values [7]" in reasons["value"]


def test_workers_do_not_change_scores(tmp_path):
    for name in ("one", "two", "three"):
        write(tmp_path / "made", f"{name}.nii.gz", ONE)
        write(tmp_path / "given", f"{name}.nii.gz", OTHER)
    alone = evaluate_folders(tmp_path / "made", tmp_path / "given", workers=1)
    assert evaluate_folders(tmp_path / "made", tmp_path / "given", workers=2) == alone
    assert alone.failed == ()


def test_folders_without_a_common_name_are_an_error(tmp_path):
    write(tmp_path / "made", "one_0000.nii.gz", ONE)
    write(tmp_path / "given", "one.nii.gz", ONE)
    with pytest.raises(EvaluationError, match=r"no case is in both .*one_0000.*one"):
        evaluate_folders(tmp_path / "made", tmp_path / "given")
    with pytest.raises(EvaluationError, match="not a folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path / "given")


def test_two_files_of_one_name_are_an_error(tmp_path):
    write(tmp_path / "made", "one.nii.gz", ONE)
    write(tmp_path / "made", "one.mha", ONE)
    write(tmp_path / "given", "one.nii.gz", ONE)
    with pytest.raises(EvaluationError, match="both called one"):
        evaluate_folders(tmp_path / "made", tmp_path / "given")


def test_references_of_background_alone_are_an_error(tmp_path):
    write(tmp_path / "made", "one.nii.gz", ONE)
    write(tmp_path / "given", "one.nii.gz", [[[0, 0], [0, 0]]])
    with pytest.raises(EvaluationError, match="any label but background"):
        evaluate_folders(tmp_path / "made", tmp_path / "given")


def test_failures_known_before_are_listed_too():
    scores = summarize([], LABELS, failed=[Failure(name="q", reason="no scan")])
    assert scores.failed == (Failure(name="q", reason="no scan"),)
