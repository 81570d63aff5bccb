"""Images: what is read is where it belongs, and what is written lies on the scan's own grid."""

import gzip
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnseg.core.errors import RunError, ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Source
from nnseg.storage.images.formats import FORMATS, stem_of, suffix_of
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import label_suffix, write_label_map

FREE_TO_DIFFER = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "cal_min", "vox_offset"}


def counting(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def rigid_affine(spacing=(2.0, 1.0, 3.0), angles=(0.3, -0.2, 0.1), origin=(10.0, -20.0, 30.0)) -> np.ndarray:
    a, b, c = angles
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = turn @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn = turn @ np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, origin
    return affine


def save_nifti(path: Path, voxels_xyz: np.ndarray, affine: np.ndarray | None = None, **header) -> Path:
    image = nib.Nifti1Image(voxels_xyz, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [("a.nii.gz", ".nii.gz", "a"), ("A.B.NII.GZ", ".nii.gz", "A.B"), ("a.png", ".png", "a"), ("a.b", ".b", "a"), ("a", "", "a")],
)
def test_suffix_of_counts_nii_gz_as_one(name, suffix, stem):
    assert (suffix_of(Path(name)), stem_of(Path(name))) == (suffix, stem)


def test_nifti_voxel_is_where_its_affine_says(tmp_path):
    affine = rigid_affine()
    voxels = counting(4, 5, 6)
    scan = read_scan([save_nifti(tmp_path / "a.nii.gz", voxels, affine)])
    for index in [(0, 0, 0), (3, 0, 0), (0, 4, 0), (1, 2, 5)]:
        lps = np.diag([-1, -1, 1]) @ (affine @ [*index, 1])[:3]
        z, y, x = np.argwhere(scan.image[0] == voxels[index])[0]
        assert scan.grid.world((z, y, x)) == pytest.approx(lps, abs=1e-4)
        assert scan.source.grid.world(index[::-1]) == pytest.approx(lps, abs=1e-4)


def test_nifti_agrees_with_itk_on_an_oblique_volume(tmp_path):
    path = save_nifti(tmp_path / "a.nii", counting(4, 5, 6), rigid_affine())
    scan, itk = read_scan([path]), sitk.ReadImage(str(path))
    grid = scan.source.grid
    assert grid.spacing[::-1] == pytest.approx(itk.GetSpacing(), abs=1e-6)
    assert grid.origin == pytest.approx(itk.GetOrigin(), abs=1e-5)
    assert np.asarray(grid.direction)[::-1].T.ravel() == pytest.approx(itk.GetDirection(), abs=1e-6)
    assert np.array_equal(grid.canonical().inverse().apply(scan.image)[0], sitk.GetArrayFromImage(itk))


def test_every_one_of_48_orientations_reads_as_the_same_scan(tmp_path):
    world = nib.Nifti1Image(counting(3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]))
    wanted = read_scan([_saved(world, tmp_path / "wanted.nii")])
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = world.as_reoriented(np.stack([axes, flips], axis=1))
            scan = read_scan([_saved(turned, tmp_path / "turned.nii")])
            assert np.array_equal(scan.image, wanted.image)
            assert scan.grid.matches(wanted.grid, 1e-6)


def _saved(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


def test_sform_comes_before_qform_and_qform_where_there_is_no_sform(tmp_path):
    image = nib.Nifti1Image(counting(2, 3, 4), None)
    image.set_sform(np.diag([3.0, 3, 3, 1]), code=1)
    image.set_qform(np.diag([1.0, 1, 2, 1]), code=1)
    assert read_scan([_saved(image, tmp_path / "both.nii")]).grid.spacing == (3, 3, 3)
    image.set_sform(None, code=0)
    image.set_qform(np.diag([1.0, 1, 2, 1]), code=1)
    assert read_scan([_saved(image, tmp_path / "qform.nii")]).grid.spacing == (2, 1, 1)


def test_magic_bytes_and_not_the_name_tell_whether_a_nifti_is_compressed(tmp_path):
    plain = save_nifti(tmp_path / "a.nii", counting(2, 3, 4))
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain.read_bytes()))
    wanted = read_scan([plain]).image
    assert np.array_equal(read_scan([tmp_path / "b.nii.gz"]).image, wanted)
    assert np.array_equal(read_scan([tmp_path / "c.nii"]).image, wanted)


