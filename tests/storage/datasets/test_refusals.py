"""Folders that are no dataset, as people give them: what the message says to do."""

import pytest
from test_layouts import found, grid, make

from nnseg.core.dataset import Reading
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.find_scans import find_scans

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


@pytest.mark.parametrize(("below", "paths", "message"), ADVICE.values(), ids=ADVICE)
def test_the_message_says_what_to_do_with_a_folder_that_is_no_dataset(tmp_path, below, paths, message):
    with pytest.raises(DatasetError, match=message):
        found(make(tmp_path, ".DS_Store", *paths) / below)


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
