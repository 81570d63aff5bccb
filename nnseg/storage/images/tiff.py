"""TIFF files through tifffile: a page or a volume of pages, with the axes and voxel sizes of ImageJ, OME and Micro-Manager."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from nnseg.core.dataset import list_some
from nnseg.core.errors import ScanError, is_fault
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.core.limits import check_limit, limit
from nnseg.storage.images.exif import ORIENTATION, exif_note, orientation_of, turned
from nnseg.storage.images.raw import (
    FEW,
    READ_DEFAULTS,
    RawImage,
    ReadOptions,
    StatedSize,
    check_held,
    check_size,
    flat_raw,
    placeholder,
)
from nnseg.storage.images.sidecar import read_sidecar
from nnseg.storage.images.tiff_spacing import X_RESOLUTION, Y_RESOLUTION, VoxelSize, ome_sizes, voxel_size
from nnseg.system.regular import open_regular

Voxels = npt.NDArray[Any]


SMALL = 8
"""Rows and columns of an image are at least as many."""

AXIS_NAMES: Final = {
    "S": "colours", "C": "channels", "Z": "slices", "I": "pages", "Q": "pages", "T": "time points", "A": "angles", "E": "energies",
    "P": "positions or phases", "R": "tiles or scenes", "H": "lifetimes", "L": "exposures", "V": "events", "M": "mosaic tiles",
}  # fmt: skip
"""Source: tifffile's AXES_NAMES."""

PACKING: Final = {1: "none", 8: "deflate", 32946: "deflate", 50013: "deflate"}
"""How much a strip may unpack to, by its compression, see `MOST_PACKED`; a strip of another one may be small."""

LARGEST_PART, SMALL_PART = 4, 2**24
"""A strip or tile has at most so many times the bytes of the image, or so many bytes."""

DESCRIPTION, LONGEST_DESCRIPTION = 270, 2**24
"""Tag of a text about the file, of which OME, ImageJ and others make objects of Python, and its bytes at most."""

EMBEDDED: Final = (33003, 33004, 33005, 34712, 34933)
"""Compressions whose strips are pictures with sizes of their own: JPEG 2000 and PNG."""

EMBEDDED_BYTES, SIZES = 4096, {b"IHDR": 4, b"\xff\x4f\xff\x51": 8}
"""Where such a picture states its width and height, behind a marker. Source: PNG 11.2.2; ISO/IEC 15444-1, A.5.1."""

PICTURES: Final = {
    **dict.fromkeys((6, 7, 33007, 34892), "jpeg8_decode"),
    **dict.fromkeys((34927, 50001), "webp_decode"),
    **dict.fromkeys((50002, 52546), "jpegxl_decode"),
    **dict.fromkeys((22610, 34934), "jpegxr_decode"),
    34887: "lerc_decode",
}
"""Compressions whose strips are pictures too, and their decoders, which compare sizes before they decode."""

_OTHER_TYPE = re.compile(r"invalid out\.dtype=.*\b(bool|u?int\d+|float\d+)\W*$")
_OTHER_SHAPE = re.compile(r"invalid out\.shape=\(1,\), shape=\(([\d, ]+)\)")
"""What a decoder of imagecodecs says where it is given an array of another type, or shape, than its picture has."""

UNNAMED = ("I", "Q")
"""Axes of pages about which a file says nothing."""

INCOMPLETE = re.compile(r"OME series (failed to read|missing|is missing|contains index)|MMStack (series )?is missing")
"""Warnings of tifffile about images that it fills with zeros."""


