"""Masks of fields of view: outside, nothing is learned or scored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnseg.core.dataset import Dataset
from nnseg.core.errors import ScanError
from nnseg.core.image import Integers
from nnseg.evaluation.pairs import FilePair, read_pair
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.content import case_key
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.images.read import read_label_map


def save(path: Path, pixels: Integers) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def fundus(folder: Path, views: str = "fov_masks/{}.gif", cases: int = 3) -> Path:
    """Images of 12 x 10 with a vessel along row 5; the field of view is columns 2 to 7."""
    vessel, view = np.zeros((12, 10)), np.zeros((12, 10))
    vessel[5] = 255
    view[:, 2:8] = 255
    for number in range(cases):
        save(folder / f"images/{number}_eye.png", np.arange(120).reshape(12, 10))
        save(folder / f"labels/{number}_eye.gif", vessel)
        if views:
            save(folder / views.format(f"{number}_eye"), view)
    return folder


def labels_of(dataset: Dataset) -> Integers:
    """The label map of the first case as training reads it."""
    return read_case(dataset.cases[0], channels=1, labels=dataset.labels).label_map.labels[0]


@pytest.mark.parametrize("views", ["fov_masks/{}.gif", "fov/{}.png", "images/{}_fov.png", "fov/{}_fov_mask.png"])
def test_nothing_outside_the_field_of_view_is_learned(tmp_path, views):
    dataset = read_dataset(fundus(tmp_path, views))
    assert dataset.labels.ignore == dataset.labels.values[1] + 1
    labels = labels_of(dataset)
    assert (labels[:, :2] == dataset.labels.ignore).all()
    assert (labels[:, 8:] == dataset.labels.ignore).all()
    assert (labels[5, 2:8] == dataset.labels.values[1]).all()
    assert not np.delete(labels[:, 2:8], 5, axis=0).any()
    assert dataset.unused == ()
    assert {one.level for one in dataset.findings} == {"note"}
    assert any("3 fields of view" in line for line in dataset.inferred)


def test_voxels_outside_are_not_counted(tmp_path):
    dataset, fingerprint = measure_folder(fundus(tmp_path))
    assert dataset.labels.ignore is not None
    assert [dict(case.voxels) for case in fingerprint.cases] == [{"background": 66, "foreground": 6}] * 3


def test_voxels_outside_are_not_scored(tmp_path):
    dataset = read_dataset(fundus(tmp_path / "data"))
    case = dataset.cases[0]
    wrong_outside = np.zeros((12, 10))
    wrong_outside[5], wrong_outside[:, 9] = dataset.labels.values[1], dataset.labels.values[1]
    prediction = save(tmp_path / "0_eye.png", wrong_outside)
    pair = FilePair(name=case.name, prediction=prediction, reference=case.labels)
    predicted, reference = read_pair(pair, dataset.labels)
    seen = reference.labels != dataset.labels.ignore
    assert seen.sum() == 72
    assert np.array_equal(predicted.labels[seen], reference.labels[seen])


def test_a_declared_ignore_value_stands_for_outside(tmp_path):
    fundus(tmp_path)
    text = '{"channel_names": {"0": "eye"}, "labels": {"background": 0, "vessel": 255, "ignore": 7}, "file_ending": ".png"}'
    (tmp_path / "dataset.json").write_text(text)
    dataset = read_dataset(tmp_path)
    assert dataset.labels.ignore == 7
    assert set(np.unique(labels_of(dataset))) == {0, 7, 255}


def test_cases_without_a_field_of_view_are_annotated_whole(tmp_path):
    fundus(tmp_path)
    (tmp_path / "fov_masks/1_eye.gif").unlink()
    save(tmp_path / "fov_masks/other.gif", np.ones((12, 10)))
    dataset = read_dataset(tmp_path)
    assert [case.view is None for case in dataset.cases] == [False, True, False]
    assert [(one.path.name, one.reason) for one in dataset.unused] == [("other.gif", "a field of view")]


def test_a_field_of_view_of_another_size_is_refused(tmp_path):
    dataset = read_dataset(fundus(tmp_path))
    save(tmp_path / "fov_masks/0_eye.gif", np.ones((10, 12)))
    with pytest.raises(ScanError, match=r"0_eye.gif: has shape \(1, 10, 12\).*label map 0_eye.gif has \(1, 12, 10\)"):
        labels_of(dataset)


def test_numbered_objects_are_learned_everywhere(tmp_path):
    fundus(tmp_path)
    for number in range(3):
        objects = np.zeros((12, 10))
        objects[::3, ::2] = np.arange(1, 21).reshape(4, 5)
        (tmp_path / f"labels/{number}_eye.gif").unlink()
        save(tmp_path / f"labels/{number}_eye.png", objects)
    text = '{"channel_names": {"0": "eye"}, "labels": {"background": 0, "spot": 1}, "instances": ["spot"], "file_ending": ".png"}'
    (tmp_path / "dataset.json").write_text(text)
    dataset = read_dataset(tmp_path)
    assert dataset.numbered
    assert read_label_map(dataset.cases[0].labels).labels.sum() == 20


def test_another_field_of_view_is_another_case(tmp_path):
    before = read_dataset(fundus(tmp_path)).cases
    keys = [case_key(case) for case in before]
    save(tmp_path / "fov_masks/0_eye.gif", np.full((12, 10), 255))
    assert [case_key(case) != key for case, key in zip(read_dataset(tmp_path).cases, keys, strict=True)] == [True, False, False]


def test_drive_is_learned_within_its_fields_of_view(shared_data):
    dataset = read_dataset(shared_data / "DRIVE")
    assert all(case.view is not None for case in dataset.cases)
    labels = read_case(dataset.cases[0], channels=3, labels=dataset.labels).label_map.labels
    assert 0.6 < (labels != dataset.labels.ignore).mean() < 0.75
