"""Channels that a user names are the ones that are read, in every layout, or are refused."""

import json

import pytest
from test_layouts import found, grid, make

from nnseg.core.dataset import describe_unused
from nnseg.core.errors import DatasetError

SUBJECTS = ("01", "02", "03")
ANAT = grid("sub-<0>/anat/sub-<0>_<1>.nii.gz", SUBJECTS, ("T1w", "T2w"))


def read(folder, *channels):
    return found(folder, channels=channels)


def images_of(dataset):
    return [[path.name for path in case.images] for case in dataset.cases]


def test_scans_of_bids_beside_the_labelled_one_become_channels_if_they_are_named(tmp_path):
    make(tmp_path, *ANAT, *grid("derivatives/labels/sub-<0>/anat/sub-<0>_T2w_seg-manual.nii.gz", SUBJECTS))
    both = read(tmp_path, "T1w", "T2w")
    assert both.channels == ("T1w", "T2w")
    assert images_of(both) == [[f"sub-{s}_T1w.nii.gz", f"sub-{s}_T2w.nii.gz"] for s in SUBJECTS]
    assert images_of(read(tmp_path, "T1w")) == [[f"sub-{s}_T1w.nii.gz"] for s in SUBJECTS]
    assert images_of(read(tmp_path, "T2w")) == images_of(found(tmp_path)) == [[f"sub-{s}_T2w.nii.gz"] for s in SUBJECTS]
    with pytest.raises(DatasetError, match="--channels names FLAIR, but each label map has one image"):
        read(tmp_path, "FLAIR")


def test_label_maps_of_both_contrasts_are_no_case_of_two_channels(tmp_path):
    make(tmp_path, *ANAT, *grid("derivatives/labels/sub-<0>/anat/sub-<0>_<1>_seg-manual.nii.gz", SUBJECTS, ("T1w", "T2w")))
    with pytest.raises(DatasetError, match=r"T1w_seg-manual\.nii\.gz belong to scans that --channels makes one case"):
        read(tmp_path, "T1w", "T2w")
    one = read(tmp_path, "T1w")
    assert one.channels == ("T1w",)
    assert images_of(one) == [[f"sub-{s}_T1w.nii.gz"] for s in SUBJECTS]
    assert describe_unused(one.unused) == ("not used: left out by --channels (3 files)",)


def test_a_contrast_is_chosen_where_each_has_a_label_map(tmp_path):
    make(tmp_path, *grid("<0>/p<1>_<2>.nii.gz", ("images", "labels"), SUBJECTS, ("T1", "T2")))
    one = read(tmp_path, "t1")
    assert one.channels == ("T1",)
    assert images_of(one) == [[f"p{s}_T1.nii.gz"] for s in SUBJECTS]
    with pytest.raises(DatasetError, match="expected one channel; correct --channels"):
        read(tmp_path, "T1", "T2")


def test_channels_that_dataset_json_names_are_chosen_by_its_names(tmp_path):
    make(tmp_path, *grid("imagesTr/x<0>_000<1>.nii.gz", (1, 2), (0, 1)), *grid("labelsTr/x<0>.nii.gz", (1, 2)))
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    swapped = read(tmp_path, "t2", "T1w")
    assert swapped.description.channels == ("T2", "T1")
    assert images_of(swapped) == [[f"x{i}_0001.nii.gz", f"x{i}_0000.nii.gz"] for i in (1, 2)]
    assert images_of(read(tmp_path, "0001")) == [[f"x{i}_0001.nii.gz"] for i in (1, 2)]
    pairs = [{"image": [f"imagesTr/x{i}_000{c}.nii.gz" for c in (0, 1)], "label": f"labelsTr/x{i}.nii.gz"} for i in (1, 2)]
    (tmp_path / "dataset.json").write_text(json.dumps(about | {"training": pairs}))
    assert images_of(read(tmp_path, "T2")) == [[f"x{i}_0001.nii.gz"] for i in (1, 2)]
    with pytest.raises(DatasetError, match="there is no channel FLAIR; expected some of T1, T2"):
        read(tmp_path, "FLAIR")
