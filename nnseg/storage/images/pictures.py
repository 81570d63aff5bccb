"""Pictures: PNG, BMP, GIF, PPM and JPEG through Pillow, PNG of 16-bit colours through imagecodecs."""

from __future__ import annotations

import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from nnseg.core.errors import ScanError, is_fault
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.core.limits import PILLOW_FORMATS, check_limit, limit
from nnseg.storage.images.exif import ORIENTATION, exif_note, orientation_of, turned
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, flat_raw, placeholder
from nnseg.storage.images.sidecar import read_sidecar
from nnseg.storage.images.unpack import PART
from nnseg.system.regular import open_regular

Voxels = npt.NDArray[Any]

CONVERTED = {"PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
"""What pictures are read as whose colours are no intensities, by Pillow's names."""

DEEPEST_PIXEL = 8
"""Bytes of a pixel of four colours of 16 bits."""

RUN_LENGTHS, SLOW_BYTES, LARGEST_GIF_PIXEL = (1, 2), 2**22, 4
"""Compressions of BMP by run lengths; bytes that Pillow reads in about two seconds where it does so in Python; and those that a
pixel of a GIF may have besides."""

MOST_PARTS = 10_000
"""Chunks of PNG without pixels, or segments of JPEG before them."""

JPEG_MAGIC = b"\xff\xd8"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

DEEP_COLOURS = {(16, 2), (16, 4), (16, 6)}
"""Bits and colour types of PNG that Pillow would cut to 8 bits. Source: PNG specification, 11.2.1 (IHDR)."""


def read_picture(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The pixels of a PNG, BMP, GIF, PPM or JPEG file as one slice, colours as channels.

    Args:
        options: as labels, the indices of a palette are kept, or the greys of a GIF's grey palette, whose order is free; otherwise
            they become colours.

    Raises:
        ScanError: no image, truncated, or an animation.
    """
    try:
        with _opened(path) as image:
            _check_still(path, image)
            exif = orientation_of(image.getexif().get(ORIENTATION))
            if image.format == "PNG" and not options.only_header:
                _check_sums(path)
            pixels = _pixels(path, image, options)
    except (OSError, ValueError, SyntaxError, RuntimeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        found = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded ({error})"
        raise ScanError.at(path, found, "a complete picture", "copy or export it again") from error
    colours = pixels.reshape(*pixels.shape[:2], -1)
    raw = flat_raw(np.moveaxis(colours, -1, 0)[:, None], read_sidecar(path), options, transparency=True)
    return turned(raw, exif, *exif_note(exif))


def _opened(path: Path) -> Image.Image:
    """A picture of which the header has been read.

    Raises:
        ScanError: it has more pixels than a picture may have.
    """
    with open_regular(path) as file:
        start, size = file.read(34), file.seek(0, os.SEEK_END)
    _check_slow(path, start, size)
    if re.match(rb"P[1-6]", start):
        _check_range(path)
    check_limit("plane_pixels", size // DEEPEST_PIXEL, path, f"has {size:,} bytes", ScanError, "save it again", "NS-S037")
    if start[:8] == PNG_MAGIC:
        _check_pixels(path, int.from_bytes(start[16:20]), int.from_bytes(start[20:24]))
        _check_chunks(path)
    if start[:2] == JPEG_MAGIC:
        _check_segments(path)
        _check_scans(path)
    Image.MAX_IMAGE_PIXELS = limit("plane_pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such a file is refused below
            image = Image.open(path, formats=PILLOW_FORMATS)
    except Image.DecompressionBombError:
        _check_pixels(path, 2 * limit("plane_pixels"), 1)
        raise
    _check_pixels(path, image.width, image.height)
    return image


def _check_slow(path: Path, start: bytes, size: int) -> None:
    """Raise ScanError for a long file that Pillow reads in Python: run lengths of BMP, PPM of text, blocks of a small GIF."""
    kind, most = "", SLOW_BYTES
    if start[:2] == b"BM" and int.from_bytes(start[30:34], "little") in RUN_LENGTHS:
        kind = "run lengths"
    elif re.match(rb"P[123]", start):
        kind = "numbers as text"
    elif start[:3] == b"GIF":
        kind, pixels = "a GIF", int.from_bytes(start[6:8], "little") * int.from_bytes(start[8:10], "little")
        most += LARGEST_GIF_PIXEL * pixels
    if kind and size > most:
        raise ScanError.at(path, f"has {size:,} bytes of {kind}", f"at most {most:,}", "save it as PNG", "NS-S037")


def _check_chunks(path: Path) -> None:
    """Raise ScanError for a PNG file of very many chunks without pixels, over which Pillow goes one by one in Python."""
    count = 0
    with open_regular(path) as file:
        file.seek(len(PNG_MAGIC))
        while len(start := file.read(8)) == 8 and count <= MOST_PARTS:
            count += start[4:] != b"IDAT"
            file.seek(int.from_bytes(start[:4]) + 4, os.SEEK_CUR)
    _check_parts(path, count)


def _check_segments(path: Path) -> None:
    """Raise ScanError for a JPEG file of very many segments, or bytes between them, before its pixels, as `_check_chunks`.

    Source: ITU-T T.81, B.1.1: a marker is FF and another byte; all but some have a length of two bytes.
    """
    count = 0
    with open_regular(path) as file:
        file.seek(len(JPEG_MAGIC))
        while len(marker := file.read(2)) == 2 and marker != b"\xff\xda" and count <= MOST_PARTS:
            count += 1
            if marker[0] != 0xFF or marker[1] == 0xFF:
                file.seek(-1, os.SEEK_CUR)
            elif marker[1] and not 0xD0 <= marker[1] <= 0xD9:
                file.seek(max(0, int.from_bytes(file.read(2)) - 2), os.SEEK_CUR)
    _check_parts(path, count)


def _check_parts(path: Path, count: int) -> None:
    if count > MOST_PARTS:
        found, expected = f"has over {MOST_PARTS:,} parts without pixels", "a picture with little else"
        raise ScanError.at(path, found, expected, "save it again", "NS-S037")


def _check_scans(path: Path) -> None:
    """Raise ScanError for a JPEG file that goes over all its pixels very often, which takes hours where each pass has a few bytes.

    Source: ITU-T T.81, B.1.1.2 and B.1.1.5: each pass begins with this marker, which is nowhere within its data.
    """
    found, last = 0, b""
    with open_regular(path) as file:
        while part := file.read(PART):
            found, last = found + (last + part).count(b"\xff\xda"), part[-1:]
    check_limit("jpeg_scans", found, path, "has {:,} passes over its pixels", ScanError, "save it again", "NS-S037")


def _check_pixels(path: Path, width: int, height: int) -> None:
    found = f"has {width} x {height} pixels" if height > 1 else "has over {:,} pixels"
    check_limit("plane_pixels", width * height, path, found, ScanError, "cut it", "NS-S037")


def _check_still(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("GIF", "PNG"):  # further pictures in a JPEG are previews
        raise ScanError.at(path, f"is an animation of {frames} frames", "one picture", "export the frames as files, or as a TIFF")


def _check_sums(path: Path) -> None:
    """Raise ScanError if the pixels of a PNG file are not what was written: Pillow does not look at their checksums.

    Source: PNG specification, 5.3 (chunk layout): length, type, data, CRC of type and data.
    """
    with open_regular(path) as file:
        file.seek(len(PNG_MAGIC))
        while len(start := file.read(8)) == 8:
            left, found = int.from_bytes(start[:4], "big"), zlib.crc32(start[4:])
            if start[4:] != b"IDAT":
                file.seek(left + 4, os.SEEK_CUR)
                continue
            while part := file.read(min(left, PART)):
                left, found = left - len(part), zlib.crc32(part, found)
            if found.to_bytes(4, "big") != file.read(4):
                raise ScanError.at(path, "its pixels do not match their checksum", "an intact picture", "copy it again")


def _check_range(path: Path) -> None:
    """Raise ScanError for a PPM or PGM file whose values Pillow would scale, since its highest is neither 255 nor 65535."""
    with open_regular(path) as file:
        header = re.sub(rb"#[^\n]*\n", b" ", file.read(4096)).split(maxsplit=4)
    if len(header) < 4:  # comments, over which Pillow goes byte by byte
        raise ScanError.at(path, "has no complete header in its first 4096 bytes", "size and highest value", "save it as PNG")
    if header[3] not in (b"255", b"65535"):
        raise ScanError.at(path, f"has values up to {header[3].decode(errors='replace')}", "255 or 65535", "save it as PNG")


def _pixels(path: Path, image: Image.Image, options: ReadOptions) -> Voxels:
    wanted = _wanted_mode(image, options)
    if options.only_header and not wanted.endswith("A"):  # whether transparency counts depends on its pixels
        one = np.asarray(Image.new(wanted, (1, 1)))
        deep = np.uint16 if _has_deep_colours(path) else one.dtype
        return placeholder((image.height, image.width, *one.shape[2:]), deep)
    if _has_deep_colours(path):
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _wanted_mode(image: Image.Image, options: ReadOptions) -> str:
    if image.mode != "P":
        return CONVERTED.get(image.mode, image.mode)
    if options.as_labels:
        palette = np.reshape(image.getpalette() or [], (-1, 3))
        return "L" if image.format == "GIF" and (palette == palette[:, :1]).all() else "P"
    return "RGBA" if "transparency" in image.info else "RGB"


def _has_deep_colours(path: Path) -> bool:
    with open_regular(path) as file:
        start = file.read(26)
    return start[:8] == PNG_MAGIC and tuple(start[24:26]) in DEEP_COLOURS


def write_picture(voxels: Voxels, path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a label map of one slice as PNG (values to 65535) or BMP (values to 255).

    A photo that EXIF says to turn gets a PNG that says the same, so that its pixels lie on the stored ones and are shown upright.

    Raises:
        ScanError: several slices, or values that the format cannot hold; BMP of a turned photo.
    """
    bmp = path.suffix.lower() == ".bmp"
    limit, lowest, highest = 255 if bmp else 65535, int(voxels.min()), int(voxels.max())
    if voxels.shape[0] != 1 or lowest < 0 or highest > limit:
        found = f"cannot hold a label map of shape {voxels.shape} with values {lowest} to {highest}"
        raise ScanError.at(path, found, f"one slice with values 0 to {limit}", "write .tif, .mha or .nii.gz")
    if bmp and like.exif != 1:
        raise ScanError.at(path, "cannot say how a photo is turned", "a format with EXIF data", "write .png")
    image = Image.fromarray(voxels[0].astype(np.uint8 if highest < 256 else np.uint16))
    image.save(path, **_density(like.files[0]), **_turn(like.exif))


def _turn(exif: int) -> dict[str, Any]:
    data = Image.Exif()
    data[ORIENTATION] = exif
    return {"exif": data} if exif != 1 else {}


def _density(source: Path) -> dict[str, Any]:
    """The dots per inch of the scan's own picture, if it has them."""
    try:
        with _opened(source) as image:
            return {"dpi": image.info["dpi"]}
    except (OSError, KeyError) as error:
        if is_fault(error):
            raise
        return {}
