"""Scans that training refuses are repaired for prediction, with a note of what was done; labels go back to where the scan lies."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series, write_slice
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.resampling import resampled, share_inside, upright
from nnseg.storage.images.write import write_label_map, write_map

TURNED = [[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 2.5, 9], [0, 0, 0, 1]]
SHEARED = [[1, 0, 0.43, 5], [0, 1, 0.2, -7], [0, 0, 2.5, 9], [0, 0, 0, 1]]


def _saved(path: Path, voxels: np.ndarray, affine=None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else np.asarray(affine, float)), path)
    return path


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)


def _world(affine, shape) -> np.ndarray:
    """RAS positions (x, y, z, 3) of the voxels of an affine."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ np.asarray(affine, float)[:3, :3].T + np.asarray(affine, float)[:3, 3]


def test_voxels_without_a_value_become_the_least_of_their_channel(tmp_path):
    voxels = _noise(3, 4, 5, 2)
    voxels[0, 0, 0, 0], voxels[1, 1, 1, 0], voxels[2, 0, 0, 0] = np.nan, np.inf, -np.inf
    voxels[2, 2, 2, 0], voxels[0, 0, 0, 1] = -7, -30
    path = _saved(tmp_path / "a.nii.gz", voxels, np.diag([-1.0, -1, 1, 1]))
    scan = read_scan(path, repair=True)
    for z, y, x in ((0, 0, 0), (1, 1, 1), (0, 0, 2)):
        assert scan.image[0, z, y, x] == -7
    assert np.array_equal(scan.image[1], voxels[..., 1].T)
    assert scan.notes == ("a.nii.gz: 1 NaN and 2 Inf voxels were replaced by the least value of their channel (-7) [NS-S007]",)
    with pytest.raises(ScanError, match="1 NaN and 2 Inf"):
        read_scan(path)


def test_a_value_beyond_float32_counts_as_inf(tmp_path):
    voxels = np.ones((2, 2, 2))
    voxels[0, 0, 0] = 1e300
    scan = read_scan(_saved(tmp_path / "a.nii", voxels), repair=True)
    assert scan.image.max() == 1
    assert "1 Inf" in scan.notes[0]


def test_a_channel_of_nothing_but_nan_cannot_be_mended(tmp_path):
    with pytest.raises(ScanError, match="without any finite voxel"):
        read_scan(_saved(tmp_path / "a.nii", np.full((2, 2, 2), np.nan)), repair=True)


def test_a_sound_scan_has_no_notes_and_is_the_same_either_way(tmp_path):
    path = _saved(tmp_path / "a.nii", _noise(3, 4, 5), TURNED)
    one, other = read_scan(path), read_scan(path, repair=True)
    assert np.array_equal(one.image, other.image)
    assert other.notes == ()


def test_a_constant_channel_is_noted(tmp_path):
    scan = read_scan(_saved(tmp_path / "a.nii", np.zeros((2, 3, 4), np.float32)), repair=True)
    assert scan.notes == ("a.nii: channel 0 has the same value everywhere [NS-S009]",)


def _ball(scan: Scan, centre_lps: np.ndarray, radius: float) -> LabelMap:
    """The ball drawn on a scan's grid."""
    grid = scan.grid
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    world = index * grid.spacing @ np.asarray(grid.direction) + grid.origin
    return LabelMap(labels=(np.linalg.norm(world - centre_lps, axis=-1) < radius).astype(np.uint8), grid=grid)


def test_labels_of_a_sheared_scan_lie_right_in_the_world_and_have_its_header(tmp_path):
    path = _saved(tmp_path / "a.nii.gz", _noise(20, 24, 12), SHEARED)
    with pytest.raises(ScanError, match="sheared"):
        read_scan(path)
    scan = read_scan(path, repair=True)
    assert scan.grid.shear < 1e-9
    assert "sheared (cosine 0.169)" in scan.notes[0]
    world = _world(SHEARED, (20, 24, 12))
    centre = world[10, 12, 6]
    write_label_map(_ball(scan, centre * (-1, -1, 1), 7), tmp_path / "out.nii.gz", like=scan.source)
    written, wanted = nib.load(tmp_path / "out.nii.gz"), np.linalg.norm(world - centre, axis=-1) < 7
    found = np.asarray(written.dataobj) > 0
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.95  # the nearest of 1 mm voxels, on a radius of 7 mm
    assert world[found].mean(axis=0) == pytest.approx(world[wanted].mean(axis=0), abs=0.3)  # half a voxel would be 0.5
    assert np.array_equal(written.affine, nib.load(path).affine)


