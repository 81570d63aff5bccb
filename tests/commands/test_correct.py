"""A label map that was corrected by hand takes the place of the one in the dataset, and nothing is lost."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from standin import write_scan
from warm import nnseg

from nnseg.commands.correct import FOLDER, RECORD, correct
from nnseg.core.dataset import Reading
from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.datasets.layouts import find_layout

LABELS = {"background": 0, "left": 1, "right": 2}


def write_mask(path: Path, *, value: int = 1, until: int = 2) -> Path:
    """A label map on the grid of `write_scan`, whose first slices have a value."""
    scan = nib.load(write_scan(path.parent / "scan.nii.gz"))
    (path.parent / "scan.nii.gz").unlink()
    voxels = np.zeros(scan.shape, np.uint8)
    voxels[..., :until] = value
    nib.save(nib.Nifti1Image(voxels, scan.affine), path)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b"):
        write_scan(folder / "imagesTr" / f"{name}_0000.nii.gz")
        write_mask(folder / "labelsTr" / f"{name}.nii.gz")
    about = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def test_the_new_label_map_is_in_its_place_and_the_old_one_is_kept(dataset: Path, tmp_path: Path) -> None:
    file, before = dataset / "labelsTr" / "a.nii.gz", (dataset / "labelsTr" / "a.nii.gz").read_bytes()
    mask = write_mask(tmp_path / "mine.nii.gz", until=1)
    cases = find_layout(dataset, Reading()).cases
    made = correct(dataset, "a", mask, Reading())
    assert nib.load(file).get_fdata().sum() == (size := nib.load(mask).get_fdata().sum())
    assert (made.changed, made.dice) == (size, {"left": pytest.approx(2 / 3), "right": None})
    assert made.kept.read_bytes() == before
    again = correct(dataset, "a", write_mask(tmp_path / "other.nii.gz", value=2), Reading())
    assert again.kept != made.kept
    lines = (dataset / FOLDER / RECORD).read_text().splitlines()
    assert lines == [one.model_dump_json() for one in (made, again)]
    assert find_layout(dataset, Reading()).cases == cases


def test_a_damaged_label_map_is_replaced(dataset: Path, tmp_path: Path) -> None:
    (dataset / "labelsTr" / "b.nii.gz").write_bytes(b"damaged")
    said = nnseg("correct", str(dataset), "b", str(write_mask(tmp_path / "mine.nii.gz"))).stdout
    assert "b.nii.gz: replaced; the file before is" in said
    assert (dataset / FOLDER / "b_1.nii.gz").read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [("aa", 1, DatasetError, "did you mean a"), ("a", 7, ScanError, "7"), ("a", None, ScanError, "shape")],
)
def test_what_is_no_correction_is_refused_and_nothing_is_written(
    dataset: Path, tmp_path: Path, name: str, value: int | None, error: type[Exception], words: str
) -> None:
    mask, before = tmp_path / "mine.nii.gz", (dataset / "labelsTr" / "a.nii.gz").read_bytes()
    if value is None:
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), mask)
    else:
        write_mask(mask, value=value)
    with pytest.raises(error, match=words):
        correct(dataset, name, mask, Reading())
    assert ((dataset / "labelsTr" / "a.nii.gz").read_bytes(), (dataset / FOLDER).exists()) == (before, False)


def test_segments_are_taken_by_their_names_whatever_their_values(dataset: Path, tmp_path: Path) -> None:
    file, mask = dataset / "labelsTr" / "a.nii.gz", tmp_path / "Segmentation.seg.nrrd"
    drawn = sitk.ReadImage(file)  # of the value 1, which is "left" in the dataset
    for name in ("right", "other"):
        for key, text in {"Name": name, "LabelValue": "1", "Layer": "0", "ID": "Segment_1"}.items():
            drawn.SetMetaData(f"Segment0_{key}", text)
        sitk.WriteImage(drawn, mask)
        if name == "right":
            assert correct(dataset, "a", mask, Reading()).dice == {"left": 0.0, "right": 0.0}
            np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(file)), 2 * sitk.GetArrayFromImage(drawn))
        else:
            with pytest.raises(ScanError, match="other"):
                correct(dataset, "a", mask, Reading())
