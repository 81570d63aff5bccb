"""Folders that are no dataset, as people give them: what the message says to do."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_layouts import found, grid, make

from nnseg.core.dataset import Reading
from nnseg.core.errors import DatasetError
from nnseg.planning.dataset_summary import summarize_dataset
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.read import read_dataset

NUMBERS = ("1", "2", "3")
PAIRS = grid("<0>/p<1>.nii.gz", ("images", "labels"), NUMBERS)
ADVICE = {
    "there is nothing in it": ("", (), "found no folders and files: no file at all; .*; check the path"),
    "its images are missing": ("", ("labels/p1.nii.gz", "images/readme.txt"), "images: holds no image; .*; convert the files"),
    "it is not unpacked": ("", ("all.zip",), "each is an archive; unpack it"),
    "its arrays are packed": ("", grid("c<0>.npz", NUMBERS), "save the image alone as CASE.npy"),
    "it is one folder too deep": ("images", PAIRS, r"labels/ lies beside it: give the folder above, .*"),
    "its words are of another language": (
        "", grid("<0>/<1>.nii", ("Bilder", "Masken"), NUMBERS), 'say which are which: --images "Bilder" --labels "Masken", or',
    ),
}  # fmt: skip


def write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag((-1.0, -1.0, 1.0, 1.0))), path)


@pytest.mark.parametrize(("below", "paths", "message"), ADVICE.values(), ids=ADVICE)
def test_the_message_says_what_to_do_with_a_folder_that_is_no_dataset(tmp_path, below, paths, message):
    with pytest.raises(DatasetError, match=message):
        found(make(tmp_path, ".DS_Store", *paths) / below)


@pytest.mark.parametrize(("images", "labels"), [("scans", "outlines"), ("volumes", "abdomen"), ("xyz", "abc"), ("abc", "xyz")])
def test_the_folder_of_images_is_proposed_first_by_its_name_or_its_values(tmp_path, images, labels):
    folder = make(tmp_path, "d/.DS_Store") / "d"
    random = np.random.default_rng(0)
    for number in NUMBERS:
        write(folder / images / f"{number}.nii.gz", random.integers(0, 900, (4, 5, 6), np.int16))
        write(folder / labels / f"{number}.nii.gz", random.integers(0, 3, (4, 5, 6), np.uint8))
    with pytest.raises(DatasetError, match=f'say which are which: --images "{images}" --labels "{labels}", or the other way round'):
        found(folder)


def test_a_packed_dataset_is_to_be_unpacked(tmp_path):
    with pytest.raises(DatasetError, match="is a file; expected a folder with a dataset; unpack it"):
        found(make(tmp_path, "data.zip") / "data.zip")


def test_a_layout_that_is_asked_for_in_vain_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"is not of the layout bids; .* expected folders sub-01/.*; leave --layout out"):
        found(make(tmp_path, *PAIRS), layout="bids")


def test_a_missing_channel_can_be_done_without(tmp_path):
    make(tmp_path, *grid("p<0>/p<0>_<1>.nii", NUMBERS, ("flair", "t1", "t2", "seg")))
    (tmp_path / "p2" / "p2_t1.nii").unlink()
    (finding,) = found(tmp_path).findings
    assert finding.message.endswith("channel file of t1 is missing; expected 3 files a case; restore it or remove the case, "
                                    "or train without it: --channels flair,t2")  # fmt: skip
    assert finding.file == str(tmp_path / "p2")
    assert len(found(tmp_path, channels=("flair", "t2")).cases) == 3


def test_scans_to_predict_have_the_names_of_training_cases(tmp_path):
    make(tmp_path, *grid("<0>/pre/<1>.nii.gz", NUMBERS, ("FLAIR", "T1")), *grid("<0>/wmh.nii.gz", NUMBERS))
    trained = [case.name for case in found(tmp_path, labels="*/wmh.nii.gz").cases]
    assert trained == ["1", "2", "3"]
    scans = find_scans(tmp_path, channels=2, names=("FLAIR", "T1"), reading=Reading(images="*/pre/*"))
    assert [case.name for case in scans.cases] == trained


def test_the_layout_of_several_parts_names_none_of_them(tmp_path):
    make(tmp_path, *grid("<0>/<1>/p<0><2>.nii.gz", ("test", "train"), ("images", "masks"), NUMBERS))
    assert found(tmp_path).layout == "pair of folders layout (*/images/ and */masks/)"


def test_masks_that_a_list_does_not_name_can_be_named(tmp_path):
    make(tmp_path, *grid("p1_<0>.nii.gz", ("t1", "liver", "tumour")))
    pairs = [{"image": "p1_t1.nii.gz", "label": ["p1_liver.nii.gz", "p1_tumour.nii.gz"]}]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": pairs}))
    with pytest.raises(DatasetError, match=r'such as "labels": {"background": 0, "p1_liver": 1, "p1_tumour": 2}'):
        found(tmp_path)


def test_swapped_images_and_label_maps_are_suspected(tmp_path):
    for number in NUMBERS:
        write(tmp_path / "labels" / f"c{number}.nii.gz", np.random.default_rng(0).normal(100, 20, (9, 8, 7)).astype(np.float32))
        write(tmp_path / "images" / f"c{number}.nii.gz", np.pad(np.ones((3, 2, 1), np.uint8), 3))
    with pytest.raises(DatasetError, match="these are the label maps, not scans: --images and --labels say which"):
        read_dataset(tmp_path)
    found_so = read_dataset(tmp_path, reading=Reading(images="labels", labels="images"))
    assert found_so.labels.names == ("background", "foreground")


def test_check_says_that_files_state_another_spacing_than_the_given_one(tmp_path):
    for number in NUMBERS:
        write(tmp_path / "images" / f"c{number}.nii.gz", np.random.default_rng(0).normal(100, 20, (9, 8, 7)).astype(np.float32))
        write(tmp_path / "labels" / f"c{number}.nii.gz", np.pad(np.ones((3, 2, 1), np.uint8), 3))
    told = {spacing: summarize_dataset(*measure_folder(tmp_path, reading=Reading(spacing=spacing)))
            for spacing in ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0))}  # fmt: skip
    said = [[line for line in lines if "--spacing" in line] for lines in told.values()]
    assert said == [["voxel     all 1 x 1 x 1 mm as the files state; --spacing is for files that state none"], []]
