"""Arrays of NumPy: axes and voxel size are stated, or said to be taken; nothing is unpickled."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.storage.images import arrays
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files

VOXELS = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


def saved(path: Path, array: np.ndarray, **stated) -> Path:
    np.save(path, array)
    if stated:
        path.with_suffix(".json").write_text(json.dumps(stated))
    return path


def read(path: Path):
    scan, header = read_scan(path), read_header(path)
    assert (header.grid, header.channels) == (scan.grid, len(scan.image))
    return scan


def test_a_volume_is_slices_rows_and_columns_with_notes(tmp_path):
    scan = read(saved(tmp_path / "a.npy", VOXELS))
    assert np.array_equal(scan.image[0], VOXELS)
    assert not scan.source.has_spacing
    axes, size = scan.notes
    assert axes.startswith("a.npy: is an array: its axes were taken as slices, rows and columns that lead up")
    assert size == "a.npy: holds no voxel size, nor does a file CASE.json; lengths are in voxels [NS-S027]"
    assert read_scan(tmp_path / "a.npy", spacing=(3, 2, 1)).grid.spacing == (3, 2, 1)


def test_an_array_that_is_cut_after_its_header_was_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "check_size", lambda path, *_: os.truncate(path, 200))
    with pytest.raises(ScanError, match=r"a\.npy: cannot be read"):
        read_scan(saved(tmp_path / "a.npy", VOXELS))


@pytest.mark.parametrize(("axes", "order"), [("ZYX", (0, 1, 2)), ("XYZ", (2, 1, 0)), ("YXZ", (2, 0, 1))])
def test_axes_and_spacing_are_those_stated_and_the_label_map_has_them_too(tmp_path, axes, order):
    path = saved(tmp_path / "a.npy", VOXELS, axes=axes, spacing=[3, 2, 1])
    scan = read(path)
    assert np.array_equal(scan.image[0], VOXELS.transpose(order))
    assert (scan.grid.spacing, scan.notes) == ((3, 2, 1), ())
    label_map = LabelMap(labels=np.arange(336).reshape(scan.grid.shape), grid=scan.grid)
    files = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    assert [file.name for file in files] == ["a.npy", "a.json"]
    assert np.load(files[0]).shape == VOXELS.shape
    assert np.array_equal(np.load(files[0]).transpose(order), label_map.labels)
    again = read_label_map(files[0])
    assert np.array_equal(again.labels, label_map.labels)
    assert again.grid == scan.grid


def test_channels_are_where_the_axes_say(tmp_path):
    path = saved(tmp_path / "a.npy", VOXELS[..., None].repeat(2, -1), axes="ZYXC")
    scan = read(path)
    assert scan.image.shape == (2, 6, 7, 8)
    files = write_label_files(
        LabelMap(labels=np.ones((6, 7, 8), int), grid=scan.grid), tmp_path / "out", "a", like=scan.source, labels=None
    )
    assert np.load(files[0]).shape == (6, 7, 8)


def test_a_picture_is_flat_and_so_is_its_label_map(tmp_path):
    scan = read(saved(tmp_path / "a.npy", VOXELS[0]))
    assert (scan.image.shape, scan.source.is_2d, scan.notes) == ((1, 1, 7, 8), True, ())
    (file, _) = write_label_files(
        LabelMap(labels=np.ones((1, 7, 8), int), grid=scan.grid), tmp_path / "out", "a", like=scan.source, labels=None
    )
    assert np.load(file).shape == (7, 8)


@pytest.mark.parametrize("shape", [(2, 7, 8), (7, 8, 3), (2, 6, 7, 8)])
def test_axes_that_may_be_several_things_must_be_stated(tmp_path, shape):
    with pytest.raises(ScanError, match=r'whose axes are not stated; expected axes; write \{"axes": "ZYX"'):
        read_scan(saved(tmp_path / "a.npy", np.zeros(shape)))


@pytest.mark.parametrize("axes", ["ZY", "ZYXT", "ZZYX", "CZX"])
def test_axes_that_do_not_fit_are_refused(tmp_path, axes):
    with pytest.raises(ScanError, match="its axes are stated as"):
        read_scan(saved(tmp_path / "a.npy", VOXELS, axes=axes))


def test_objects_complex_numbers_and_truncated_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ScanError, match="holds Python objects"):
        read_scan(tmp_path / "a.npy")
    with pytest.raises(ScanError, match="holds complex numbers"):
        read_scan(saved(tmp_path / "b.npy", VOXELS.astype(np.complex64)))
    buffer = io.BytesIO()
    np.save(buffer, VOXELS)
    for content in (buffer.getvalue()[:500], buffer.getvalue()[:20], b"\x93NUMPY\x01\x00", b"garbage", bytes(400)):
        (tmp_path / "c.npy").write_bytes(content)
        for read_it in (read_scan, read_header):
            with pytest.raises(ScanError):
                read_it(tmp_path / "c.npy")