def test_last_axis_of_a_4d_nifti_is_channels(tmp_path):
    voxels = counting(3, 4, 5, 2)
    scan = read_scan([save_nifti(tmp_path / "a.nii", voxels, np.diag([-1.0, -1, 1, 1]))])
    assert scan.image.shape == (2, 5, 4, 3)
    assert scan.image[1, 4, 3, 2] == voxels[2, 3, 4, 1]


def test_rgb_nifti_has_three_channels(tmp_path):
    voxels = np.zeros((2, 3, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    voxels["G"] = 7
    scan = read_scan([save_nifti(tmp_path / "a.nii", voxels)])
    assert scan.image[:, 0, 0, 0].tolist() == [0, 7, 0]


def test_slope_and_intercept_are_applied_and_a_slope_of_zero_means_none(tmp_path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 10, np.int16), np.eye(4))
    raw = bytearray(image.to_bytes())
    for slope, wanted in ((2.0, 25.0), (0.0, 10.0), (np.nan, 10.0)):
        raw[112:120] = np.array([slope, 5.0], "<f4").tobytes()
        (tmp_path / "a.nii").write_bytes(raw)
        assert read_scan([tmp_path / "a.nii"]).image[0, 0, 0, 0] == wanted


def test_big_endian_nifti_reads_the_same(tmp_path):
    little = nib.Nifti1Image(counting(2, 3, 4), rigid_affine())
    big = nib.Nifti1Image(counting(2, 3, 4).astype(">f4"), rigid_affine(), nib.Nifti1Header(endianness=">"))
    one, other = (read_scan([_saved(i, tmp_path / f"{n}.nii")]) for n, i in (("little", little), ("big", big)))
    assert np.array_equal(one.image, other.image)
    assert one.grid == other.grid
    assert other.image.dtype == np.dtype("=f4")


@pytest.mark.parametrize(("field", "word"), [("pixdim", "spacing"), ("srow_x", "sheared")])
def test_zero_spacing_and_sheared_axes_are_refused(tmp_path, field, word):
    image = nib.Nifti1Image(counting(2, 3, 4), np.eye(4))
    if field == "pixdim":
        image.header["sform_code"], image.header["qform_code"], image.header["pixdim"][3] = 0, 1, 0
    else:
        image.header[field] = [1, 0.1, 0, 0]
    (tmp_path / "a.nii").write_bytes(bytes(image.header.binaryblock) + bytes(4) + image.get_fdata().astype("f4").tobytes())
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[108:112] = np.array([352], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(ScanError, match=word):
        read_scan([tmp_path / "a.nii"])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
def test_itk_writes_what_we_read(tmp_path, suffix):
    voxels = counting(3, 4, 5)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 1.5, 2.5))
    image.SetOrigin((7, 8, 9))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    scan = read_scan([tmp_path / f"a{suffix}"])
    assert np.array_equal(scan.image[0], voxels)
    assert (scan.grid.spacing, scan.grid.origin) == ((2.5, 1.5, 0.5), (7, 8, 9))
    assert scan.image.dtype == np.float32
    assert not scan.source.is_2d


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".gipl"])
def test_truncated_itk_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(counting(9, 9, 9)), str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ScanError, match=f"a{suffix}.*copy"):
        read_scan([path])


def test_channels_in_files_of_their_own_are_concatenated(tmp_path):
    a = save_nifti(tmp_path / "a.nii", counting(2, 3, 4), rigid_affine())
    b = save_nifti(tmp_path / "b.nii", counting(2, 3, 4) + 100, rigid_affine())
    scan = read_scan([a, b])
    assert scan.image.shape == (2, 4, 3, 2)
    assert np.array_equal(scan.image[1], scan.image[0] + 100)
    assert scan.source.files == (a, b)


