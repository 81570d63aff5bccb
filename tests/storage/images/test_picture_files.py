"""Pictures: GIF, EXIF, deep colours and animations; what a picture's file says is read, and its label map lies on its pixels."""

import json
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap
from nnseg.core.label_files import LabelFiles
from nnseg.storage.images.pictures import read_picture
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files, write_label_map

ORIENTATION = 274
PIXELS = np.random.default_rng(0).integers(0, 255, (6, 9), np.uint8)


def photo(path: Path, exif: int, pixels: np.ndarray = PIXELS) -> Path:
    """A picture whose EXIF data say how to turn it."""
    data = Image.Exif()
    data[ORIENTATION] = exif
    Image.fromarray(pixels).save(path, exif=data)
    return path


def mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A mask without EXIF data, 1 in its first corner."""
    labels = np.zeros(shape, np.uint8)
    labels[:2, :3] = 1
    Image.fromarray(labels).save(path)
    return labels


@pytest.mark.parametrize("exif", range(1, 9))
def test_a_photo_is_read_upright_as_pillow_turns_it(tmp_path, exif):
    path = photo(tmp_path / "a.png", exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    scan = read_scan(path)
    assert np.array_equal(scan.image[0, 0], upright)
    assert scan.grid == read_header(path).grid == Grid(shape=(1, *upright.shape))
    assert scan.source.grid.shape == (1, 6, 9)
    assert len(scan.notes) == (exif != 1)


@pytest.mark.parametrize("exif", range(1, 9))
def test_a_label_map_of_a_photo_lies_on_the_stored_pixels_and_is_shown_upright(tmp_path, exif):
    scan = read_scan(photo(tmp_path / "a.jpg", exif))
    labels = np.zeros(scan.grid.shape, np.uint8)
    labels[0, :2, :3] = 1
    write_label_map(LabelMap(labels=labels, grid=scan.grid), tmp_path / "b.png", like=scan.source)
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (9, 6)
        assert np.array_equal(ImageOps.exif_transpose(image), labels[0])
    for like in (None, scan.source):
        assert np.array_equal(read_label_map(tmp_path / "b.png", like=like).labels, labels)


def test_a_mask_drawn_upright_or_on_the_stored_pixels_is_told_by_its_shape(tmp_path):
    scan = read_scan(photo(tmp_path / "a.jpg", 6))
    upright = mask(tmp_path / "upright.png", (9, 6))
    read = read_label_map(tmp_path / "upright.png", like=scan.source)
    assert np.array_equal(read.labels[0], upright)
    assert (read.grid, read.notes) == (scan.grid, ())
    stored = mask(tmp_path / "stored.png", (6, 9))
    read = read_label_map(tmp_path / "stored.png", like=scan.source)
    assert np.array_equal(read.labels[0], np.rot90(stored, -1))
    assert (read.grid, read.notes) == (scan.grid, ())


def test_a_mask_whose_shape_fits_both_is_taken_as_drawn_upright_with_a_note(tmp_path):
    scan = read_scan(photo(tmp_path / "a.jpg", 3))
    labels = mask(tmp_path / "a.png", (6, 9))
    read = read_label_map(tmp_path / "a.png", like=scan.source)
    assert np.array_equal(read.labels[0], labels)
    (note,) = read.notes
    assert note.startswith("a.png: is taken as drawn on the upright picture, not on the stored pixels")


def test_bmp_cannot_say_how_a_photo_is_turned(tmp_path):
    scan = read_scan(photo(tmp_path / "a.jpg", 6))
    with pytest.raises(ScanError, match=r"cannot say how a photo is turned.*write .png"):
        write_label_map(LabelMap(labels=np.zeros(scan.grid.shape, int), grid=scan.grid), tmp_path / "b.bmp", like=scan.source)


def test_a_label_map_of_a_turned_photo_as_nifti_or_tiff_is_read_upright_again(tmp_path):
    scan = read_scan(photo(tmp_path / "a.jpg", 6))
    labels = np.arange(54).reshape(scan.grid.shape)
    for name in ("b.nii.gz", "b.mha", "b.tif"):
        write_label_map(LabelMap(labels=labels, grid=scan.grid), tmp_path / name, like=scan.source)
        read = read_label_map(tmp_path / name)
        assert np.array_equal(read.labels, labels)
        assert read.grid.matches(scan.grid)


def test_values_of_a_gif_mask_are_its_greys_whatever_the_order_of_its_palette(tmp_path):
    indices = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)
    for name, palette, values in (("a", (0, 255), (0, 255)), ("b", (255, 0), (255, 0))):
        image = Image.fromarray(indices).convert("P")
        image.putdata(indices.ravel())
        image.putpalette([grey for grey in palette for _ in range(3)])
        image.save(tmp_path / f"{name}.gif")
        assert np.array_equal(read_label_map(tmp_path / f"{name}.gif").labels[0], np.asarray(values)[indices])


def test_a_coloured_gif_is_three_channels_as_a_scan_and_indices_as_labels(tmp_path):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel())
    image.putpalette([0, 0, 0, 200, 10, 20, 30, 40, 50] + [0] * 759)
    image.save(tmp_path / "a.gif", optimize=False)
    assert read_scan(tmp_path / "a.gif").image[:, 0, 0, 1].tolist() == [200, 10, 20]
    assert np.array_equal(read_label_map(tmp_path / "a.gif").labels[0], indices)


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_an_animation_is_refused_by_name(tmp_path, suffix):
    frames = [Image.fromarray(PIXELS + i) for i in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    for read in (read_scan, read_header, read_label_map):
        with pytest.raises(ScanError, match="is an animation of 3 frames; expected one picture"):
            read(tmp_path / f"a.{suffix}")


def test_a_label_map_of_a_gif_is_a_png(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    scan = read_scan(tmp_path / "a.gif")
    assert np.array_equal(scan.image[0, 0], PIXELS)
    label_map = LabelMap(labels=scan.image[0].astype(int), grid=scan.grid)
    write_label_map(label_map, tmp_path / "b.png", like=scan.source)
    assert np.array_equal(read_label_map(tmp_path / "b.png").labels, label_map.labels)


def test_every_gif_of_drive_is_a_mask_of_0_and_255(shared_data):
    for path in sorted((shared_data / "DRIVE").glob("*/*.gif"))[::8]:
        labels = read_label_map(path).labels
        assert labels.shape == (1, 584, 565)
        assert np.unique(labels).tolist() == [0, 255]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colours_of_a_png_keep_their_values(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 65535, (5, 7, channels), np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert np.array_equal(read_scan(tmp_path / "a.png").image[:, 0], np.moveaxis(pixels, -1, 0))
    assert read_header(tmp_path / "a.png").channels == channels


def test_inks_of_a_jpeg_become_colours(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert read_scan(tmp_path / "a.jpg").image.shape == (3, 1, 8, 8)
    assert read_header(tmp_path / "a.jpg").channels == 3


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.jpg", "a.bmp"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match=r"cannot be decoded"):
        read_scan(tmp_path / name)


def test_lengths_of_a_picture_are_voxels_unless_a_file_beside_it_says_its_spacing(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(72, 72))
    scan = read_scan(tmp_path / "a.png")
    assert (scan.source.has_spacing, scan.source.length_unit) == (False, "voxel")
    assert read_scan(tmp_path / "a.png", spacing=(1, 0.3, 0.2)).source.length_unit == "mm"
    (tmp_path / "a.json").write_text('{"PixelSize": [0.1, 0.2], "PixelSizeUnits": "um"}')  # x, y
    source = read_scan(tmp_path / "a.png").source
    assert (source.grid.spacing, source.length_unit) == ((1, 0.0002, 0.0001), "um")
    labels = LabelMap(labels=np.zeros((1, 6, 9), int), grid=read_scan(tmp_path / "a.png").grid)
    write_label_files(labels, tmp_path, "b", like=source, labels=None)
    assert json.loads((tmp_path / "b.json").read_text()) == {"spacing": [1000, 0.2, 0.1], "unit": "um"}
    assert read_label_map(tmp_path / "b.png").grid.matches(source.grid)


def test_a_json_about_other_things_is_no_spacing_and_a_wrong_spacing_is_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')  # of labelme
    assert not read_scan(tmp_path / "a.png").source.has_spacing
    (tmp_path / "a.json").write_text('{"spacing": [0, 1]}')
    with pytest.raises(ScanError, match=r"a.json: has spacing \(1.0, 0.0, 1.0\)"):
        read_scan(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(f'{{"spacing": [1, 1{"0" * 400}]}}')
    with pytest.raises(ScanError, match=r"a.json: has no usable spacing"):
        read_scan(tmp_path / "a.png")


def test_a_file_that_several_images_of_bids_share_has_some_of_their_parts(tmp_path):
    names = ("sub-1_sample-a_acq-2_SEM", "sub-1_sample-b_SEM", "sub-2_sample-a_SEM", "sub-1_**", f"sub-1_{'a_' * 100}SEM")
    for name in names:
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    for name, size in (("sub-1_SEM", 2), ("sub-1_sample-a_SEM", 3), ("sub-1_sample-a_TEM", 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"PixelSize": [size, size], "PixelSizeUnits": "mm"}))
    sizes = [read_scan(tmp_path / f"{name}.png").source.grid.spacing[2] for name in names]
    assert sizes == [3, 2, 1, 1, 1]  # of the last two nothing is known


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is looked for once
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ScanError, match=r"a.png: is not an image"):
        read_scan(tmp_path / "a.png")
    assert not (tmp_path / "started").exists()


def test_pixel_sizes_of_bids_microscopy_are_read(shared_data):
    folder = shared_data / "AXON_SEM_BIDS"
    source = read_scan(folder / "sub-rat2/micr/sub-rat2_sample-data5_SEM.png").source
    assert (source.grid.spacing[1:], source.length_unit) == (pytest.approx((0.093e-3, 0.093e-3), rel=1e-12), "um")


def test_ppm_and_pgm_are_read_as_stored(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.ppm")
    np.testing.assert_array_equal(np.moveaxis(read_picture(tmp_path / "a.ppm").voxels[:, 0], 0, -1), colours)
    deep = np.array([[0, 1, 65535]], np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# a comment\n3 1\n65535\n" + deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_picture(tmp_path / "a.pgm").voxels[0, 0], deep)


def test_pgm_whose_values_pillow_would_scale_is_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 2\n\x00\x01\x02")
    with pytest.raises(ScanError, match="has values up to 2; expected 255 or 65535"):
        read_picture(tmp_path / "a.pgm")


def test_masks_in_one_colour_on_black_are_masks(tmp_path):
    mask = np.zeros((2, 4, 5, 3), np.uint8)
    mask[0, 1:3, 1:3], mask[1, 3, 3] = (255, 0, 0), (0, 0, 200)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, picture in zip(paths, mask, strict=True):
        Image.fromarray(picture).save(path)
    labels = read_label_map(LabelFiles(paths=tuple(paths), coding="masks", values={"0": 1, "1": 2})).labels
    assert {value: int((labels == value).sum()) for value in (1, 2)} == {1: 4, 2: 1}
    mask[0, 0, 0] = (0, 255, 0)
    Image.fromarray(mask[0]).save(paths[0])
    with pytest.raises(ScanError, match="has 3 channels; expected a mask of one"):
        read_label_map(LabelFiles(paths=tuple(paths), coding="masks", values={"0": 1, "1": 2}))
