"""Numbers of objects in a folder of their own, beside label maps of several labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnseg.core.dataset import Dataset
from nnseg.core.errors import ScanError
from nnseg.core.image import Integers
from nnseg.core.label_files import all_label_files
from nnseg.evaluation.pairs import FilePair, read_numbered_pair
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.content import case_key
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.images.read import read_objects, read_scan

NAMES = {"background": 0, "round": 1, "long": 2, "stroma": 3}
CELLS = {(2, 4): (1, 300), (4, 6): (1, 7), (8, 12): (2, 9), (13, 16): (3, 0)}
"""By columns the label and the number of the object; the first two touch."""


def save(path: Path, pixels: Integers) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def cells(folder: Path, numbers: str = "objects", instances: tuple[str, ...] = ("round", "long"), count: int = 3) -> Path:
    """Three images with the cells, of which so many have numbers."""
    labels, objects = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint16)
    for (first, last), (value, number) in CELLS.items():
        labels[2:8, first:last], objects[2:8, first:last] = value, number
    for image in range(3):
        save(folder / f"images/{image}_cells.png", np.arange(192, dtype=np.uint8).reshape(12, 16))
        save(folder / f"labels/{image}_cells.png", labels)
        if image < count:
            save(folder / f"{numbers}/{image}_cells.png", objects)
    (folder / "dataset.json").write_text(json.dumps({"labels": NAMES, "instances": list(instances)}))
    return folder


def objects_of(dataset: Dataset) -> Integers | None:
    case = dataset.cases[0]
    assert case.labels is not None
    return read_objects(case.labels, read_scan(case.images))


@pytest.mark.parametrize("numbers", ["objects", "instances", "inst_maps"])
def test_labels_of_several_kinds_have_numbered_objects(tmp_path, numbers):
    dataset = read_dataset(cells(tmp_path, numbers))
    assert dataset.numbered == ("round", "long")
    assert dataset.unused == ()
    assert any(f"3 files such as {numbers}/0_cells.png" in line for line in dataset.inferred)
    assert set(np.unique(objects_of(dataset))) == {0, 7, 9, 300}


def test_a_plan_gets_borders_of_these_labels_alone(tmp_path):
    dataset, fingerprint = measure_folder(cells(tmp_path))
    assert fingerprint.objects == ("round", "long")
    assert dataset.labels.with_borders(fingerprint.objects).borders == {"round border": "round", "long border": "long"}


def test_scores_compare_the_numbered_objects(tmp_path):
    reference = read_dataset(cells(tmp_path)).cases[0].labels
    assert reference is not None
    labels = read_dataset(tmp_path).labels
    pair = read_numbered_pair(FilePair(name="0", prediction=tmp_path / "labels/0_cells.png", reference=reference), labels)
    assert pair.objects[0] is None
    assert pair.objects[1] is not None
    assert np.unique(pair.objects[1][pair.reference.labels == 1]).tolist() == [7, 300]


def test_numbers_without_declared_labels_are_named_as_not_used(tmp_path):
    dataset = read_dataset(cells(tmp_path, instances=()))
    assert dataset.numbered == ()
    assert objects_of(dataset) is None
    assert {one.reason for one in dataset.unused} == {'numbers of objects, if a dataset.json names their labels under "instances"'}


def test_where_one_image_has_no_numbers_its_objects_are_components(tmp_path):
    dataset = read_dataset(cells(tmp_path, count=2))
    assert dataset.numbered == ()
    assert dataset.lesions == ("round", "long")


def test_other_numbers_make_another_case(tmp_path):
    case = read_dataset(cells(tmp_path)).cases[0]
    before = case_key(case)
    assert tmp_path / "objects/0_cells.png" in all_label_files(case.labels)
    save(tmp_path / "objects/0_cells.png", np.ones((12, 16), np.uint16))
    assert case_key(case) != before


def test_numbers_on_another_grid_are_refused(tmp_path):
    dataset = read_dataset(cells(tmp_path))
    save(tmp_path / "objects/0_cells.png", np.ones((12, 15), np.uint16))
    with pytest.raises(ScanError, match="numbers of objects on the same grid"):
        objects_of(dataset)
    _, fingerprint = measure_folder(tmp_path)
    assert [case.name for case in fingerprint.cases] == ["1_cells", "2_cells"]