def test_channels_stored_in_different_voxel_order_are_brought_together(tmp_path):
    image = nib.Nifti1Image(counting(2, 3, 4), np.eye(4))
    flipped = image.as_reoriented([[0, -1], [2, 1], [1, 1]])
    scan = read_scan([_saved(image, tmp_path / "a.nii"), _saved(flipped, tmp_path / "b.nii")])
    assert np.array_equal(scan.image[0], scan.image[1])


@pytest.mark.parametrize(
    ("shape", "shift", "words"), [((2, 3, 5), 0, r"\(5, 3, 2\).*\(4, 3, 2\)"), ((2, 3, 4), 9, "9 mm away from channel a.nii")]
)
def test_channels_on_different_grids_are_refused_with_the_difference(tmp_path, shape, shift, words):
    moved = np.eye(4)
    moved[2, 3] = shift
    a = save_nifti(tmp_path / "a.nii", counting(2, 3, 4))
    with pytest.raises(ScanError, match=f"b.nii.*{words}"):
        read_scan([a, save_nifti(tmp_path / "b.nii", counting(*shape), moved)])


def test_png_is_one_flat_slice(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    scan = read_scan([tmp_path / "a.png"])
    assert scan.image.shape == (1, 1, 3, 4)
    assert np.array_equal(scan.image[0, 0], pixels)
    assert scan.source.is_2d
    assert scan.grid == Grid(shape=(1, 3, 4))


@pytest.mark.parametrize("kind", ["png", "bmp", "tif"])
def test_colours_are_three_channels(tmp_path, kind):
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)
    assert np.array_equal(read_scan([path]).image[:, 0], np.moveaxis(pixels, -1, 0))


def test_transparency_that_is_the_same_everywhere_is_no_channel(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "varied.png")
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "opaque.png")
    assert len(read_scan([tmp_path / "varied.png"]).image) == 4
    assert len(read_scan([tmp_path / "opaque.png"]).image) == 3


def test_palette_mask_keeps_its_indices_and_a_palette_image_gets_its_colours(tmp_path):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([0, 0, 0, 200, 10, 20, 30, 40, 50] + [0] * 759)
    image.putdata(indices.ravel())
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_label_map(tmp_path / "a.png").labels[0], indices)
    assert read_scan([tmp_path / "a.png"]).image[:, 0, 0, 1].tolist() == [200, 10, 20]


def test_sixteen_bit_png_keeps_its_values(tmp_path):
    Image.fromarray(np.array([[0, 300], [65535, 1]], np.uint16)).save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").labels.tolist() == [[[0, 300], [65535, 1]]]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}, {"compression": "zlib"}])
def test_tiff_of_many_pages_is_a_volume(tmp_path, options):
    voxels = np.arange(3 * 20 * 17, dtype=np.uint16).reshape(3, 20, 17)
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", **options)
    scan = read_scan([tmp_path / "a.tif"])
    assert np.array_equal(scan.image[0], voxels)
    assert not scan.source.is_2d


def test_spacing_of_a_tiff_comes_from_the_json_beside_it(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", np.ones((3, 4, 5), np.uint8), photometric="minisblack")
    assert read_scan([tmp_path / "a_0000.tif"]).grid.spacing == (1, 1, 1)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 2, 0.5]}))
    assert read_scan([tmp_path / "a_0000.tif"]).grid.spacing == (3, 2, 0.5)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_tiff_is_refused(tmp_path, compression):
    path = tmp_path / "a.tif"
    voxels = np.random.default_rng(0).integers(0, 255, (4, 50, 50), np.uint8)
    tifffile.imwrite(path, voxels, compression=compression, photometric="minisblack")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ScanError, match=r"damaged|decoded"):
        read_scan([path])


