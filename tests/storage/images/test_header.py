"""What headers say of a scan is what reading it gives, without reading it."""

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from dicom_series import TILT, write_series
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.storage.images.read import Header, read_header, read_scan


def _volume(path: Path, *, channels: int = 1) -> Path:
    voxels = np.arange(60 * channels, dtype=np.int16).reshape(3, 4, 5, channels)
    image = sitk.GetImageFromArray(voxels, isVector=True) if channels > 1 else sitk.GetImageFromArray(voxels[..., 0])
    image.SetSpacing((0.5, 0.7, 3))
    image.SetOrigin((10, -20, 30))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, str(path))
    return path


def _picture(path: Path, mode: str) -> Path:
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 12)).convert(mode).save(path)
    return path


def _glass(path: Path) -> Path:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(4, 4, 4), "RGBA").save(path)
    return path


def _tiff(path: Path) -> Path:
    tifffile.imwrite(path, np.zeros((3, 4, 5), np.uint16), photometric="minisblack")
    path.with_suffix(".json").write_text('{"spacing": [3, 2, 1]}')
    return path


def _rgb_nifti(path: Path) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), path)
    return path


def _four_dimensional(path: Path) -> Path:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.diag([-1.0, 2, 3, 1])), path)
    return path


MADE = {
    "plain.nii.gz": (_volume, 1),
    "plain.nii": (_volume, 1),
    "plain.mha": (_volume, 1),
    "plain.nrrd": (_volume, 1),
    "colours.mha": (lambda p: _volume(p, channels=3), 3),
    "time.nii.gz": (_four_dimensional, 5),
    "colours.nii.gz": (_rgb_nifti, 3),
    "grey.png": (lambda p: _picture(p, "L"), 1),
    "palette.png": (lambda p: _picture(p, "P"), 3),
    "opaque.png": (lambda p: _picture(p, "RGBA"), 3),
    "glass.png": (_glass, 4),
    "grey.jpg": (lambda p: _picture(p, "L"), 1),
    "deep.tif": (_tiff, 1),
}


@pytest.mark.parametrize("name", MADE)
def test_header_says_grid_and_channels_of_the_scan(tmp_path, name):
    make, channels = MADE[name]
    path = make(tmp_path / name)
    scan = read_scan(path)
    assert read_header(path) == Header(grid=scan.grid, channels=channels)
    assert len(scan.image) == channels


def test_header_of_a_tilted_series_and_of_two_channels(tmp_path):
    normal = np.cross(TILT[:3], TILT[3:])
    for name in ("t1", "t2"):
        write_series(tmp_path / name, step=normal * 2.5, orientation=TILT)
    folders = [tmp_path / "t1", tmp_path / "t2"]
    header, scan = read_header(folders), read_scan(folders)
    assert (header.grid, header.channels) == (scan.grid, 2)


def test_header_of_a_sheared_scan_is_of_the_grid_it_will_be_resampled_to(tmp_path):
    affine = np.eye(4)
    affine[0, 2] = 0.3
    nib.save(nib.Nifti1Image(np.zeros((6, 7, 8), np.float32), affine), tmp_path / "a.nii")
    assert read_header(tmp_path / "a.nii", repair=True).grid == read_scan(tmp_path / "a.nii", repair=True).grid
    with pytest.raises(ScanError, match="sheared axes"):
        read_header(tmp_path / "a.nii")


def test_no_voxel_is_read(tmp_path):
    whole = gzip.compress(nib.Nifti1Image(np.random.default_rng(0).random((64, 64, 64)), np.eye(4)).to_bytes())
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert read_header(tmp_path / "cut.nii.gz").grid.shape == (64, 64, 64)
    with pytest.raises(ScanError, match="ends early"):
        read_scan(tmp_path / "cut.nii.gz")


def test_a_header_of_two_gigavoxels_is_read_at_once(tmp_path):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.float32), np.eye(4)).header
    header.set_data_shape((2000, 1000, 1000))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
    start = time.perf_counter()
    assert read_header(tmp_path / "a.nii").grid.shape == (1000, 1000, 2000)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("content", [b"", b"no image at all", bytes(400)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.png", "a.tif", "a.xyz"])
def test_what_is_no_image_is_refused_as_when_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (read_header, read_scan):
        with pytest.raises(ScanError):
            read(tmp_path / name)


def test_channels_on_other_grids_are_refused_before_a_voxel_is_read(tmp_path):
    one, other = _volume(tmp_path / "a.mha"), _four_dimensional(tmp_path / "b.nii.gz")
    with pytest.raises(ScanError, match=r"b.nii.gz: has shape \(4, 3, 2\)"):
        read_header([one, other])
