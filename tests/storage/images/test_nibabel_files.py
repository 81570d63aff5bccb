"""MGH, Analyze, NIfTI in two parts, MINC and AFNI: what nibabel reads, on the grid that nibabel gives it."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.images.nifti_header import decompressed
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files, write_map

OBLIQUE = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 2.5, 9], [0, 0, 0, 1]]) @ np.diag([1, -1, 1, 1])
VOXELS = np.random.default_rng(0).integers(-99, 999, (3, 4, 5)).astype(np.int16)
NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"


def check_as_nibabel(path: Path, image) -> None:
    """The scan of a file has the voxels and positions of a nibabel image, and its header says so."""
    scan = read_scan(path)
    voxels = np.asanyarray(image.dataobj).reshape(*image.shape[:3], -1)
    stored = scan.source.grid.canonical().inverse().apply(scan.image)
    np.testing.assert_allclose(stored, voxels.T, rtol=1e-6)
    for index in [(0, 0, 0), (2, 0, 0), (0, 3, 0), (1, 2, 4)]:
        lps = np.diag([-1, -1, 1]) @ (image.affine @ [*index, 1])[:3]
        assert scan.source.grid.world(index[::-1]) == pytest.approx(lps, abs=1e-4)
    header = read_header(path)
    assert (header.grid, header.channels) == (scan.grid, len(scan.image))


def write_labels(path: Path, folder: Path) -> tuple[Path, LabelMap]:
    """The file of a label map that was made on a scan's grid."""
    scan = read_scan(path)
    label_map = LabelMap(labels=np.random.default_rng(1).integers(0, 300, scan.grid.shape), grid=scan.grid)
    (file,) = write_label_files(label_map, folder, "labels", like=scan.source, labels=None)
    return file, label_map


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_mgh_is_read_as_nibabel_reads_it_and_its_label_maps_have_its_header(tmp_path, suffix):
    image = nib.MGHImage(VOXELS, OBLIQUE)
    image.header["tr"], image.header["flip_angle"] = 2300, 0.1
    nib.save(image, tmp_path / f"a{suffix}")
    check_as_nibabel(tmp_path / f"a{suffix}", image)
    file, label_map = write_labels(tmp_path / f"a{suffix}", tmp_path / "out")
    assert file.name == f"labels{suffix}"
    written, wanted = (nib.MGHImage.from_bytes(decompressed(path)) for path in (file, tmp_path / f"a{suffix}"))
    assert np.array_equal(written.affine, wanted.affine)
    assert written.header["tr"] == 2300
    again = read_label_map(file)
    assert np.array_equal(again.labels, label_map.labels)
    assert again.grid.matches(label_map.grid, 1e-4)


def test_frames_of_an_mgh_are_channels(tmp_path):
    image = nib.MGHImage(np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32), OBLIQUE)
    nib.save(image, tmp_path / "a.mgz")
    check_as_nibabel(tmp_path / "a.mgz", image)


def test_mgh_holds_integers_of_32_bits_and_floats(tmp_path):
    nib.save(nib.MGHImage(VOXELS, OBLIQUE), tmp_path / "a.mgz")
    scan = read_scan(tmp_path / "a.mgz")
    values = np.random.default_rng(0).random(scan.grid.shape, np.float32)
    write_map(values, tmp_path / "map.mgz", like=scan.source)
    assert np.array_equal(read_scan(tmp_path / "map.mgz").image[0], values)
    for top in (255, 11101, 2**31 - 1):
        label_map = LabelMap(labels=np.full(scan.grid.shape, top), grid=scan.grid)
        (file,) = write_label_files(label_map, tmp_path, f"top{top}", like=scan.source, labels=None)
        assert read_label_map(file).labels.max() == top
    with pytest.raises(ScanError, match="cannot hold values 2147483648 to 2147483648"):
        label_map = LabelMap(labels=np.full(scan.grid.shape, 2**31), grid=scan.grid)
        write_label_files(label_map, tmp_path, "b", like=scan.source, labels=None)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_nifti_in_two_parts_is_read_and_its_label_map_has_its_header(tmp_path, kind):
    image = kind(VOXELS, OBLIQUE)
    image.header["descrip"] = b"a scanner's words"
    nib.save(image, tmp_path / "a.hdr")
    check_as_nibabel(tmp_path / "a.hdr", image)
    file, label_map = write_labels(tmp_path / "a.hdr", tmp_path / "out")
    assert file.name == "labels.nii.gz"
    assert nib.load(file).header["descrip"] == b"a scanner's words"
    assert np.array_equal(nib.load(file).affine, nib.load(tmp_path / "a.hdr").affine)
    assert np.array_equal(read_label_map(file).labels, label_map.labels)