def test_a_sheared_scan_resampled_and_back_keeps_a_linear_image(tmp_path):
    world = _world(SHEARED, (10, 12, 8))
    values = (world @ (1.0, -2.0, 0.5) + 300).astype(np.float32)
    scan = read_scan(_saved(tmp_path / "a.nii", values, SHEARED), repair=True)
    write_map(scan.image[0], tmp_path / "back.nii", like=scan.source)
    back = np.asarray(nib.load(tmp_path / "back.nii").dataobj)
    inside = (slice(3, -3), slice(3, -3), slice(1, -1))  # near the border, what lies outside is mixed in
    np.testing.assert_allclose(back[inside], values[inside], atol=1e-3)


def test_slices_of_a_tilted_gantry_are_moved_within_their_planes_only(tmp_path):
    voxels = write_series(tmp_path, slices=6, step=(0, 0.7, 3))  # a row further per slice
    scan = read_scan(tmp_path, repair=True)
    assert scan.grid.spacing == pytest.approx((3, 0.7, 0.5))
    assert scan.grid.shape == (6, 4 + 5, 6)
    for z in range(6):
        assert scan.image[0, z, z : z + 4] == pytest.approx(voxels[z], abs=1e-3)
    assert scan.source.grid.world((5, 0, 0)) == pytest.approx((10, 20 + 5 * 0.7, 30 + 15))


def test_a_sheared_scan_written_in_another_format_stays_sheared(tmp_path):
    scan = read_scan(_saved(tmp_path / "a.nii", _noise(6, 7, 8), SHEARED), repair=True)
    label_map = LabelMap(labels=np.ones(scan.grid.shape, np.uint8), grid=scan.grid)
    write_label_map(label_map, tmp_path / "b.mha", like=scan.source)
    write_label_map(label_map, tmp_path / "c.nii.gz", like=read_scan(tmp_path / "b.mha", repair=True).source)
    np.testing.assert_allclose(nib.load(tmp_path / "c.nii.gz").affine, SHEARED, atol=1e-5)


def test_upright_keeps_a_grid_at_right_angles_and_covers_a_sheared_one():
    straight = Grid(shape=(3, 4, 5), spacing=(3, 2, 1))
    assert upright(straight) is straight
    tilted = Grid(shape=(8, 9, 10), spacing=(2, 1, 1), direction=((0.0, 0.6, 0.8), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    grid = upright(tilted)
    assert share_inside(tilted, grid) == 1
    assert grid.spacing == pytest.approx((1.6, 1, 1))
    assert grid.shape == (8, 9 + 9, 10)  # seven steps of 1.2 mm sideways, in whole voxels


def test_resampling_onto_the_same_grid_changes_nothing():
    grid, voxels = Grid(shape=(3, 4, 5), spacing=(3, 2, 1), origin=(0.1, 0.2, 0.3)), _noise(3, 4, 5)
    assert np.allclose(resampled(voxels, grid, grid, order=1), voxels)
    assert np.array_equal(resampled(voxels, grid, grid, order=0), voxels)


def test_a_channel_on_another_grid_is_resampled_onto_the_first(tmp_path):
    fine, coarse = np.diag([1.0, 1, 1, 1]), np.diag([2.0, 2, 2, 1])
    first = _saved(tmp_path / "t1.nii", _noise(9, 9, 9), fine)
    slope = (1.0, 2.0, 4.0)
    second = _saved(tmp_path / "t2.nii", (_world(coarse, (5, 5, 5)) @ slope).astype(np.float32), coarse)
    scan = read_scan([first, second], repair=True)
    turned = np.asarray((_world(fine, (9, 9, 9)) @ slope).T[:, ::-1, ::-1])
    np.testing.assert_allclose(scan.image[1], turned, atol=1e-4)
    assert scan.notes == ("t2.nii: was resampled onto the grid of t1.nii [NS-S022]",)


def test_a_channel_that_covers_too_little_of_the_first_is_refused(tmp_path):
    first = _saved(tmp_path / "t1.nii", _noise(9, 9, 9))
    second = _saved(tmp_path / "t2.nii", _noise(9, 9, 4))
    with pytest.raises(ScanError, match=r"t2.nii: covers .*% of channel t1.nii; expected at least 95%"):
        read_scan([first, second], repair=True)


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0, 2.0)])
@pytest.mark.parametrize("read", [read_scan, read_header])
def test_pictures_of_different_sizes_are_not_cut_to_one(tmp_path, read, spacing):
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for path, size in zip(files, (5, 8), strict=True):
        Image.fromarray(np.eye(size, dtype=np.uint8)).save(path)
    with pytest.raises(ScanError, match=r"b.png: has shape \(1, 8, 8\) .*a.png has \(1, 5, 5\)"):
        read(files, repair=True, spacing=spacing)


