"""Which labels were annotated in which case: read, checked, and held against the label maps."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case

KEY = "annotated_labels"
LABELS = {"background": 0, "liver": 1, "left kidney": 2, "spleen": 3}


def dataset(folder: Path, *, table: str | None = None, shown=(1,), **content) -> Path:
    """Three cases, a, b and c, in a pair of folders; all show the same labels."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels.flat[: len(shown)] = shown
    for name in "abc":
        for kind, array in (("images", np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)), ("labels", voxels)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{name}.nii.gz")
    if content:
        (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, **content}))
    if table is not None:
        (folder / f"{KEY}.csv").write_text(table)
    return folder


def annotated(folder: Path) -> dict:
    return {case.name: case.annotated for case in read_dataset(folder).cases}


def test_dataset_json_tells_the_labels_annotated_in_each_case(tmp_path):
    folder = dataset(tmp_path, **{KEY: {"a": ["spleen", "liver"], "b": "liver"}})
    assert annotated(folder) == {"a": ("liver", "spleen"), "b": ("liver",), "c": None}
    assert [str(f) for f in read_dataset(folder).findings if KEY[:9] in str(f)] == [
        "labels annotated, of 3 cases: liver in 3, left kidney in 1, spleen in 2; elsewhere they count neither in training nor in "
        "scores [NS-D030]"
    ]


@pytest.mark.parametrize(
    "table",
    [
        "case,labels\na,left kidney;liver\nb,liver\n",
        "case;labels\na;liver, left kidney\nb;liver\n",
        'Case,Labels\na,"left kidney,liver"\n\nb, liver ;\n',
        "case\tlabels\na\tliver,left kidney\nb\tliver\n",
        "case,labels\na,left kidney,liver\nb,liver\n",
    ],
)
def test_a_table_beside_it_tells_the_same_in_the_ways_spreadsheets_write(tmp_path, table):
    folder = dataset(tmp_path, name="D", table=table)
    assert annotated(folder) == {"a": ("liver", "left kidney"), "b": ("liver",), "c": None}


def test_a_table_may_separate_names_by_spaces(tmp_path):
    assert annotated(dataset(tmp_path, name="D", table="case,labels\na,liver spleen\n"))["a"] == ("liver", "spleen")


def test_a_table_does_without_dataset_json(tmp_path):
    folder = dataset(tmp_path, shown=(1, 2), table="case,labels\na,label 1;label 2\n")
    assert annotated(folder)["a"] is None
    (folder / f"{KEY}.csv").write_text("case,labels\na,label 1\n")
    assert annotated(folder)["a"] == ("label 1",)


def test_all_labels_are_the_same_as_no_list_and_the_background_needs_no_mention(tmp_path):
    folder = dataset(tmp_path, **{KEY: {"a": ["liver", "spleen", "left kidney"], "b": ["background", "liver"]}})
    assert annotated(folder) == {"a": None, "b": ("liver",), "c": None}


def test_a_region_stands_for_the_labels_it_covers(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "cyst": [3]}
    folder = dataset(tmp_path, labels=labels, regions_class_order=[1, 2, 3], **{KEY: {"a": ["whole"], "b": ["cyst"]}})
    assert annotated(folder) == {"a": ("label 1", "core"), "b": ("cyst",), "c": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"A": ["liver"]}, r"dataset\.json: lists case A, which the dataset does not have; expected a name like a; correct it"),
        ({"a": ["Livre"]}, r"lists label Livre for case a, which the dataset does not have; expected a name like liver"),
        ({"a": ["ignore"]}, "lists label ignore for case a"),
        ({"a": []}, "lists no label for case a"),
        ({"a": ["background"]}, "lists no label for case a"),
        ({"a": [1]}, r"\"annotated_labels\" has 'a': \[1\]; expected"),
        (["a"], '"annotated_labels" is no object'),
    ],
)
def test_names_that_are_not_there_are_refused_with_the_nearest(tmp_path, given, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset(dataset(tmp_path, **{KEY: given}))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("case,labels\na,liver\na,spleen\n", 'line 3, column "case": a is in line 2 already; keep one'),
        ("name,labels\na,liver\n", 'line 1: has the columns name, labels; one called "case" is expected'),
        ("", "is empty; a header and a line for each case are expected"),
        ("case,names\na,liver\n", "line 1: has the columns case, names; case and labels are expected"),
        ("case,labels\na\n", "lists no label for case a"),
        ("case,labels\nd,liver\n", r"annotated_labels\.csv: lists case d"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(tmp_path, table, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset(dataset(tmp_path, name="D", table=table))


def test_one_place_is_enough(tmp_path):
    with pytest.raises(DatasetError, match="remove the other"):
        read_dataset(dataset(tmp_path, table="case,labels\na,liver\n", **{KEY: {"a": ["liver"]}}))


def test_a_case_that_cannot_be_used_may_be_listed(tmp_path):
    folder = dataset(tmp_path, **{KEY: {"b": ["liver"]}})
    (folder / "images" / "b.nii.gz").unlink()
    assert annotated(folder) == {"a": None, "c": None}


def test_a_label_map_that_shows_more_than_is_listed_costs_its_case(tmp_path):
    found = read_dataset(dataset(tmp_path, shown=(1, 3, 3), **{KEY: {"a": ["liver", "spleen"], "b": ["liver", "left kidney"]}}))
    good, bad, _ = found.cases
    assert read_case(good, channels=1, labels=found.labels).findings == ()
    message = (
        r"b\.nii\.gz: label map shows spleen \(2 voxels\), which annotated_labels does not list for it; expected only liver, left"
    )
    with pytest.raises(ScanError, match=message):
        read_case(bad, channels=1, labels=found.labels)