def test_nifti_in_two_parts_by_itk_is_read_as_itk_reads_it(tmp_path):
    itk = sitk.GetImageFromArray(VOXELS)
    itk.SetSpacing((0.5, 0.7, 3))
    sitk.WriteImage(itk, str(tmp_path / "a.hdr"))
    scan = read_scan(tmp_path / "a.hdr")
    assert scan.source.grid.spacing == pytest.approx((3, 0.7, 0.5))
    assert np.array_equal(scan.image[0], VOXELS)
    assert scan.notes == ()


def test_voxels_of_a_pair_may_be_compressed(tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, OBLIQUE), tmp_path / "a.hdr")
    whole = read_scan(tmp_path / "a.hdr")
    (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
    (tmp_path / "a.img").unlink()
    assert np.array_equal(read_scan(tmp_path / "a.hdr").image, whole.image)


def test_analyze_is_read_as_spm_does_with_a_note(tmp_path):
    image = nib.AnalyzeImage(VOXELS, None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "a.hdr")
    (tmp_path / "a.mat").unlink(missing_ok=True)
    check_as_nibabel(tmp_path / "a.hdr", nib.load(tmp_path / "a.hdr"))
    (note,) = read_scan(tmp_path / "a.hdr").notes
    assert note.startswith("a.hdr: is Analyze 7.5, which does not say which side is left")
    file, label_map = write_labels(tmp_path / "a.hdr", tmp_path / "out")
    assert np.array_equal(nib.load(file).affine, nib.load(tmp_path / "a.hdr").affine)
    assert np.array_equal(read_label_map(file).labels, label_map.labels)


def test_analyze_without_voxel_sizes_or_with_a_short_header_is_refused(tmp_path):
    image = nib.AnalyzeImage(VOXELS, None)
    nib.save(image, tmp_path / "a.hdr")
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[80:92] = bytes(12)
    (tmp_path / "a.hdr").write_bytes(header[:200])
    with pytest.raises(ScanError, match=r"has 200 bytes; expected a header of 348"):
        read_scan(tmp_path / "a.hdr")
    (tmp_path / "a.hdr").write_bytes(header)
    with pytest.raises(ScanError, match=r"has voxel sizes \(0.0, 0.0, 0.0\)"):
        read_scan(tmp_path / "a.hdr")


def test_a_part_that_is_missing_or_short_or_of_another_kind_is_named(tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, OBLIQUE), tmp_path / "a.hdr")
    before = content_hash([tmp_path / "a.hdr"])
    voxels = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(voxels[:-2] + b"\0\0")
    assert content_hash([tmp_path / "a.hdr"]) != before
    (tmp_path / "a.img").write_bytes(voxels[:50])
    with pytest.raises(ScanError, match=r"holds 50 bytes of voxels; expected 120"):
        read_scan(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    for read in (read_scan, read_header, lambda path: content_hash([path])):
        with pytest.raises(ScanError, match=r"a.hdr: is a header without voxels; expected a.img beside it"):
            read(tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(bytes(120))
    (tmp_path / "a.hdr").write_bytes(b"ENVI\nsamples = 3\n")
    with pytest.raises(ScanError, match="is no header of NIfTI or Analyze"):
        read_scan(tmp_path / "a.hdr")


def test_minc_1_is_read_and_minc_2_named():
    check_as_nibabel(NIBABEL_DATA / "tiny.mnc", nib.load(NIBABEL_DATA / "tiny.mnc"))
    check_as_nibabel(NIBABEL_DATA / "minc1_1_scale.mnc", nib.load(NIBABEL_DATA / "minc1_1_scale.mnc"))
    with pytest.raises(ScanError, match=r"is MINC 2, .* convert it with mnc2nii"):
        read_scan(NIBABEL_DATA / "small.mnc")


def test_afni_is_read_and_a_missing_part_named(tmp_path):
    path = NIBABEL_DATA / "example4d+orig.HEAD"
    check_as_nibabel(path, nib.load(path))
    (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(tmp_path / path.name)


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "a.hdr", "a.mnc", "a.HEAD"])
@pytest.mark.parametrize("content", [b"", b"no image at all", bytes(400), b"\x1f\x8b" + bytes(100)])
def test_garbage_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.img").write_bytes(bytes(10))
    for read in (read_scan, read_header):
        with pytest.raises(ScanError):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
def test_a_truncated_mgh_is_refused(tmp_path, name):
    nib.save(nib.MGHImage(np.random.default_rng(0).integers(0, 9999, (20, 20, 20)).astype(np.int16), OBLIQUE), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match=r"ends early|cannot be read"):
        read_scan(tmp_path / name)