def _broken(path: Path, *, sizes=None, sform_row=None, codes=(0, 0)) -> Path:
    """A NIfTI file of 4 x 5 x 6 voxels with voxel sizes, or a row of the sform, that say nothing."""
    raw = bytearray(nib.Nifti1Image(_noise(4, 5, 6), np.eye(4)).to_bytes())
    raw[252:256] = struct.pack("<hh", *codes)
    if sizes:
        raw[80:92] = struct.pack("<3f", *sizes)
    if sform_row:
        raw[312:328] = struct.pack("<4f", *sform_row)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"sizes": (1, 1, 0)},
        {"sizes": (1, np.nan, 1)},
        {"sizes": (0, 0, 0)},
        {"sizes": (1, 1, 0), "codes": (1, 0)},
        {"sform_row": (0, 0, 0, 0), "codes": (0, 1)},
    ],
)
def test_a_scan_without_usable_spacing_asks_for_one_and_takes_it(tmp_path, header):
    path = _broken(tmp_path / "a.nii", **header)
    with pytest.raises(ScanError, match=r"has voxel spacing.*--spacing"):
        read_scan(path, repair=True)
    scan = read_scan(path, repair=True, spacing=(3, 2, 0.5))
    assert scan.grid.spacing == (3, 2, 0.5)
    write_label_map(LabelMap(labels=np.zeros(scan.grid.shape, int), grid=scan.grid), tmp_path / "b.nii", like=scan.source)
    assert read_label_map(tmp_path / "b.nii").grid.matches(scan.grid)


def test_a_given_spacing_does_not_touch_what_a_header_says(tmp_path):
    path = _saved(tmp_path / "a.nii", _noise(4, 5, 6), TURNED)
    assert read_scan(path, spacing=(9, 9, 9)).grid == read_scan(path).grid


