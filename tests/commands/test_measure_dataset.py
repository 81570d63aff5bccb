"""A dataset is measured again when, and only when, it or the way of measuring has changed."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnseg.commands.measure as module
from nnseg.commands.measure import measure_dataset
from nnseg.core.dataset import AS_FOUND
from nnseg.core.errors import DatasetError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.options import Options
from nnseg.planning.unusable import check_losses
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.images import formats, nifti
from nnseg.storage.run import Run


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the datasets that were measured, in order."""
    names: list[str] = []
    measure = module.measure_folder

    def noting(folder, **how):
        names.append(folder.name)
        return measure(folder, **how)

    monkeypatch.setattr(module, "measure_folder", noting)
    return names


@pytest.fixture
def surveyed(ball_dataset: Path, tmp_path: Path, measured: list[str]):
    """A copy of the dataset, and a run that has its fingerprint."""
    folder, run = Path(shutil.copytree(ball_dataset, tmp_path / "balls")), Run(tmp_path / "run")
    run.path.mkdir()
    fingerprint = measure_dataset(run, folder, 1)
    return folder, run, fingerprint


def test_unchanged_dataset_is_not_measured_again(surveyed, measured: list[str]):
    folder, run, fingerprint = surveyed
    assert measure_dataset(run, folder, 1) == fingerprint
    assert len(measured) == 1


def test_another_division_with_other_cases_for_testing_is_measured_anew(surveyed, measured: list[str], tmp_path: Path):
    folder, run, fingerprint = surveyed
    names = [case.name for case in fingerprint.cases]
    (tmp_path / "split.csv").write_text("case,fold\n" + "".join(f"{n},{'test' if n == names[1] else 'train'}\n" for n in names))
    apart = measure_dataset(run, folder, 1, split=str(tmp_path / "split.csv"))
    assert [case.name for case in apart.cases if case.is_test] == [names[1]]
    assert measure_dataset(run, folder, 1, split=str(tmp_path / "split.csv")) == apart
    assert len(measured) == 2


def test_a_folder_is_looked_through_once(surveyed, monkeypatch):
    folder, run, fingerprint = surveyed
    found = find_layout(folder, AS_FOUND)
    monkeypatch.setattr("nnseg.storage.datasets.read.find_layout", None)
    monkeypatch.setattr("nnseg.planning.measure_folder.find_layout", None)
    monkeypatch.setattr(module, "find_layout", None)
    assert measure_dataset(run, folder, 1, found=found) == fingerprint
    run.fingerprint = fingerprint.model_copy(update={"dataset": "other"})
    run.dataset = replace(run.dataset, name="other")
    assert measure_dataset(run, folder, 1, found=found) == fingerprint  # measured anew


def test_changed_label_map_of_the_same_size_and_time_is_noticed(surveyed, measured: list[str]):
    folder, run, fingerprint = surveyed
    file = folder / "labelsTr" / "ball_00.nii.gz"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[4] ^= 1  # the time in the gzip header: the least that can change
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert measure_dataset(run, folder, 1).key != fingerprint.key
    assert len(measured) == 2


@pytest.mark.parametrize(
    "changed",
    [lambda content: {k: v for k, v in content.items() if k != "format"}, lambda content: content | {"spacings": []}, lambda _: []],
    ids=["without a format", "with other fields", "of another kind"],
)
def test_fingerprint_of_another_version_is_made_anew(surveyed, measured: list[str], changed):
    folder, run, fingerprint = surveyed
    (run.path / "fingerprint.json").write_text(json.dumps(changed(json.loads((run.path / "fingerprint.json").read_text()))))
    assert measure_dataset(run, folder, 1) == fingerprint
    assert len(measured) == 2
    assert Fingerprint.model_validate_json((run.path / "fingerprint.json").read_bytes()) == fingerprint


def test_label_maps_of_numbered_objects_are_known_again(tmp_path: Path, measured: list[str]):
    rng = np.random.default_rng(0)
    for name, count in (("a", 9), ("b", 12), ("c", 30)):
        pixels = np.zeros((32, 32), np.uint8)
        for i in range(count):
            pixels[4 * (i // 8) : 4 * (i // 8) + 2, 4 * (i % 8) : 4 * (i % 8) + 2] = i + 1
        for folder, content in (("images", rng.integers(0, 255, (32, 32)).astype(np.uint8)), ("labels", pixels)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(tmp_path / "data" / folder / f"{name}.png")
    run = Run(tmp_path / "run")
    run.path.mkdir()
    fingerprint = measure_dataset(run, tmp_path / "data", 1)
    assert [case.voxels["object"] for case in fingerprint.cases] == [36, 48, 120]
    assert Run(run.path).dataset.cases[0].labels == run.dataset.cases[0].labels
    assert measure_dataset(Run(run.path), tmp_path / "data", 1) == fingerprint
    assert len(measured) == 1


def test_a_case_that_a_failing_disk_made_unusable_is_measured_again(
    ball_dataset: Path, tmp_path: Path, measured: list[str], monkeypatch
):
    """Its files are the same afterwards, so that their hashes do not tell."""
    folder, run = Path(shutil.copytree(ball_dataset, tmp_path / "balls")), Run(tmp_path / "run")
    run.path.mkdir()
    read = nifti.read_nifti

    def fail_for_one(path: Path, options):
        if path.name == "ball_03.nii.gz":
            raise OSError(errno.EIO, "Input/output error")
        return read(path, options)

    with monkeypatch.context() as failing:
        failing.setitem(formats.FORMATS, ".nii.gz", replace(formats.FORMATS[".nii.gz"], read=fail_for_one))
        assert set(measure_dataset(run, folder, 1).lost_cases) == {"ball_03"}
        assert set(measure_dataset(run, folder, 1).lost_cases) == {"ball_03"}
        assert len(measured) == 1
    assert not measure_dataset(run, folder, 1).lost_cases
    assert len(measured) == 2


def test_images_not_annotated_yet_are_not_lost_unless_label_maps_without_image_suggest_other_names(tmp_path: Path):
    folder, run = tmp_path / "data", Run(tmp_path / "run")
    run.path.mkdir()
    for part, value in (("images", 200), ("labels", 1)):
        (folder / part).mkdir(parents=True)
        for i in range(6 if part == "images" else 3):
            pixels = np.zeros((16, 16), np.uint8)
            pixels[4:10, 4 : 10 + i] = value
            Image.fromarray(pixels).save(folder / part / f"c{i}.png")
    fingerprint = measure_dataset(run, folder, 1)
    assert set(fingerprint.lost_cases) == {"c3", "c4", "c5"}
    check_losses(fingerprint, Options())
    shutil.copy(folder / "labels" / "c0.png", folder / "labels" / "other.png")
    with pytest.raises(DatasetError, match="4 of 7 cases cannot be used"):
        check_losses(measure_dataset(run, folder, 1), Options())