def test_values_a_crumb_away_from_whole_numbers_are_rounded(tmp_path):
    voxels = np.array([[[0.0, 0.9995, 2.0004]]], np.float32)
    assert np.unique(read_label_map(save_nifti(tmp_path / "a.nii", voxels)).labels).tolist() == [0, 1, 2]


def test_interpolated_label_values_are_refused_with_first_voxel_and_count(tmp_path):
    voxels = np.zeros((2, 3, 4), np.float32)
    voxels[1, 2, 3], voxels[0, 0, 3] = 0.37, 0.5
    with pytest.raises(ScanError, match=r"2 voxels.*first 0.5 at \(z, y, x\) = \(3, 0, 0\).*nearest"):
        read_label_map(save_nifti(tmp_path / "a.nii", voxels))


def test_jpeg_label_map_is_refused_but_a_jpeg_scan_is_read(tmp_path):
    Image.fromarray(40 * np.eye(8, dtype=np.uint8)).save(tmp_path / "a.jpg")
    assert read_scan([tmp_path / "a.jpg"]).image.shape == (1, 1, 8, 8)
    with pytest.raises(ScanError, match="JPEG label map"):
        read_label_map(tmp_path / "a.jpg")


def test_grey_mask_saved_in_colour_is_read_and_a_coloured_one_refused(tmp_path):
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_label_map(tmp_path / "grey.png").labels[0], grey)
    Image.fromarray(np.stack([grey, grey, 0 * grey], -1)).save(tmp_path / "colour.png")
    with pytest.raises(ScanError, match="3 channels"):
        read_label_map(tmp_path / "colour.png")


def write_and_read(scan_path: Path, out: Path, values: np.ndarray | None = None) -> tuple[LabelMap, LabelMap]:
    """A label map written on a scan's grid, and the same read again."""
    scan = read_scan([scan_path])
    labels = np.random.default_rng(0).integers(0, 65536, scan.grid.shape) if values is None else values
    written = LabelMap(labels=labels, grid=scan.grid)
    write_label_map(written, out, like=scan.source)
    return written, read_label_map(out, like=scan.source)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("channels", [1, 2])
def test_written_nifti_has_the_scans_header_field_by_field(tmp_path, suffix, channels):
    voxels = counting(4, 5, 6) if channels == 1 else counting(4, 5, 6, 2)
    image = nib.Nifti1Image(voxels, rigid_affine())
    image.set_qform(rigid_affine(), code=2)
    image.set_sform(rigid_affine(angles=(0.31, -0.2, 0.1)), code=3)  # qform and sform disagree: both must stay as they are
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["aux_file"], image.header["cal_max"] = b"a scanner's words", b"aux", 900
    path = _saved(image, tmp_path / "scan.nii.gz")
    written, read = write_and_read(path, tmp_path / f"labels{suffix}")
    assert np.array_equal(read.labels, written.labels)
    one, other = nib.load(path).header, nib.load(tmp_path / f"labels{suffix}").header
    differing = {key for key in one if not np.array_equal(one[key], other[key], equal_nan=one[key].dtype.kind == "f")}
    assert differing - FREE_TO_DIFFER == ({"dim"} if channels == 2 else set())
    assert other["dim"].tolist() == [3, 4, 5, 6, 1, 1, 1, 1]


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_written_mha_and_nrrd_have_exactly_the_scans_geometry(tmp_path, suffix):
    image = sitk.GetImageFromArray(counting(3, 4, 5))
    image.SetSpacing((0.1, 0.7, 1 / 3))
    image.SetOrigin((-1 / 7, 2.2, 1e3))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path))
    written, read = write_and_read(path, tmp_path / f"labels{suffix}")
    assert np.array_equal(read.labels, written.labels)
    one, other = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / f"labels{suffix}"))
    assert one.GetSpacing() == other.GetSpacing()
    assert one.GetOrigin() == other.GetOrigin()
    assert one.GetDirection() == other.GetDirection()


