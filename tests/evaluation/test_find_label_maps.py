"""Which files of a folder are label maps, whoever wrote them and however they are arranged."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnseg.core.errors import EvaluationError
from nnseg.core.label_files import LabelFiles
from nnseg.core.labels import Labels
from nnseg.evaluation.find_label_maps import find_label_maps
from nnseg.storage.predictions import PredictionsWriter, ScanRecord

LABELS = Labels(names=("background", "liver", "spleen"), values=(0, 1, 2))


def write(path, voxels=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.array([[[0, 1], [2, 2]], [[0, 1], [0, 0]]]) if voxels is None else voxels
    sitk.WriteImage(sitk.GetImageFromArray(np.asarray(voxels, np.uint8)), str(path))


def test_maps_of_uncertainty_and_probabilities_are_no_label_maps_of_their_own(tmp_path):
    for name in ("x0", "x1"):
        write(tmp_path / f"{name}.nii.gz")
        write(tmp_path / f"{name}_uncertainty.nii.gz")
        np.savez(tmp_path / f"{name}.npz", probabilities=np.zeros(1))
    more = dict.fromkeys(("x0_uncertainty.nii.gz", "x0.npz"), "h")
    with PredictionsWriter(tmp_path, model={}, labels=LABELS) as record:  # x1 is known by its name alone
        record.put("x0", ScanRecord(status="done", file="x0.nii.gz", hash="h", more=more))
    (tmp_path / "report.html").touch()
    found = find_label_maps(tmp_path)
    assert found.files == {name: tmp_path / f"{name}.nii.gz" for name in ("x0", "x1")}
    assert found.notes == (f"{tmp_path}: not read: 2 uncertainty maps, 2 files of probabilities",)
    assert (found.labels, found.named_by, found.predicted) == (LABELS, str(tmp_path / "predictions.json"), True)


def test_a_damaged_record_names_no_labels_and_that_is_said(tmp_path):
    write(tmp_path / "x0.nii.gz")
    with PredictionsWriter(tmp_path, model={}, labels=LABELS) as record:
        record.put("x0", ScanRecord(status="done", file="x0.nii.gz", hash="h"))
    file = tmp_path / "predictions.json"
    file.write_bytes(file.read_bytes()[:-9])
    found = find_label_maps(tmp_path)
    assert (found.labels, found.predicted) == (None, False)
    assert found.notes == (f"{file} is damaged, or of another program or version: it names no labels here",)


def test_dicom_seg_is_read_where_there_is_no_other_file_of_its_name(tmp_path):
    for name in ("both.nii.gz", "other.nii.gz"):
        write(tmp_path / name)
    for name in ("both.dcm", "alone.dcm"):
        (tmp_path / name).touch()
    found = find_label_maps(tmp_path)
    assert {name: path.name for name, path in found.files.items()} == {
        "alone": "alone.dcm",
        "both": "both.nii.gz",
        "other": "other.nii.gz",
    }
    assert found.notes == (f"{tmp_path}: not read: 1 DICOM-SEG file beside the same label map in another format",)


def test_a_folder_for_each_case_holds_a_label_map(tmp_path):
    write(tmp_path / "case_00" / "segmentation.nii.gz")
    write(tmp_path / "case_01" / "more" / "segmentation.nii.gz")
    assert {name: path.name for name, path in find_label_maps(tmp_path).files.items()} == {
        "case_00": "segmentation.nii.gz",
        "case_01": "segmentation.nii.gz",
    }


def test_files_of_several_names_in_the_folders_of_cases_are_masks(tmp_path):
    for case in ("s1", "s2"):
        for label in ("liver", "spleen") if case == "s1" else ("liver", "kidney_left"):
            write(tmp_path / case / f"{case}_{label}.nii.gz", np.eye(3)[None])
    found = find_label_maps(tmp_path)
    assert found.masks == {"s1": ("liver", "spleen"), "s2": ("kidney_left", "liver")}
    assert isinstance(found.files["s1"], LabelFiles)
    assert found.files["s1"].coding == "masks"
    assert [path.name for path in found.files["s2"].paths] == ["s2_kidney_left.nii.gz", "s2_liver.nii.gz"]
    assert found.notes == (f"{tmp_path}: 2 folders with a mask for each label: kidney_left, liver, spleen",)


def test_label_maps_in_folders_of_patients_keep_their_own_names(tmp_path):
    for name in ("sub-01_ses-1_dseg", "sub-01_ses-2_dseg", "sub-02_ses-1_dseg"):
        write(tmp_path / name[:6] / name[7:12] / "anat" / f"{name}.nii.gz")
    assert list(find_label_maps(tmp_path).files) == ["sub-01_ses-1_dseg", "sub-01_ses-2_dseg", "sub-02_ses-1_dseg"]


def test_a_dataset_gives_its_label_maps_and_their_names(ball_dataset):
    found = find_label_maps(ball_dataset)
    assert list(found.files) == [f"ball_{i:02d}" for i in range(6)]
    assert found.files["ball_00"] == ball_dataset / "labelsTr" / "ball_00.nii.gz"
    assert found.labels.names == ("background", "ball")
    in_it = find_label_maps(ball_dataset / "labelsTr")
    assert (in_it.files, in_it.labels.names) == (found.files, found.labels.names)
    assert in_it.named_by == str(ball_dataset / "dataset.json")


def test_names_are_those_of_the_dataset_json_beside_the_label_maps(tmp_path):
    write(tmp_path / "given" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "other": 1}}))
    assert find_label_maps(tmp_path / "given").labels is None  # which may be of something else
    (tmp_path / "given" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "spleen": 2}}))
    assert find_label_maps(tmp_path / "given").labels == LABELS
    (tmp_path / "given" / "dataset.json").write_text("{")
    found = find_label_maps(tmp_path / "given")
    assert found.labels is None
    assert "dataset.json" in found.notes[0]
    assert "it names no labels here" in found.notes[0]


def test_two_files_of_one_name_and_no_folder_are_refused(tmp_path):
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "a.mha")
    with pytest.raises(EvaluationError, match=r"a.mha and a.nii.gz in .* are both called a; remove one"):
        find_label_maps(tmp_path)
    with pytest.raises(EvaluationError, match="is not a folder; give the folder that holds the label maps"):
        find_label_maps(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert find_label_maps(tmp_path / "empty").files == {}
