"""Whatever a library raises for the bytes of a damaged file, readers raise a `ScanError` that names the file. Found by fuzzing."""

import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import write_label_map

VOXELS = np.arange(60, dtype=np.int16).reshape(3, 5, 4)


def _nifti_of_no_type(path: Path) -> None:
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[70:74] = struct.pack("<2h", 0, 0)  # datatype, bitpix
    path.write_bytes(data)


def _mha_without_columns(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 4 5 3", b"DimSize = 0 5 3"))


def _npy_with_an_open_bracket(path: Path) -> None:
    header = b"{'descr': '<i2', '\n" + VOXELS.tobytes()[20:]
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)


def _gif_with_a_cut_extension(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!\xf9\x01\x00")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.nii", _nifti_of_no_type),
        ("x.mha", _mha_without_columns),
        ("x.npy", _npy_with_an_open_bracket),
        ("x.gif", _gif_with_a_cut_extension),
    ],
)
@pytest.mark.parametrize("read", [read_scan, read_label_map])
def test_a_damaged_file_is_refused_by_name(name: str, write: Callable[[Path], None], read: Callable, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(ScanError, match=f"{name}: .*; expected .*; "):
        read(tmp_path / name)


def _answer(scan_file: Path, out: Path) -> np.ndarray:
    scan = read_scan(scan_file)
    labels = (scan.image[0] > 30).astype(np.uint8)
    write_label_map(LabelMap(labels=labels, grid=scan.grid), out, like=scan.source, labels=Labels(names=("b", "x"), values=(0, 1)))
    return labels


def test_metadata_that_is_no_text_is_left_out_of_the_label_map(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetMetaData("Commxxxx", "made by xxxx")
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    (tmp_path / "scan.mha").write_bytes((tmp_path / "scan.mha").read_bytes().replace(b"xxxx", b"\xff\xfe\xfd\xfc"))
    labels = _answer(tmp_path / "scan.mha", tmp_path / "labels.mha")
    written = sitk.ReadImage(str(tmp_path / "labels.mha"))
    assert np.array_equal(sitk.GetArrayFromImage(written), labels)
    assert not any(key.startswith("Comm") for key in written.GetMetaDataKeys())


def test_a_resolution_of_0_by_0_is_left_out_of_the_label_map(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", np.tile(VOXELS[0], (2, 3)), photometric="minisblack", resolution=(7, 7))
    with tifffile.TiffFile(tmp_path / "scan.tif") as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("XResolution", "YResolution")]
    data = bytearray((tmp_path / "scan.tif").read_bytes())
    for place in places:
        data[place : place + 8] = bytes(8)
    (tmp_path / "scan.tif").write_bytes(data)
    labels = _answer(tmp_path / "scan.tif", tmp_path / "labels.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "labels.tif"), labels[0])
