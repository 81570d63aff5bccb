"""Lists of cases as MONAI writes them: folds, validation and test parts are kept, not dropped."""

import json
from pathlib import Path

import pytest

from nnseg.core.dataset import Reading, describe_unused
from nnseg.core.label_files import LabelFiles
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.layouts import find_layout

LABELS = {"0": "background", "1": "liver", "2": "spleen"}


def write(root: Path, **content) -> FoundDataset:
    for entries in content.values():
        for entry in entries if isinstance(entries, list) else ():
            files = [entry] if isinstance(entry, str) else [entry["image"], entry.get("label", [])]
            for name in (name for given in files for name in ([given] if isinstance(given, str) else given)):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS, "modality": {"0": "CT"}, **content}))
    return find_layout(root, Reading())


def entry(number: int, **more) -> dict:
    return {"image": f"scans/c{number}.nii", "label": f"maps/c{number}.nii", **more}


def test_folds_and_parts_of_a_datalist_are_kept(tmp_path):
    found = write(
        tmp_path,
        training=[entry(0, fold=0), entry(1, fold=1), entry(2)],
        validation=[entry(3)],
        testing=["test/c4.nii", {"image": "test/c5.nii"}, entry(6)],
    )
    assert {case.name: case.split for case in found.cases} == {
        "c0": "fold 0",
        "c1": "fold 1",
        "c2": "",
        "c3": "validation",
        "c6": "test",
    }
    assert found.findings == ()
    assert found.inferred == ("the list puts 1 case in fold 0, 1 case in fold 1, 1 case in test, 1 case in validation",)
    assert describe_unused(found.unused) == ("not used: listed for testing, without a label map (2 files)",)


def test_images_and_label_maps_may_be_lists(tmp_path):
    several = {"image": ["a/t1.nii", "a/t2.nii"], "label": ["a/liver.nii", "a/spleen.nii"]}
    found = write(tmp_path, training=[several, {"image": ["b/t1.nii", "b/t2.nii"], "label": ["b/map.nii"]}])
    one, other = sorted(found.cases, key=lambda case: case.images)
    assert [path.name for path in one.images] == ["t1.nii", "t2.nii"]
    assert one.labels == LabelFiles(
        paths=(tmp_path / "a/liver.nii", tmp_path / "a/spleen.nii"), coding="masks", values={"0": 1, "1": 2}
    )
    assert other.labels == tmp_path / "b/map.nii"


def test_a_list_of_masks_needs_one_for_each_label(tmp_path):
    found = write(tmp_path, training=[entry(0), {"image": "a.nii", "label": ["1.nii", "2.nii", "3.nii"]}])
    assert [case.name for case in found.cases] == ["c0"]
    assert "lists 3 label maps; expected one, or one for each of the 2 labels" in found.findings[0].message


@pytest.mark.parametrize("key", ["test", "testing"])
def test_files_in_folders_that_are_not_listed_are_named(tmp_path, key):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.nii").touch()
    found = write(tmp_path, training=[entry(0)], **{key: ["scans/c1.nii"]})
    assert describe_unused(found.unused) == (
        "not used: listed for testing, without a label map (c1.nii)",
        "not used: not listed in dataset.json (x.nii)",
    )
    assert found.findings == ()
