"""TIFF: axes, voxel sizes and codecs of ImageJ, OME and others, by tifffile."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files

VOLUME = np.random.default_rng(0).integers(0, 255, (5, 20, 30), np.uint8)


def saved(path: Path, voxels: np.ndarray = VOLUME, **options) -> Path:
    tifffile.imwrite(path, voxels, **({"photometric": "minisblack"} | options))
    return path


def read(path: Path) -> Scan:
    """The scan, of which the header says the same."""
    scan, header = read_scan(path), read_header(path)
    assert (header.grid, header.channels) == (scan.grid, len(scan.image))
    return scan


IMAGEJ = {"imagej": True, "resolution": (5, 2.5), "metadata": {"axes": "ZYX", "spacing": 1.5, "unit": "um"}}


@pytest.mark.parametrize("unit", ["um", "micron", r"\u00B5m"])
def test_voxel_size_of_imagej(tmp_path, unit):
    scan = read(saved(tmp_path / "a.tif", **(IMAGEJ | {"metadata": {"axes": "ZYX", "spacing": 1.5, "unit": unit}})))
    assert scan.grid.spacing == (0.0015, 0.0004, 0.0002)
    assert (scan.source.length_unit, scan.notes) == ("um", ())
    assert np.array_equal(scan.image[0], VOLUME)


def test_voxel_size_of_ome_in_its_units(tmp_path):
    sizes = {"PhysicalSizeX": 200, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.4, "PhysicalSizeZ": 3, "PhysicalSizeZUnit": "mm"}
    scan = read(saved(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", **sizes}))
    assert (scan.grid.spacing, scan.source.length_unit) == ((3, 0.0004, 0.0002), "nm")


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"imagej": True, "resolution": (5, 5), "metadata": {"axes": "ZYX"}},
        {"imagej": True, "resolution": (5, 5), "metadata": {"axes": "ZYX", "unit": "pixel", "spacing": 2}},
        {"metadata": {"axes": "ZYX", "PhysicalSizeX": 2, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 2}, "ome": True},
    ],
)
def test_without_a_unit_of_length_there_is_no_voxel_size_which_is_said(tmp_path, options):
    scan = read(saved(tmp_path / "a.tif", **options))
    assert (scan.grid.spacing, scan.source.has_spacing) == ((1, 1, 1), False)
    (note,) = scan.notes
    assert note.startswith("a.tif: holds no voxel size (of ImageJ, OME or Micro-Manager)")
    given = read_scan(tmp_path / "a.tif", spacing=(3, 2, 1))
    assert (given.grid.spacing, given.source.has_spacing, given.notes) == ((3, 2, 1), True, ())


def test_imagej_without_a_distance_of_slices_gets_a_note(tmp_path):
    path = saved(tmp_path / "a.tif", imagej=True, resolution=(5, 5), metadata={"axes": "ZYX", "unit": "um"})
    scan = read_scan(path)
    assert scan.grid.spacing == (0.001, 0.0002, 0.0002)
    assert scan.notes == ("a.tif: holds no distance between slices; it was taken as 1 um [NS-S027]",)
    assert read_scan(path, spacing=(0.003, 9, 9)).grid.spacing == (0.003, 0.0002, 0.0002)


def test_the_file_beside_comes_before_the_tags(tmp_path):
    path = saved(tmp_path / "a.tif", **IMAGEJ)
    (tmp_path / "a.json").write_text('{"spacing": [3, 2, 1]}')
    assert (read(path).grid.spacing, read(path).source.length_unit) == ((3, 2, 1), "mm")


@pytest.mark.parametrize("unit", ["imagej", "ome"])
def test_a_label_map_keeps_the_voxel_size_in_its_tags(tmp_path, unit):
    options = IMAGEJ if unit == "imagej" else {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.4}}
    scan = read_scan(saved(tmp_path / "a.tif", **options))
    label_map = LabelMap(labels=np.arange(3000).reshape(5, 20, 30), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    again = read_label_map(file)
    assert np.array_equal(again.labels, label_map.labels)
    assert again.grid.matches(scan.grid, 1e-9)
    assert again.source.length_unit == "um"
    with tifffile.TiffFile(file) as written:
        sizes = tifffile.xml2dict(written.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (sizes["PhysicalSizeX"], sizes["PhysicalSizeXUnit"]) == (0.2, "µm")


def test_a_label_map_without_sizes_gets_the_scans_and_one_of_other_sizes_does_not(tmp_path):
    scan = read_scan(saved(tmp_path / "a.tif", **IMAGEJ))
    assert read_label_map(saved(tmp_path / "b.tif"), like=scan.source).grid == scan.grid
    other = saved(tmp_path / "c.tif", **(IMAGEJ | {"resolution": (4, 4)}))
    assert read_label_map(other, like=scan.source).grid.spacing == (0.0015, 0.00025, 0.00025)


CODECS = ["lzw", "zlib", "zstd", "lzma", "packbits", "png", "jpeg2000", "lerc", "webp", "jpegxl"]
LOSSLESS = {"webp": {"level": -1}, "jpeg2000": {"level": 0}, "jpegxl": {"lossless": True}}


@pytest.mark.parametrize("codec", CODECS)
def test_lossless_codecs_give_back_the_pixels(tmp_path, codec):
    colours = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
    options = {"photometric": "rgb", "compression": codec, "compressionargs": LOSSLESS.get(codec)}
    path = saved(tmp_path / "a.tif", colours, **options)
    assert np.array_equal(read(path).image[:, 0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize(
    "options", [{"predictor": True}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}, {"rowsperstrip": 3}]
)
@pytest.mark.parametrize("codec", ["lzw", "zlib"])
def test_predictors_tiles_and_byte_orders_do_not_change_a_value(tmp_path, codec, options):
    voxels = np.random.default_rng(0).integers(0, 65535, (3, 20, 30), np.uint16)
    assert np.array_equal(read(saved(tmp_path / "a.tif", voxels, compression=codec, **options)).image[0], voxels)


def test_a_jpeg_in_a_tiff_is_decoded_to_colours(tmp_path):
    colours = np.full((64, 48, 3), (200, 30, 60), np.uint8)
    scan = read(saved(tmp_path / "a.tif", colours, photometric="rgb", compression="jpeg", compressionargs={"level": 95}))
    assert scan.image.mean(axis=(1, 2, 3)) == pytest.approx((200, 30, 60), abs=3)


@pytest.mark.parametrize("codec", ["group3", "group4", "tiff_ccitt"])
def test_fax_codes_give_masks(tmp_path, codec):
    from PIL import Image

    mask = np.zeros((20, 32), bool)
    mask[3:9, 5:17] = True
    Image.fromarray(mask).save(tmp_path / "a.tif", compression=codec)
    labels = read_label_map(tmp_path / "a.tif").labels[0]
    assert np.array_equal(labels == labels[5, 8], mask)


def test_an_unknown_compression_is_named_and_not_called_damage(tmp_path):
    path = saved(tmp_path / "a.tif", VOLUME[0])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags["Compression"].overwrite(32767)
    with pytest.raises(ScanError, match=r"compressed by a method that cannot be decoded here \(SONY_ARW\); expected LZW") as caught:
        read_scan(path)
    assert "damage" not in str(caught.value)


@pytest.mark.parametrize("data", ["DRIVE"])
def test_lzw_images_of_drive_are_read(shared_data, data):
    scan = read(next((shared_data / data / "images").glob("*.tif")))
    assert scan.image.shape == (3, 1, 584, 565)
    assert scan.notes == ()


def test_channels_are_where_imagej_ome_and_tifffile_say(tmp_path):
    two = VOLUME[:2]
    for name, options in {
        "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
        "ome": {"ome": True, "metadata": {"axes": "CYX"}},
        "shaped": {"metadata": {"axes": "CYX"}},
    }.items():
        scan = read(saved(tmp_path / f"{name}.tif", two, **options))
        assert np.array_equal(scan.image[:, 0], two)
        assert (scan.source.is_2d, scan.notes) == (True, ())
    scan = read(saved(tmp_path / "zc.tif", VOLUME[:4].reshape(2, 2, 20, 30), imagej=True, metadata={"axes": "ZCYX"}))
    assert np.array_equal(scan.image, VOLUME[:4].reshape(2, 2, 20, 30).swapaxes(0, 1))


def test_a_constant_channel_of_microscopy_is_no_transparency(tmp_path):
    voxels = VOLUME[:2].copy()
    voxels[1] = 7
    assert len(read(saved(tmp_path / "a.tif", voxels, imagej=True, metadata={"axes": "CYX"})).image) == 2


def test_few_pages_of_a_file_that_says_nothing_are_slices_with_a_note(tmp_path):
    scan = read(saved(tmp_path / "a.tif", VOLUME[:2]))
    assert scan.image.shape == (1, 2, 20, 30)
    assert "its 2 pages were taken as slices; if they are channels, save one file for each" in scan.notes[0]
    assert "pages" not in " ".join(read(saved(tmp_path / "b.tif")).notes)
    stated = saved(tmp_path / "c.tif", VOLUME[:2], imagej=True, metadata={"axes": "ZYX"})
    assert "pages" not in " ".join(read(stated).notes)


def test_a_small_last_axis_is_channels_with_a_note(tmp_path):
    pixels = np.moveaxis(VOLUME[:2], 0, -1)
    scan = read(saved(tmp_path / "a.tif", np.ascontiguousarray(pixels)))  # saved as 20 pages of 30 x 2
    assert np.array_equal(scan.image[:, 0], VOLUME[:2])
    assert scan.notes == ("a.tif: its last axis of 2 was taken as channels [NS-S020]",)


def test_time_alone_is_slices_with_a_note_and_with_slices_refused(tmp_path):
    scan = read(saved(tmp_path / "a.tif", imagej=True, metadata={"axes": "TYX"}))
    assert np.array_equal(scan.image[0], VOLUME)
    assert "its 5 time points were taken as slices" in scan.notes[0]
    both = saved(tmp_path / "b.tif", VOLUME[:4].reshape(2, 2, 20, 30), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ScanError, match=r"has 2 time points of 2 slices \(axes TZYX\)"):
        read_scan(both)


def test_colours_of_a_palette_are_channels_of_a_scan_and_indices_of_a_label_map(tmp_path):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1], colours[:, 2] = (200 << 8, 10 << 8, 20 << 8), (30 << 8, 40 << 8, 50 << 8)
    path = saved(tmp_path / "a.tif", indices, photometric="palette", colormap=colours)
    assert read(path).image[:, 0, 0, 1].tolist() == [200, 10, 20]
    assert np.array_equal(read_label_map(path).labels[0], indices)


def test_further_images_of_another_size_are_named(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(VOLUME[0])
        file.write(VOLUME[0, ::2, ::2])
    assert read(tmp_path / "a.tif").notes == ("a.tif: holds further images (10 x 15), which are not read [NS-S025]",)


@pytest.mark.parametrize("exif", [3, 6])
def test_a_turned_tiff_is_read_upright_and_its_label_map_says_the_same(tmp_path, exif):
    path = saved(tmp_path / "a.tif", VOLUME[0], extratags=[(274, "H", 1, exif, True)])
    scan = read(path)
    assert np.array_equal(scan.image[0, 0], np.rot90(VOLUME[0], {3: 2, 6: -1}[exif]))
    label_map = LabelMap(labels=scan.image[0].astype(int), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    with tifffile.TiffFile(file) as written:
        assert np.array_equal(written.asarray(), VOLUME[0])
        assert written.pages.first.tags["Orientation"].value == exif
    assert np.array_equal(read_label_map(file).labels, label_map.labels)


def test_an_ome_image_whose_other_file_is_missing_is_refused(tmp_path):
    saved(tmp_path / "a.ome.tif", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        text = file.ome_metadata
    assert 'SizeZ="5"' in text
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as file:  # it promises five planes and has one
        file.write(VOLUME[0], description=text.encode(), metadata=None)
    with pytest.raises(ScanError, match="is damaged"):
        read_scan(tmp_path / "b.ome.tif")


def test_a_truncated_jpeg_in_a_tiff_is_refused_and_not_filled(tmp_path):
    path = saved(tmp_path / "a.tif", VOLUME, compression="jpeg")
    with tifffile.TiffFile(path) as file:
        end = max(page.dataoffsets[0] + page.databytecounts[0] for page in file.pages)
    path.write_bytes(path.read_bytes()[: end - 100])
    with pytest.raises(ScanError, match="is damaged"):
        read_scan(path)
