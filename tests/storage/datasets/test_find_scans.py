"""Scans to predict: every layout that training reads, channels by the model's names, and what is not used."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series

from nnseg.core.dataset import Reading, describe_unused
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.storage.datasets.find_scans import FoundScans, find_scans
from nnseg.storage.images.read import read_header
from nnseg.storage.predictions import PredictionsWriter, ScanRecord

BRATS = ("t1c", "t1n", "t2f", "t2w")


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def found(root: Path, *names: str, **reading) -> FoundScans:
    return find_scans(root, channels=len(names), names=names, reading=Reading(**reading))


def scans(dataset: FoundScans) -> dict[str, list[str]]:
    return {case.name: [path.name for path in case.images] for case in dataset.cases}


def brats(root: Path, *suffixes: str) -> Path:
    names = [f"BraTS-GLI-0000{i}-000" for i in range(2)]
    return make(root, *(f"{name}/{name}-{suffix}.nii.gz" for name in names for suffix in suffixes))


@pytest.mark.parametrize("order", [BRATS, BRATS[::-1], ("T1C", "T1N", "T2F", "T2W")])
def test_channels_of_patient_folders_are_those_that_the_model_names(tmp_path, order):
    dataset = found(brats(tmp_path, *BRATS, "seg"), *order)
    assert scans(dataset) == {
        f"BraTS-GLI-0000{i}-000": [f"BraTS-GLI-0000{i}-000-{c.lower()}.nii.gz" for c in order] for i in range(2)
    }
    assert describe_unused(dataset.unused) == ("not used: a label map by its name or folder (2 files)",)
    assert len(dataset.inferred) == 1


def test_other_spellings_of_contrasts_are_understood_and_said(tmp_path):
    dataset = found(brats(tmp_path, *BRATS), "FLAIR", "T1w")
    assert scans(dataset)["BraTS-GLI-00001-000"] == ["BraTS-GLI-00001-000-t2f.nii.gz", "BraTS-GLI-00001-000-t1n.nii.gz"]
    assert dataset.inferred == ("channels FLAIR, T1w from names with t2f, t1n",)
    assert describe_unused(dataset.unused) == ("not used: none of the model's channels (4 files)",)


def test_channels_can_be_named_as_the_files_are(tmp_path):
    dataset = found(brats(tmp_path, *BRATS), "channel 0", "channel 1", channels=("t2f", "t1c"))
    assert scans(dataset)["BraTS-GLI-00000-000"] == ["BraTS-GLI-00000-000-t2f.nii.gz", "BraTS-GLI-00000-000-t1c.nii.gz"]
    with pytest.raises(NnsegError, match="--channels names 1 channel, but the model has 2"):
        found(tmp_path, "a", "b", channels=("t1c",))


def test_a_patient_that_lacks_a_channel_is_a_case_that_fails(tmp_path):
    brats(tmp_path, *BRATS)
    (tmp_path / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t2f.nii.gz").unlink()
    assert [len(case.images) for case in found(tmp_path, *BRATS).cases] == [4, 3]
    assert [case.missing for case in found(tmp_path, *BRATS).cases] == [(), (2,)]


def test_channels_that_no_scan_has_are_missed_only_if_scans_may_be_incomplete(tmp_path):
    brats(tmp_path, "t1n", "t2f")
    assert {len(case.images) for case in found(tmp_path, *BRATS).cases} == {1}  # each file by itself
    incomplete = find_scans(tmp_path, channels=4, names=BRATS, incomplete=True)
    assert [(len(case.images), case.missing) for case in incomplete.cases] == [(2, (0, 3))] * 2
    assert incomplete.inferred == ("channels t1c, t1n, t2f, t2w from names with t1n, t2f",)


def test_numbers_of_channels_tell_which_is_missing(tmp_path):
    make(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz")
    wanted = {"a": (), "b": (1,), "c": (0,)}
    assert {case.name: case.missing for case in find_scans(tmp_path, channels=2).cases} == wanted
    (alone,) = find_scans(tmp_path / "b_0000.nii.gz", channels=2).cases
    assert (alone.name, alone.missing) == ("b", (1,))


BIDS = [f"sub-0{i}/anat/sub-0{i}_{c}.nii.gz" for i in range(1, 9) for c in ("T1w", "T2w")]
DSEG = [f"derivatives/labels/sub-0{i}/anat/sub-0{i}_dseg.nii.gz" for i in range(1, 9)]


def test_bids_contrasts_are_channels_and_dseg_is_no_scan(tmp_path):
    make(tmp_path, *BIDS, *DSEG, "dataset_description.json")
    both = found(tmp_path, "T1w", "T2w")
    assert scans(both) == {f"sub-0{i}": [f"sub-0{i}_T1w.nii.gz", f"sub-0{i}_T2w.nii.gz"] for i in range(1, 9)}
    one = found(tmp_path, "T2w")
    assert scans(one) == {f"sub-0{i}": [f"sub-0{i}_T2w.nii.gz"] for i in range(1, 9)}
    assert describe_unused(one.unused) == (
        "not used: a label map (8 files)",
        "not used: none of the model's channels (8 files)",
        "not used: 1 file without image: .json (1)",
    )


def test_bids_contrasts_that_no_model_names_are_scans_of_their_own(tmp_path):
    make(tmp_path, *BIDS[:4], "dataset_description.json")
    assert list(scans(found(tmp_path, "CT"))) == ["sub-01_T1w", "sub-01_T2w", "sub-02_T1w", "sub-02_T2w"]


def test_bids_of_one_contrast_needs_no_name(tmp_path):
    make(tmp_path, *BIDS[::2], *DSEG)
    assert list(scans(found(tmp_path, "image"))) == [f"sub-0{i}" for i in range(1, 9)]


TREES = {
    "case_<0>/imaging.nii.gz case_<0>/segmentation.nii.gz": "case_<0>",
    "s000<0>/ct.nii.gz s000<0>/segmentations/aorta.nii.gz": "s000<0>",
    "p00<0>/p00<0>_frame01.nii.gz p00<0>/p00<0>_frame01_gt.nii.gz": "p00<0>_frame01",
    "images/x<0>.png masks/x<0>.png": "x<0>",
    "img/img<0>.nii label/label<0>.nii": "img<0>",
    "img<0>.nii label<0>.nii": "img<0>",
    "2<0>_training.tif 2<0>_manual1.gif": "2<0>_training",
    "p<0>.nrrd p<0>.seg.nrrd": "p<0>",
    "volume-<0>.nii segmentation-<0>.nii": "volume-<0>",
}


@pytest.mark.parametrize("names", TREES)
def test_label_maps_are_never_taken_for_scans_and_names_are_those_of_training(tmp_path, names):
    image, label = names.split()
    make(tmp_path, *(name.replace("<0>", str(i)) for name in (image, label) for i in range(3)))
    dataset = found(tmp_path, "CT")
    assert scans(dataset) == {TREES[names].replace("<0>", str(i)): [Path(image.replace("<0>", str(i))).name] for i in range(3)}
    assert describe_unused(dataset.unused) == ("not used: a label map by its name or folder (3 files)",)


def test_folders_without_label_maps_keep_the_names_that_they_had(tmp_path):
    make(tmp_path, "a/b/c.nii", "a/d.nii.gz", "e.png")
    assert list(scans(found(tmp_path, "image"))) == ["a_b_c", "a_d", "e"]


def test_a_folder_of_label_maps_alone_holds_no_scan(tmp_path):
    make(tmp_path, "x_seg.nii", "y_seg.nii")
    with pytest.raises(DatasetError, match=r"holds no scan but 2 images that are label maps .*--images"):
        found(tmp_path, "image")
    assert list(scans(found(tmp_path, "image", images="*"))) == ["x_seg", "y_seg"]


def test_scans_are_chosen_by_a_pattern(tmp_path):
    make(tmp_path, "p1/ct.nii", "p1/pet.nii", "p2/ct.nii")
    dataset = found(tmp_path, "image", images="*/ct.nii")
    assert list(scans(dataset)) == ["p1_ct", "p2_ct"]
    assert describe_unused(dataset.unused) == ("not used: left out by --images and --labels (pet.nii)",)
    with pytest.raises(DatasetError, match='no image fits --images "mr/"'):
        found(tmp_path, "image", images="mr/")


def test_previews_and_uncertainty_maps_are_not_predicted(tmp_path):
    dataset = found(make(tmp_path, "a.nii", "a_uncertainty.nii", "preview.png", "b_4d.nii"), "image")
    assert list(scans(dataset)) == ["a"]
    assert len(dataset.unused) == 3


def test_whatever_may_be_a_scan_and_cannot_be_read_is_named(tmp_path):
    dataset = found(make(tmp_path, "a.nii", "b.czi", "c.img", "d.nii.zst", "notes.docx"), "image")
    assert [one.path.name for one in dataset.unused if one.suspect] == ["b.czi", "c.img", "d.nii.zst"]


def test_every_file_of_a_mixed_folder_is_predicted_or_named(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "nifti.nii.gz")
    nib.save(nib.MGHImage(voxels, np.eye(4)), tmp_path / "freesurfer.mgz")
    nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "pair.hdr")
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "detached.nhdr"))
    write_series(tmp_path / "series")
    for i, path in enumerate(sorted((tmp_path / "series").iterdir())):
        path.with_name(f"{i}.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    write_series(tmp_path / "bare")
    for path in (tmp_path / "bare").iterdir():
        path.write_bytes(path.read_bytes()[132:])
    make(tmp_path, "slide.svs", "notes.txt", ".hidden")
    dataset = found(tmp_path, "image")
    assert [case.name for case in dataset.cases] == ["bare", "detached", "freesurfer", "nifti", "pair", "series"]
    assert [read_header(case.images).channels for case in dataset.cases] == [1] * 6
    assert describe_unused(dataset.unused) == (
        "not used: a whole-slide image; export the region as TIFF, for instance with QuPath (slide.svs)",
        "not used: 1 file without image: .txt (1)",
        "not used: 1 hidden file",
    )


def test_what_is_read_with_an_image_is_not_named_as_unused(tmp_path):
    make(tmp_path, "a.tif", "b.png", "c.png")
    for name in ("a.json", "b.json", "d.json"):
        (tmp_path / name).write_text('{"spacing": [1, 2, 2]}')
    assert describe_unused(found(tmp_path).unused) == ("not used: 1 file without image: .json (1)",)


def test_names_of_more_channels_than_the_model_has_are_told(tmp_path):
    make(tmp_path, *(f"{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)))
    (line,) = found(tmp_path, "MRI").inferred
    assert line == (
        "warning: the names are those of 2 scans with 2 channels each (a_0000 to _0001), but the model has 1 channel: every file "
        'is predicted as a scan of its own; --images "*_0000.nii.gz" takes the first of each'
    )
    chosen = found(tmp_path, "MRI", images="*_0000.nii.gz")
    assert scans(chosen) == {"a": ["a_0000.nii.gz"], "b": ["b_0000.nii.gz"]}
    assert not chosen.inferred


def test_numbered_slices_of_a_stack_are_no_channels(tmp_path):
    assert not found(make(tmp_path, *(f"{case}_{i:04d}.png" for case in "ab" for i in range(12))), "EM").inferred
    assert not found(make(tmp_path / "one", *(f"a_{i:04d}.png" for i in range(3))), "EM").inferred


def test_what_nnseg_predicted_is_no_scan(tmp_path):
    for name in ("scans/a.nii.gz", "scans/b.nii.gz", "earlier/a.nii.gz", "earlier/a_uncertainty.nii.gz", "earlier/b.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "earlier" / "a.npz").touch()
    with PredictionsWriter(tmp_path / "earlier", model={}) as record:
        record.put("a", ScanRecord(status="done", file="a.nii.gz", hash="h", more={"a_uncertainty.nii.gz": "h", "a.npz": "h"}))
        record.put("b", ScanRecord(status="done", file="b.nii.gz", hash="h"))
    found = find_scans(tmp_path, channels=1)
    assert [case.images for case in found.cases] == [(tmp_path / "scans" / "a.nii.gz",), (tmp_path / "scans" / "b.nii.gz",)]
    assert {(one.path.name, one.reason) for one in found.unused if one.path.parent.name == "earlier" and one.path.is_file()} == {
        ("a.nii.gz", "label map written by nnseg predict"),
        ("b.nii.gz", "label map written by nnseg predict"),
        ("a.npz", "probabilities written by nnseg predict"),
        ("a_uncertainty.nii.gz", "uncertainty map written by nnseg predict"),
    }


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\\b", "NUL", "a\nb", os.fsdecode(b"a\xff")])
def test_a_scan_whose_name_no_file_can_have_everywhere_costs_no_other(tmp_path, name):
    dataset = found(make(tmp_path, "good.nii.gz", f"{name}.nii.gz"), "MRI")
    assert scans(dataset) == {"good": ["good.nii.gz"]}
    ((path, reason, suspect),) = ((one.path.name, one.reason, one.suspect) for one in dataset.unused)
    assert (path, suspect) == (f"{name}.nii.gz", True)
    assert reason.startswith("its name ")
    (tmp_path / "good.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"its name .*rename it") as raised:
        found(tmp_path, "MRI")
    assert str(raised.value).isprintable()


def test_a_long_name_of_folders_is_shortened(tmp_path):
    long, end = "1.2.840" * 12, "x" * 60
    paths = [f"{long}{i}/{'1.3.6' * 14}/{end}.nii.gz" for i in range(2)]
    names = list(scans(found(make(tmp_path, *paths), "MRI")))
    assert len(set(names)) == 2
    assert all(len(name) == 200 and name.startswith("1.2.840") for name in names)