def test_pictures_and_series_without_spacing_take_the_given_one(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(8, dtype=np.uint8)), str(tmp_path / "a.png"))
    assert read_scan(tmp_path / "a.png", spacing=(1, 0.2, 0.3)).grid.spacing == (1, 0.2, 0.3)
    write_series(tmp_path / "series", PixelSpacing=None)
    with pytest.raises(ScanError, match=r"has no spacing of its voxels.*--spacing"):
        read_scan(tmp_path / "series")
    assert read_scan(tmp_path / "series", spacing=(9, 0.2, 0.3)).grid.spacing == (3, 0.2, 0.3)  # slices say where they lie


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_the_unit_of_a_nifti_header_is_heeded_as_itk_does(tmp_path, unit, factor):
    image = nib.Nifti1Image(_noise(2, 3, 4), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.grid.spacing == pytest.approx((4 * factor, 3 * factor, 2 * factor))
    assert scan.source.grid.spacing[::-1] == pytest.approx(sitk.ReadImage(str(tmp_path / "a.nii")).GetSpacing(), rel=1e-5)


def test_a_scan_of_kilometres_and_headers_that_disagree_are_noted(tmp_path):
    assert (
        "are the units" in read_scan(_saved(tmp_path / "a.nii", _noise(4, 4, 4), np.diag([1e3, 1e3, 1e3, 1])), repair=True).notes[0]
    )
    image = nib.Nifti1Image(_noise(4, 4, 4), None)
    image.set_qform(np.diag([1.0, 1, 1.5, 1]), code=1)
    image.set_sform(np.eye(4), code=1)
    nib.save(image, tmp_path / "b.nii")
    assert read_scan(tmp_path / "b.nii").notes == (
        "b.nii: its sform and qform differ by up to 1.5 mm; the sform is used [NS-S015]",
    )


def test_a_name_that_lies_about_compression_is_noted(tmp_path):
    plain = _saved(tmp_path / "a.nii", _noise(2, 3, 4))
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    assert read_scan(tmp_path / "b.nii.gz").notes == ("b.nii.gz: is not compressed, contrary to its name; read as it is [NS-S005]",)


@pytest.mark.parametrize("name", ["häß 漢字.nii.gz", "häß 漢字.nrrd", "häß 漢字.tif", "001.mha", " a  b .nii"])
def test_names_in_any_script_work(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(_noise(2, 3, 4)), str(tmp_path / name))
    (case,) = find_scans(tmp_path, channels=1).cases
    scan = read_scan(case.images)
    out = tmp_path / "Ergebnis ä" / name
    write_label_map(LabelMap(labels=np.ones(scan.grid.shape, np.uint8), grid=scan.grid), out, like=scan.source)
    assert read_label_map(out).labels.all()


def test_a_vector_axis_of_a_5d_nifti_is_channels(tmp_path):
    voxels = _noise(2, 3, 4, 1, 5)
    assert np.array_equal(read_scan(_saved(tmp_path / "a.nii", voxels)).image[3, :, ::-1, ::-1], voxels[..., 0, 3].T)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 1), (6, 7, 1), (1, 6, 7)])
def test_a_scan_of_one_voxel_row_or_slice_gets_its_labels_back(tmp_path, shape):
    scan = read_scan(_saved(tmp_path / "a.nii.gz", _noise(*shape), TURNED), repair=True)
    labels = np.arange(scan.image.size).reshape(scan.grid.shape)
    write_label_map(LabelMap(labels=labels, grid=scan.grid), tmp_path / "b.nii.gz", like=scan.source)
    assert nib.load(tmp_path / "b.nii.gz").shape == shape
    assert np.array_equal(read_label_map(tmp_path / "b.nii.gz").labels, labels)


def test_files_among_slices_that_are_no_images_are_passed_over(tmp_path):
    voxels = write_series(tmp_path)
    kinds = {"report": "88.11", "state": "11.1", "contours": "481.3", "segmentation": "66.4", "waveform": "9.1.1"}
    for name, kind in kinds.items():
        write_slice(
            tmp_path / f"{name}.dcm", np.ones((9, 9)), position=(0, 0, 0), series="7.7", kind=f"1.2.840.10008.5.1.4.1.1.{kind}"
        )
    write_slice(tmp_path / "DICOMDIR", np.ones((9, 9)), position=(0, 0, 0), series="7.8", kind="1.2.840.10008.1.3.10")
    assert np.array_equal(read_scan(tmp_path).image[0], voxels)
    assert [case.images for case in find_scans(tmp_path, channels=1).cases] == [(tmp_path,)]


def test_a_file_that_cannot_be_read_does_not_hide_the_series_beside_it(tmp_path):
    one = write_series(tmp_path / "p", name="a{}.dcm", number=3)
    write_series(tmp_path / "p", name="b{}.dcm", series="1.2.4", number=4)
    (tmp_path / "p" / "c.dcm").write_bytes(bytes(128) + b"DICM" + b"\x01" * 50)
    (tmp_path / "p" / "b2.dcm").unlink()
    whole, gap, broken = find_scans(tmp_path, channels=1).cases
    assert (whole.name, gap.name, broken.name) == ("p_series3", "p_series4", "p_unreadable")
    assert np.array_equal(read_scan(whole.images).image[0], one)
    with pytest.raises(ScanError, match="slices are missing"):
        read_scan(gap.images)
    with pytest.raises(ScanError, match=r"c.dcm: cannot be read as DICOM"):
        read_scan(broken.images)


