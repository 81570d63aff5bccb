"""A format that is new to nnseg is an entry in a table: of single files in `FORMATS`, of folders in `FOLDER_FORMATS`."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, FileFormat, FolderFormat
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, placeholder
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files

LABELS = Labels(names=("background", "organ"), values=(0, 1))


def read_text_image(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    content = json.loads(path.read_text())
    shape, spacing = tuple(content["shape"]), tuple(content["spacing"])
    voxels = placeholder((1, *shape), float) if options.only_header else np.array(content["voxels"], float).reshape(1, *shape)
    return RawImage(voxels=voxels, grid=Grid(shape=shape, spacing=spacing))


def write_text_image(voxels: np.ndarray, path: Path, *, like: Source, labels: Labels | None = None) -> None:
    content = {"shape": voxels.shape, "spacing": like.grid.spacing, "voxels": voxels.ravel().tolist()}
    path.write_text(json.dumps(content))


def is_plane(path: Path) -> bool:
    return path.suffix == ".plane"


def planes_in(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.plane")))


def read_planes(source: Path | list[Path], options: ReadOptions = READ_DEFAULTS) -> RawImage:
    files = planes_in(source) if isinstance(source, Path) else tuple(sorted(source))
    stack = np.stack([np.loadtxt(file, ndmin=2) for file in files])
    return RawImage(voxels=stack[None], grid=Grid(shape=stack.shape, spacing=(5.0, 1.0, 1.0)), files=files)


def write_planes_text(labels_ZYX: np.ndarray, path: Path, *, like, labels: Labels) -> None:
    path.write_text(f"{labels.describe()}: {int(labels_ZYX.sum())}")


@pytest.fixture(autouse=True)
def new_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".txtimg", FileFormat(read=read_text_image, write=write_text_image))
    planes = FolderFormat(is_part=is_plane, files=planes_in, read=read_planes, write=write_planes_text, suffix=".planes")
    monkeypatch.setitem(FOLDER_FORMATS, "planes", planes)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 4, 5)).round(3)


def write_planes(folder: Path, voxels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, plane in enumerate(voxels):
        np.savetxt(folder / f"{i}.plane", plane)
    return folder


def test_a_file_of_a_new_format_is_read_predicted_and_written(tmp_path, voxels):
    write_text_image(voxels, tmp_path / "a.txtimg", like=Source(files=(), grid=Grid(shape=voxels.shape, spacing=(2.0, 1.0, 1.0))))
    (case,) = find_scans(tmp_path, channels=1).cases
    scan = read_scan(case.images)
    assert read_header(case.images).grid == scan.grid
    np.testing.assert_allclose(scan.image[0], voxels, rtol=1e-6)
    label_map = LabelMap(labels=(scan.image[0] > 0).astype(np.uint8), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path, "label", like=scan.source, labels=LABELS)
    assert file.name == "label.txtimg"
    assert np.array_equal(read_label_map(file).labels, label_map.labels)


def test_a_folder_of_a_new_format_is_a_scan_and_has_label_maps_beside(tmp_path, voxels):
    folder = write_planes(tmp_path / "scans" / "a", voxels)
    (case,) = find_scans(tmp_path / "scans", channels=1).cases
    assert (case.name, case.images) == ("a", (folder,))
    scan = read_scan(case.images)
    np.testing.assert_allclose(scan.image[0], voxels, rtol=1e-6)
    assert scan.source.files == planes_in(folder)
    assert read_scan(sorted(folder.iterdir(), reverse=True)).source == scan.source
    assert read_header(folder).grid == scan.grid
    label_map = LabelMap(labels=(scan.image[0] > 0).astype(np.uint8), grid=scan.grid)
    files = write_label_files(label_map, tmp_path, "label", like=scan.source, labels=LABELS)
    assert [file.name for file in files] == ["label.nii.gz", "label.planes"]
    assert files[1].read_text() == f"organ=1: {int((voxels > 0).sum())}"


def test_a_dataset_may_have_images_of_new_formats(tmp_path, voxels):
    for name in ("a", "b"):
        write_planes(tmp_path / "images" / name, voxels)
        (tmp_path / "labels").mkdir(exist_ok=True)
        grid = Grid(shape=voxels.shape, spacing=(5.0, 1.0, 1.0))
        write_text_image((voxels > 0).astype(int), tmp_path / "labels" / f"{name}.txtimg", like=Source(files=(), grid=grid))
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert read_case(dataset.cases[0], channels=1, labels=dataset.labels).findings == ()
    before = content_hash(dataset.cases[0].files)
    np.savetxt(tmp_path / "images" / "a" / "0.plane", voxels[0] + 1)
    assert content_hash(dataset.cases[0].files) != before