@pytest.mark.parametrize(("scan", "out"), [("a.nii", "b.mha"), ("a.nii.gz", "b.nrrd"), ("a.mha", "b.nii.gz"), ("a.nrrd", "b.nii")])
def test_label_map_stays_in_place_in_another_format(tmp_path, scan, out):
    affine = rigid_affine() @ np.diag([1, -1, 1, 1])
    save_nifti(tmp_path / "first.nii", counting(4, 5, 6), affine)
    if scan.startswith("a.nii"):
        save_nifti(tmp_path / scan, counting(4, 5, 6), affine)
    else:
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "first.nii")), str(tmp_path / scan))
    written, read = write_and_read(tmp_path / scan, tmp_path / out)
    assert np.array_equal(read.labels, written.labels)
    assert read.grid.matches(written.grid, 1e-4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.mha", "a.nii"])
def test_flat_scan_gives_a_flat_label_map(tmp_path, name):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / name))
    written, read = write_and_read(tmp_path / name, tmp_path / f"labels_{name}")
    assert np.array_equal(read.labels, written.labels)
    assert sitk.ReadImage(str(tmp_path / f"labels_{name}")).GetSize() == (4, 3)


def test_volume_as_tiff_keeps_its_spacing_in_the_json_beside_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4, 5), np.uint8), photometric="minisblack")
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 2, 0.5]}))
    written, _ = write_and_read(tmp_path / "a.tif", tmp_path / "out" / "a.tif")
    read = read_label_map(tmp_path / "out" / "a.tif")
    assert read.grid == written.grid
    assert np.array_equal(read.labels, written.labels)


def test_values_a_format_cannot_hold_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.bmp")
    with pytest.raises(ScanError, match="0 to 300"):
        write_and_read(tmp_path / "a.bmp", tmp_path / "b.bmp", np.array([[[0, 300], [1, 2]]]))
    assert not (tmp_path / "b.bmp").exists()


@pytest.mark.parametrize("name", ["b.jpg", "b.mhd", "b.xyz"])
def test_formats_we_do_not_write_are_refused_with_one_that_we_do(tmp_path, name):
    path = save_nifti(tmp_path / "a.nii", counting(2, 3, 4))
    with pytest.raises(ScanError, match=r"not written as.*write .(png|mha|nii.gz)"):
        write_and_read(path, tmp_path / name)


def test_label_map_of_another_scan_is_refused(tmp_path):
    scan = read_scan([save_nifti(tmp_path / "a.nii", counting(2, 3, 4))])
    wrong = LabelMap(labels=np.zeros((4, 3, 3), np.uint8), grid=Grid(shape=(4, 3, 3)))
    with pytest.raises(ScanError, match="not on the grid of "):
        write_label_map(wrong, tmp_path / "b.nii", like=scan.source)


def test_writing_where_a_file_stands_for_the_folder_says_so(tmp_path):
    path = save_nifti(tmp_path / "a.nii", counting(2, 3, 4))
    with pytest.raises(RunError, match="cannot write"):
        write_and_read(path, path / "b.nii")


@pytest.mark.parametrize(
    ("file", "suffix"), [("a.nii.gz", ".nii.gz"), ("a.jpg", ".png"), ("a.mhd", ".mha"), ("1.dcm", ".nii.gz"), ("IM001", ".nii.gz")]
)
def test_label_suffix_is_the_scans_own_where_that_can_hold_one(file, suffix):
    assert label_suffix(Source(files=(Path(file),), grid=Grid(shape=(1, 1, 1)))) == suffix
    assert FORMATS[suffix].write is not None


def test_every_hippocampus_case_is_read_with_its_label_map_on_one_grid(shared_data):
    folder = shared_data / "Task04_Hippocampus"
    for path in sorted((folder / "imagesTr").glob("[!.]*.nii.gz")):
        scan, label_map = read_scan([path]), read_label_map(folder / "labelsTr" / path.name)
        assert scan.grid.matches(label_map.grid)