def read_tiff(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The pixels of a TIFF file: one page is a slice, several pages of equal size are a volume, colours are channels.

    Axes are those that ImageJ, OME or tifffile have written; the voxel size is that of a file CASE.json, or of ImageJ, OME or
    Micro-Manager. Dots per inch mean nothing.

    Raises:
        ScanError: no image, truncated, of a compression that is not known, or with more axes than a volume with channels has.
    """
    with open_tiff(path) as file:
        series, page = file.series[0], file.series[0].keyframe
        _check_announced(path, series, options)
        exif, size = orientation(page), voxel_size(file)
        pixels, axes = _pixels(file, series, options)
        stated, others = series.axes if series.kind in ("ome", "imagej") else "", _others(path, file)
    voxels, is_2d, notes = _arranged(path, pixels, axes, stated=bool(stated))
    known, of_size = _known_size(read_sidecar(path), size, options, is_2d=is_2d)
    raw = flat_raw(voxels, known, options, is_2d=is_2d, transparency="S" in axes)
    return turned(raw, exif, *notes, *of_size, *others, *exif_note(exif))


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """A TIFF file that is as long as its first image needs, of a known compression; whatever fails within is an error of the file.

    Raises:
        ScanError: no image, truncated, or of a compression that is not known.
    """
    try:
        with _logged_errors() as errors, tifffile.TiffFile(path) as file:
            _check_pages(path, file)
            _check_codec(path, file.series[0].keyframe)
            _check_length(path, file.series[0])
            yield file
    except ScanError:
        raise
    except Exception as error:  # tifffile raises whatever a damaged file leads it into
        raise ScanError.at(path, f"cannot be decoded ({error})", "a complete TIFF", "copy or export it again", "NS-S004") from error
    if errors:
        raise ScanError.at(path, f"is damaged ({errors[0]})", "a complete TIFF", "copy it again; it may be truncated")


def orientation(page: Any) -> int:
    """How a page says that it is to be turned, 1 to 8."""
    tag = page.tags.get(ORIENTATION)
    return orientation_of(int(tag.value) if tag is not None and isinstance(tag.value, int) else None)


def known_size(path: Path, file: tifffile.TiffFile, options: ReadOptions) -> StatedSize:
    """The pixel size of a two-dimensional image: of CASE.json, of its tags, or as the options say.

    Raises:
        ScanError: CASE.json gives a spacing that is none.
    """
    known, _ = _known_size(read_sidecar(path), voxel_size(file), options, is_2d=True)
    return known if known.spacing else StatedSize(spacing=options.spacing)


def _check_pages(path: Path, file: tifffile.TiffFile) -> None:
    """Raise ScanError for more pages than are read, or than OME describes; their places are followed, and nothing else is read."""
    if (text := file.pages.first.tags.get(DESCRIPTION)) is not None and text.count > LONGEST_DESCRIPTION:
        raise ScanError.at(
            path, f"has a description of {text.count:,} bytes", f"at most {LONGEST_DESCRIPTION:,}", "export it again"
        )
    xml = file.ome_metadata or ""
    check_limit("frames", xml.count("<") // 2, path, "has {:,} elements or more in its OME-XML", ScanError, "divide it", "NS-S037")
    further, described = len(file.pages.first.subifds or ()), _described_planes(xml)
    for name, count, found in (
        ("pages", _count_pages(file), "has {:,} pages or more"),
        ("pages", further, "has {:,} further pages behind its first"),
        ("frames", described, "has {:,} planes by its OME-XML"),
    ):
        check_limit(name, count, path, found, ScanError, "divide it", "NS-S037")


def _count_pages(file: tifffile.TiffFile) -> int:
    """Number of pages; no more are looked for than may be read, since their places may lead round in a ring."""
    most = limit("pages")
    try:
        file.pages[most]
    except IndexError:
        return len(file.pages)
    except tifffile.TiffFileError:  # it is there, and damaged
        pass
    return most + 1


def _described_planes(xml: str) -> int:
    """The most planes of an image, or of a part of it, by OME's description: tifffile makes a list of them before it reads any.

    Expat refuses entities that grow.
    """
    elements = ElementTree.fromstring(xml).iter() if xml else ()  # noqa: S314
    sizes = (("SizeZ", "SizeC", "SizeT"), ("PlaneCount",), ("IFD",))
    counts = (math.prod(int(element.get(name, "1")[:20]) for name in names) for element in elements for names in sizes)
    return max(counts, default=0)


def _check_codec(path: Path, page: Any) -> None:
    """Raise ScanError if nothing here decodes the file's compression: that is no damage."""
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError as error:
        name = getattr(page.compression, "name", f"number {int(page.compression)}")
        found = f"is compressed by a method that cannot be decoded here ({name})"
        raise ScanError.at(path, found, "LZW, deflate, Zstandard, JPEG or none", "save it with one of them") from error


def _check_length(path: Path, series: Any) -> None:
    """Raise ScanError if the file ends before its pixels do: JPEG's decoder fills what is missing with grey."""
    pages = [page for page in series.pages if page is not None]
    ends = [offset + count for page in pages for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    size = path.stat().st_size
    if series.kind != "ome" and max(ends, default=0) > size:  # OME's pages may be in other files
        raise ScanError.at(
            path, f"is damaged (it has {size} bytes)", f"{max(ends)} bytes", "copy it again; it may be truncated", "NS-S002"
        )


def _check_announced(path: Path, series: Any, options: ReadOptions) -> None:
    """Raise ScanError for more pixels than can be read, or than the file can hold, and for strips or tiles that unpack to more."""
    page, pages = series.keyframe, [page for page in series.pages if page is not None]
    if page.compression in (*EMBEDDED, *PICTURES) and not options.only_header:
        for one in pages:
            _check_embedded(path, one)
    held = None if series.kind == "ome" else _held(series)  # OME's pages may be in other files
    check_size(path, series.shape, series.dtype, options, held=held, packing=_packing(page))
    part, whole = (math.prod(shape) * page.dtype.itemsize for shape in (page.chunks, page.shape))
    if part > LARGEST_PART * whole + SMALL_PART:
        found = f"has strips or tiles of {' x '.join(map(str, page.chunks))} in an image of {' x '.join(map(str, page.shape))}"
        raise ScanError.at(path, found, "parts that are not much larger than the image", "export it again")


def _held(series: Any) -> int:
    return sum(sum(page.databytecounts) for page in series.pages if page is not None)


def _packing(page: Any) -> str:
    return PACKING.get(int(page.compression), "any")


def check_held_pixels(path: Path, series: Any) -> None:
    """Raise ScanError for an image with more pixels than the file can hold, however much memory there is."""
    check_held(path, series.shape, series.dtype, _held(series), _packing(series.keyframe))


def _check_embedded(path: Path, page: Any) -> None:
    with open_regular(path) as file:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            check_picture(path, page, file.read(count if page.compression in PICTURES else EMBEDDED_BYTES))


def check_picture(path: Path, page: Any, content: bytes) -> None:
    """Raise ScanError for a picture in a strip or tile with more pixels than that has: its decoder would unpack all of them.

    Args:
        content: of the strip or tile.
    """
    if page.compression not in (*EMBEDDED, *PICTURES):
        return
    if page.compression in PICTURES:
        shape = _picture_shape(content, PICTURES[page.compression])
    else:
        start = content[:EMBEDDED_BYTES]
        shape = next((_two_numbers(start, start.find(magic) + at) for magic, at in SIZES.items() if magic in start), ())
    if math.prod(shape) > max(math.prod(page.chunks), SMALL_PART):
        sizes = [" x ".join(map(str, size)) for size in (shape, page.chunks)]
        found = f"has a picture of {sizes[0]} pixels in a strip or tile of {sizes[1]}"
        raise ScanError.at(path, found, "as many as the strip or tile has", "export it again")


def _two_numbers(start: bytes, place: int) -> tuple[int, ...]:
    return tuple(int.from_bytes(start[place + i : place + i + 4]) for i in (0, 4))


def _picture_shape(content: bytes, decoder: str, dtype: str = "uint8") -> tuple[int, ...]:
    """The shape of a picture, found before its pixels are decoded; () if it cannot be decoded."""
    try:
        getattr(imagecodecs, decoder)(content, out=np.empty(1, dtype))
    except Exception as error:  # whatever a damaged picture leads a decoder into
        other = _OTHER_TYPE.search(str(error))
        if other and other[1] != dtype:
            return _picture_shape(content, decoder, other[1])
        match = _OTHER_SHAPE.search(str(error))
        return tuple(map(int, re.findall(r"\d+", match[1]))) if match else ()
    return ()


def _pixels(file: tifffile.TiffFile, series: Any, options: ReadOptions) -> tuple[Voxels, str]:
    """The pixels, and a letter for each of their axes; colours of a palette where it is no lookup table of ImageJ."""
    coloured = series.keyframe.colormap is not None and not (options.as_labels or file.is_imagej)
    axes, shape = series.axes, series.shape
    transparent = "S" in axes and shape[axes.index("S")] in (2, 4)
    if options.only_header and not transparent:
        pixels = placeholder((*shape, 3), np.uint8) if coloured else placeholder(shape, series.dtype)
    elif coloured:
        pixels = np.moveaxis(series.keyframe.colormap >> 8, 0, -1).astype(np.uint8)[series.asarray()]
    else:
        pixels = series.asarray()
    return pixels, axes + "S" * coloured


def _others(path: Path, file: tifffile.TiffFile) -> tuple[str, ...]:
    """A note on images in the file that are not read.

    Raises:
        ScanError: they are no smaller versions of the first, nor positions of OME: the file may be a volume of unequal pages.
    """
    first = file.series[0]
    if first.kind != "ome" and any(2 * s.keyframe.size > first.keyframe.size for s in file.series[1:]):
        sizes = list_some(list(dict.fromkeys(f"{s.keyframe.imagelength} x {s.keyframe.imagewidth}" for s in file.series)), 5)
        advice = "export them as files, or as one volume"
        raise ScanError.at(path, f"has pages of unequal sizes or kinds ({sizes})", "pages of one size", advice, "NS-S026")
    others = [" x ".join(map(str, series.shape)) for series in file.series[1:]]
    return (f"holds further images ({', '.join(others)}), which are not read [NS-S025]",) if others else ()


def _arranged(path: Path, pixels: Voxels, axes: str, *, stated: bool) -> tuple[Voxels, bool, list[str]]:
    """Pixels as (C, Z, Y, X), whether they are 2D, and what was concluded about their axes.

    S or C is the axis of channels, Z or an unnamed one that of slices; time alone is taken for slices, as which it is often saved.
    """
    notes: list[str] = []
    kept = [i for i, (a, n) in enumerate(zip(axes, pixels.shape, strict=True)) if n > 1 or a in "YX"]
    pixels, order = pixels.reshape([pixels.shape[i] for i in kept]), [axes[i] for i in kept]
    if order == ["Q", "Y", "X"] and pixels.shape[2] <= FEW and min(pixels.shape[:2]) >= SMALL:
        order = ["Y", "X", "S"]
        notes.append(f"its last axis of {pixels.shape[2]} was taken as channels [NS-S020]")
    colours = [i for i, a in enumerate(order) if a in "SC"]
    slices = [i for i, a in enumerate(order) if a in ("Z", "T", *UNNAMED)]
    if len(colours) > 1 or len(slices) > 1 or not {"Y", "X"} <= set(order) or set(order) - set("SCYXZTIQ"):
        found = f"has {_in_words(order, pixels.shape)} (axes {''.join(order)})"
        raise ScanError.at(
            path, found, "slices, rows, columns and at most one axis of channels", "export the parts as files", "NS-S021"
        )
    notes += _slices_note([(order[i], pixels.shape[i]) for i in slices], stated=stated)
    placed = pixels.transpose(*colours, *slices, order.index("Y"), order.index("X"))
    placed = placed if colours else placed[None]
    return (placed if slices else placed[:, None]), not slices, notes


def _slices_note(slices: Sequence[tuple[str, int]], *, stated: bool) -> list[str]:
    if slices and slices[0][0] == "T":
        return [f"its {slices[0][1]} time points were taken as slices [NS-S020]"]
    if slices and not stated and slices[0][0] in UNNAMED and slices[0][1] <= FEW:
        advice = "if they are channels, save one file for each, or axes CYX as ImageJ or OME do"
        return [f"its {slices[0][1]} pages were taken as slices; {advice} [NS-S020]"]
    return []


def _in_words(order: Sequence[str], shape: Sequence[int]) -> str:
    further = [f"{n} {AXIS_NAMES.get(a, a)}" for a, n in zip(order, shape, strict=True) if a not in "YX"]
    return " of ".join(further) or "no rows or columns"


def _known_size(beside: StatedSize, size: VoxelSize | None, options: ReadOptions, *, is_2d: bool) -> tuple[StatedSize, list[str]]:
    """The voxel size that counts, and what should be known of it: CASE.json comes first, then the file's own tags."""
    if beside.spacing:
        return beside, []
    if size is None:
        missing = (
            "holds no voxel size (of ImageJ, OME or Micro-Manager), nor does a file CASE.json; lengths are in voxels [NS-S027]"
        )
        return beside, [] if is_2d or options.spacing else [missing]
    z, notes = 1.0 if is_2d else size.z, []
    if z is None:
        z = options.spacing[0] if options.spacing else size.default_z
        notes = [] if options.spacing else [f"holds no distance between slices; it was taken as 1 {size.unit} [NS-S027]"]
    return StatedSize(spacing=(z, size.y, size.x), unit=size.unit), notes


def write_tiff(voxels: Voxels, path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a volume as TIFF, one page a slice, with the voxel size of an ImageJ or OME file, or the resolution of a plain one."""
    pages, axes = (voxels[0], "YX") if like.is_2d else (voxels, "ZYX")
    turn: dict[str, Any] = {} if like.exif == 1 else {"extratags": [(ORIENTATION, "H", 1, like.exif, True)]}
    named: dict[str, Any] = _resolution(like.files[0])
    if keeps_spacing(like):
        named = {"ome": True, "metadata": {"axes": axes, **ome_sizes(like.grid.spacing, like.length_unit, is_2d=like.is_2d)}}
    tifffile.imwrite(path, pages, compression="zlib", photometric="minisblack", **named, **turn)


def keeps_spacing(like: Source) -> bool:
    """True if a label map of a scan gets its voxel size in OME's tags: where the scan's own file has it in tags."""
    try:
        with tifffile.TiffFile(like.files[0]) as file:
            return like.has_spacing and voxel_size(file) is not None
    except (OSError, IndexError, tifffile.TiffFileError) as error:
        if is_fault(error):
            raise
        return False


def _resolution(source: Path) -> dict[str, Any]:
    try:
        with tifffile.TiffFile(source) as file:
            tags = file.pages.first.tags
            across, down = (Fraction(*tags[tag].value) for tag in (X_RESOLUTION, Y_RESOLUTION))
            named = {"resolution": (tags[X_RESOLUTION].value, tags[Y_RESOLUTION].value), "resolutionunit": tags[296].value}
            return named if across and down else {}
    except (OSError, KeyError, TypeError, ZeroDivisionError, tifffile.TiffFileError) as error:
        if is_fault(error):
            raise
        return {}


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """The errors that tifffile logs: it reads a truncated file without the missing pages."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or INCOMPLETE.search(record.getMessage()):
            messages.append(record.getMessage())

    handler, logger = logging.Handler(logging.WARNING), logging.getLogger("tifffile")
    handler.emit = keep  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
