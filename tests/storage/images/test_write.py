"""Answers: every format says what the scan's own header says, holds all labels it can, and refuses those it cannot."""

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from dicom_series import TILT, write_series
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels
from nnseg.storage.images.formats import FORMATS
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import check_label_suffix, write_label_files, write_label_map, write_map

LABELS = Labels(names=("background", "liver", "spleen"), values=(0, 3, 700))
OBLIQUE = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 2.5, 9], [0, 0, 0, 1]])


def _read(path: Path, affine=OBLIQUE, shape=(4, 5, 6)) -> Scan:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine), path)
    return read_scan(path)


def _labels(scan: Scan, *values: int) -> LabelMap:
    labels = np.zeros(scan.grid.shape, np.int64)
    labels.flat[: len(values)] = values
    return LabelMap(labels=labels, grid=scan.grid)


@pytest.mark.parametrize("suffix", [s for s, form in FORMATS.items() if form.write])
@pytest.mark.parametrize("top", [255, 65535])
def test_every_format_holds_labels_up_to_65535_or_says_that_it_cannot(tmp_path, suffix, top):
    path = tmp_path / "a.png"
    Image.fromarray(np.eye(5, dtype=np.uint8)).save(path)
    scan = read_scan(path)
    written, out = _labels(scan, 1, top), tmp_path / f"out{suffix}"
    if suffix == ".bmp" and top > 255:
        with pytest.raises(ScanError, match=r"/out.bmp: cannot hold .* 0 to 65535; expected .* 0 to 255; write .tif"):
            write_label_map(written, out, like=scan.source)
        assert not list(tmp_path.glob("*out*"))
    else:
        write_label_map(written, out, like=scan.source)
        assert np.array_equal(read_label_map(out).labels, written.labels)


def test_gipl_says_what_it_cannot_hold(tmp_path):
    scan = _read(tmp_path / "a.nii", np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(ScanError, match=r"/b.gipl: cannot hold values 0 to 70000"):
        write_label_map(_labels(scan, 70000), tmp_path / "b.gipl", like=scan.source)
    oblique = _read(tmp_path / "c.nii")
    with pytest.raises(ScanError, match=r"/d.gipl: cannot hold the direction"):
        write_label_map(_labels(oblique, 7), tmp_path / "d.gipl", like=oblique.source)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_a_map_lies_where_the_scan_does_as_nibabel_and_itk_read_it(tmp_path, suffix):
    scan = _read(tmp_path / "a.nii.gz", OBLIQUE @ np.diag([1, -1, 1, 1]))
    out = tmp_path / f"out{suffix}"
    values = np.random.default_rng(1).random(scan.grid.shape, np.float32)
    write_map(values, out, like=scan.source)
    back = read_scan(out)
    assert np.array_equal(back.image[0], values)
    assert back.grid.matches(scan.grid, 1e-4)
    one, other = sitk.ReadImage(str(tmp_path / "a.nii.gz")), sitk.ReadImage(str(out))
    assert other.GetPixelID() == sitk.sitkFloat32
    assert other.GetSize() == one.GetSize()
    for field in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(other, field)() == pytest.approx(getattr(one, field)(), abs=1e-5)
    if suffix.startswith(".nii"):
        assert np.array_equal(nib.load(out).affine, nib.load(tmp_path / "a.nii.gz").affine)


def test_a_map_of_a_picture_is_a_tiff(tmp_path):
    Image.fromarray(np.eye(5, dtype=np.uint8)).save(tmp_path / "a.png")
    scan = read_scan(tmp_path / "a.png")
    values = np.random.default_rng(1).random(scan.grid.shape, np.float32)
    write_map(values, tmp_path / "out.tif", like=scan.source)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), values[0])
    with pytest.raises(ScanError, match=r"floats are not written as \".png\".*write .tif"):
        write_map(values, tmp_path / "out.png", like=scan.source)


def test_a_map_of_another_scan_is_refused(tmp_path):
    scan = _read(tmp_path / "a.nii")
    with pytest.raises(ScanError, match=r"the map \(shape \(1, 2, 3\)\) is not on the grid of a.nii"):
        write_map(np.zeros((1, 2, 3), np.float32), tmp_path / "b.nii", like=scan.source)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_what_mha_and_nrrd_say_of_a_scan_is_said_of_its_label_map(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.ones((3, 4, 5), np.float32))
    image.SetMetaData("patient", "somebody")
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    scan = read_scan(tmp_path / f"a{suffix}")
    write_label_map(_labels(scan, 1), tmp_path / f"b{suffix}", like=scan.source)
    one, other = (sitk.ReadImage(str(tmp_path / f"{n}{suffix}")) for n in "ab")
    assert {k: one.GetMetaData(k) for k in one.GetMetaDataKeys()} == {k: other.GetMetaData(k) for k in other.GetMetaDataKeys()}


def test_channels_of_an_nrrd_do_not_enter_its_label_maps_header(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5, 2), np.float32), isVector=True), str(tmp_path / "a.nrrd"))
    scan = read_scan(tmp_path / "a.nrrd")
    write_label_map(_labels(scan, 5), tmp_path / "b.nrrd", like=scan.source)
    assert sitk.ReadImage(str(tmp_path / "b.nrrd")).GetNumberOfComponentsPerPixel() == 1
    assert read_label_map(tmp_path / "b.nrrd").labels.max() == 5


