"""OME-Zarr: axes, units and scale are those that the store states."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import zarr

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files

VOLUME = np.random.default_rng(0).integers(0, 999, (2, 5, 16, 18), np.uint16)


def axis(name: str, unit: str = "micrometer") -> dict:
    return {"name": name, "type": {"c": "channel", "t": "time"}.get(name, "space")} | ({} if name in "ct" else {"unit": unit})


def made(
    path: Path, voxels: np.ndarray = VOLUME, axes: str = "czyx", *, version: str = "0.4", unit: str = "micrometer", scale=None
) -> Path:
    """A store of two scales of an image."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level, stored in enumerate((voxels, voxels[..., ::2, ::2])):
        array = group.create_array(str(level), shape=stored.shape, dtype=stored.dtype, chunks=(1,) * (stored.ndim - 2) + (8, 8))
        array[...] = stored
        steps = scale or [{"c": 1, "t": 1, "z": 1.5, "y": 0.4, "x": 0.2}[name] for name in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": steps}]})
    about = {"multiscales": [{"version": version, "axes": [axis(a, unit) for a in axes], "datasets": datasets}]}
    group.attrs.update({"ome": {"version": "0.5", **about}} if version == "0.5" else about)
    return path


def read(path: Path) -> Scan:
    scan, header = read_scan(path), read_header(path)
    assert (header.grid, header.channels) == (scan.grid, len(scan.image))
    return scan


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_image_is_read_with_its_axes_units_and_scale(tmp_path, version):
    scan = read(made(tmp_path / "a.ome.zarr", version=version))
    assert np.array_equal(scan.image, VOLUME)
    assert scan.grid.spacing == (0.0015, 0.0004, 0.0002)
    assert (scan.source.length_unit, scan.notes) == ("um", ())


@pytest.mark.parametrize(
    ("axes", "shape"), [("zyx", (5, 16, 18)), ("yx", (16, 18)), ("cyx", (2, 16, 18)), ("tczyx", (1, 2, 5, 16, 18))]
)
def test_axes_are_put_in_order(tmp_path, axes, shape):
    voxels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    scan = read(made(tmp_path / "a.zarr", voxels, axes))
    assert scan.image.shape == ((2 if "c" in axes else 1), (5 if "z" in axes else 1), 16, 18)
    assert np.array_equal(scan.image.ravel(), voxels.ravel())
    assert scan.source.is_2d == ("z" not in axes)


def test_without_a_unit_lengths_are_voxels_with_a_note(tmp_path):
    path = made(tmp_path / "a.zarr", VOLUME[0], "zyx", unit="")
    scan = read(path)
    assert (scan.grid.spacing, scan.source.has_spacing) == ((1, 1, 1), False)
    assert scan.notes == ("a.zarr: holds no voxel size in a unit of length; lengths are in voxels",)
    assert read_scan(path, spacing=(3, 2, 1)).grid.spacing == (3, 2, 1)


def test_time_points_plates_and_several_images_are_refused_by_name(tmp_path):
    with pytest.raises(ScanError, match="has 2 time points"):
        read_scan(made(tmp_path / "a.zarr", VOLUME, "tzyx"))
    zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2).attrs["plate"] = {}
    with pytest.raises(ScanError, match="is a plate of many images"):
        read_scan(tmp_path / "b.zarr")
    zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    made(tmp_path / "c.zarr" / "0")
    assert np.array_equal(read(tmp_path / "c.zarr").image, VOLUME)
    made(tmp_path / "c.zarr" / "1")
    with pytest.raises(ScanError, match=r"holds 2 images; expected one; name one, such as c.zarr/0"):
        read_scan(tmp_path / "c.zarr")
    assert np.array_equal(read(tmp_path / "c.zarr" / "1").image, VOLUME)


def test_label_images_in_the_store_are_named(tmp_path):
    group = zarr.open_group(made(tmp_path / "a.zarr"), mode="a", zarr_format=2)
    group.create_group("labels").attrs["labels"] = ["cells"]
    assert read(tmp_path / "a.zarr").notes == ("a.zarr: holds label images (cells), which are not read [NS-S025]",)


def test_a_plain_array_needs_axes_that_are_clear_or_named(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(5, 16, 18), dtype="f4", dimension_names=("z", "y", "x"))
    array[...] = VOLUME[0]
    assert np.array_equal(read(tmp_path / "a.zarr").image[0], VOLUME[0])
    zarr.create_array(tmp_path / "b.zarr", shape=(2, 5, 16, 18), dtype="f4", zarr_format=2)
    with pytest.raises(ScanError, match="whose axes are not stated"):
        read_scan(tmp_path / "b.zarr")


def test_stores_are_cases_of_a_folder_and_their_chunks_are_not(tmp_path):
    made(tmp_path / "scans" / "a.ome.zarr")
    made(tmp_path / "scans" / "patient" / "b.zarr", version="0.5")
    found = find_scans(tmp_path / "scans", channels=2).cases
    assert [case.name for case in found] == ["a", "patient_b"]
    scan = read_scan(found[0].images)
    label_map = LabelMap(labels=VOLUME[0].astype(int), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    assert file.name == "a.nii.gz"
    again = read_label_map(file)
    assert np.array_equal(again.labels, label_map.labels)
    assert again.grid.matches(scan.grid, 1e-4)
    before = content_hash(found[0].images)
    zarr.open_group(found[0].images[0], mode="a")["0"][0, 0, 0, 0] = 12345
    assert content_hash(found[0].images) != before


def test_damaged_and_empty_stores_are_refused(tmp_path):
    path = made(tmp_path / "a.zarr", VOLUME[0], "zyx")
    chunk = next(p for p in sorted((path / "0").rglob("*")) if p.is_file() and not p.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ScanError, match=r"has 20 bytes; expected \d+, as its header says"):
        read_scan(path)
    (path / ".zattrs").write_text("{")
    with pytest.raises(ScanError, match=r"cannot be read .*a complete OME-Zarr image"):
        read_header(path)
    zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
    with pytest.raises(ScanError, match="holds no image of OME-Zarr"):
        read_scan(tmp_path / "b.zarr")


def test_without_the_extra_the_command_that_installs_it_is_said(tmp_path, monkeypatch):
    path = made(tmp_path / "a.zarr")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScanError, match=r'zarr is not installed; expected it; run pip install "nnseg\[zarr\]"'):
        read_scan(path)