def test_coloured_slices_have_a_channel_per_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 4, "Columns": 6, "PixelData": pixels.tobytes()}
    for z in range(3):
        write_slice(tmp_path / f"{z}.dcm", np.zeros((4, 6)), position=(0, 0, z), **colour, **bits)
    scan = read_scan(tmp_path)
    assert np.array_equal(scan.image[:, 1], np.moveaxis(pixels, -1, 0))
    assert read_header(tmp_path).channels == 3


def test_slices_along_the_fourth_axis_are_slices_with_a_note(tmp_path):
    voxels = _noise(6, 7, 1, 24)
    path = _saved(tmp_path / "a.nii.gz", voxels, np.diag([-1.0, -1, 2.5, 1]))
    scan = read_scan(path)
    assert np.array_equal(scan.image[0], voxels[:, :, 0].T)
    assert scan.grid.spacing == (2.5, 1, 1)
    assert read_header(path).grid == scan.grid
    assert scan.notes == ("a.nii.gz: is 6 x 7 x 1 x 24: its fourth axis was taken as slices [NS-S020]",)
    label_map = LabelMap(labels=np.arange(24 * 42).reshape(24, 7, 6), grid=scan.grid)
    write_label_map(label_map, tmp_path / "b.nii.gz", like=scan.source)
    assert nib.load(tmp_path / "b.nii.gz").shape == (6, 7, 24)
    assert np.array_equal(nib.load(tmp_path / "b.nii.gz").affine, nib.load(path).affine)
    assert np.array_equal(read_label_map(tmp_path / "b.nii.gz").labels, label_map.labels)


def test_few_images_of_one_slice_and_vectors_are_channels(tmp_path):
    scan = read_scan(_saved(tmp_path / "a.nii", _noise(6, 7, 1, 3)))
    assert scan.image.shape == (3, 1, 7, 6)
    assert scan.notes == ("a.nii: is 6 x 7 x 1 x 3: its fourth axis was taken as channels [NS-S020]",)
    image = nib.Nifti1Image(_noise(6, 7, 1, 8), np.eye(4))
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "b.nii")
    assert read_scan(tmp_path / "b.nii").image.shape == (8, 1, 7, 6)
    assert read_scan(tmp_path / "b.nii").notes == ()


def test_a_new_nifti_header_has_no_qform_where_that_cannot_hold_the_shear(tmp_path):
    write_series(tmp_path / "in", slices=6, step=(0, 0.7, 3))
    scan = read_scan(tmp_path / "in", repair=True)
    write_label_map(LabelMap(labels=np.ones(scan.grid.shape, int), grid=scan.grid), tmp_path / "b.nii", like=scan.source)
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    lps = np.asarray(scan.source.grid.world((5, 3, 2)))
    assert header.get_best_affine() @ (2, 3, 5, 1) == pytest.approx((*lps * (-1, -1, 1), 1), abs=1e-4)


def test_complex_numbers_are_refused_by_name(tmp_path):
    nib.save(nib.Nifti1Image(_noise(2, 3, 4).astype(np.complex64), np.eye(4)), tmp_path / "a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(_noise(2, 3, 4).astype(np.complex64)), str(tmp_path / "a.nrrd"))
    for name in ("a.nii", "a.nrrd"):
        for read in (read_scan, read_header, read_label_map):
            with pytest.raises(ScanError, match="complex"):
                read(tmp_path / name)


def test_a_nifti_volume_without_an_orientation_is_said_to_have_a_guessed_one(tmp_path):
    for name, shape in (("volume", (4, 5, 6)), ("flat", (4, 5))):
        image = nib.Nifti1Image(np.ones(shape, np.uint8), None)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(image, tmp_path / f"{name}.nii")
    (note,) = read_scan(tmp_path / "volume.nii").notes
    assert "states no orientation (its sform and qform have code 0): its axes were taken to point left, front and up" in note
    assert read_scan(tmp_path / "flat.nii").notes == ()