def test_the_resolution_of_a_picture_is_its_label_maps(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "a.png", dpi=(300, 200))
    tifffile.imwrite(tmp_path / "a.tif", np.eye(8, dtype=np.uint8), resolution=(50, 25), resolutionunit="CENTIMETER")
    for name in ("a.png", "a.tif"):
        scan = read_scan(tmp_path / name)
        write_label_map(_labels(scan, 1), tmp_path / "out" / name, like=scan.source)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 200), abs=0.1)
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        tags = file.pages.first.tags
        assert (tags["XResolution"].value, tags["YResolution"].value) == ((50, 1), (25, 1))
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER


def test_a_new_nifti_header_puts_sform_and_qform_in_the_same_place(tmp_path):
    scan = _read(tmp_path / "a.nii")
    write_label_map(_labels(scan, 1), tmp_path / "a.mha", like=scan.source)
    turned = read_scan(tmp_path / "a.mha")
    write_label_map(_labels(turned, 1), tmp_path / "b.nii.gz", like=turned.source)
    header = nib.load(tmp_path / "b.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), OBLIQUE, atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"
    assert header["pixdim"][1:4] == pytest.approx((1, 1, 2.5), abs=1e-6)


def test_any_of_48_orientations_gets_its_label_map_in_its_own_order(tmp_path):
    world = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), OBLIQUE @ np.diag([1, 1.5, 2, 1]))
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        turned = world.as_reoriented(np.stack([axes, flips], axis=1))
        nib.save(turned, tmp_path / "turned.nii")
        scan = read_scan(tmp_path / "turned.nii")
        write_label_map(LabelMap(labels=scan.image[0].astype(int), grid=scan.grid), tmp_path / "out.nii", like=scan.source)
        written = nib.load(tmp_path / "out.nii")
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(turned.dataobj))
        assert np.array_equal(written.affine, nib.load(tmp_path / "turned.nii").affine)


def test_an_answer_is_in_the_scans_format_or_the_one_asked_for(tmp_path):
    scan = _read(tmp_path / "a.nii")
    for form, name in ((None, "case.nii"), (".mha", "case.mha"), (".nii.gz", "case.nii.gz")):
        assert write_label_files(_labels(scan, 3), tmp_path, "case", like=scan.source, labels=LABELS, suffix=form) == (
            tmp_path / name,
        )
        assert read_label_map(tmp_path / name).labels.max() == 3
    with pytest.raises(ScanError, match="not written as"):
        write_label_files(_labels(scan, 3), tmp_path, "case", like=scan.source, labels=LABELS, suffix=".xyz")
    with pytest.raises(ScanError, match="expected a scan read from DICOM"):
        write_label_files(_labels(scan, 3), tmp_path, "case", like=scan.source, labels=LABELS, suffix=".dcm")


def test_the_spacing_beside_a_tiff_is_one_of_the_files_written(tmp_path):
    scan = _read(tmp_path / "a.nii", np.diag([-1.0, -2, 3, 1]))
    files = write_label_files(_labels(scan, 3), tmp_path, "case", like=scan.source, labels=LABELS, suffix=".tif")
    assert [f.name for f in files] == ["case.tif", "case.json"]
    assert json.loads(files[1].read_text()) == {"spacing": [3, 2, 1]}


def test_dicom_is_answered_as_nifti_and_as_dicom_seg_or_as_one_of_them(tmp_path):
    write_series(tmp_path / "in", step=np.cross(TILT[:3], TILT[3:]) * 2.5, orientation=TILT)
    scan = read_scan(tmp_path / "in")
    wanted = {None: ["case.nii.gz", "case.dcm"], ".nii.gz": ["case.nii.gz"], ".dcm": ["case.dcm"]}
    for form, names in wanted.items():
        files = write_label_files(_labels(scan, 3), tmp_path / "out", "case", like=scan.source, labels=LABELS, suffix=form)
        assert [f.name for f in files] == names


def test_headers_without_a_study_get_a_dicom_seg_too(tmp_path):
    write_series(tmp_path / "in", StudyInstanceUID="")
    scan = read_scan(tmp_path / "in")
    files = write_label_files(_labels(scan, 3), tmp_path, "case", like=scan.source, labels=LABELS)
    assert [f.name for f in files] == ["case.nii.gz", "case.dcm"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".dcm", ".tif"])
def test_formats_of_label_maps_are_known_before_there_is_one(suffix):
    check_label_suffix(suffix)


def test_a_scan_that_is_no_dicom_gets_no_dicom_seg_and_that_is_known_before(tmp_path):
    _read(tmp_path / "a.nii")
    write_series(tmp_path / "in")
    with pytest.raises(ScanError, match=r"a.nii: is no DICOM image; expected a scan read from DICOM; write .nii.gz instead"):
        check_label_suffix(".dcm", tmp_path / "a.nii")
    for scan in (tmp_path / "in", min((tmp_path / "in").iterdir()), tmp_path / "missing"):  # of which reading says what is wrong
        check_label_suffix(".dcm", scan)
    check_label_suffix(".mha", tmp_path / "a.nii")


@pytest.mark.parametrize(("suffix", "instead"), [(".jpg", ".png"), (".mhd", ".mha"), (".foo", ".nii.gz"), (".", ".nii.gz")])
def test_a_format_that_holds_no_label_maps_is_refused_with_another(suffix, instead):
    with pytest.raises(ScanError, match=f"are not written as .*; write {instead}"):
        check_label_suffix(suffix)
