"""MHA, MHD, NRRD and GIPL files, and whatever else ITK writes, through SimpleITK."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, as_matrix, as_vector
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.core.limits import limit, raise_by
from nnseg.storage.images.itk_messages import itk_message, no_itk_warnings
from nnseg.storage.images.nrrd import HEADER_BYTES, NRRD, NUMBERED, nrrd_files, nrrd_header, nrrd_unit, numbered_files, state_unit
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, check_size, make_grid, placeholder
from nnseg.storage.images.segments import read_segments, segment_metadata
from nnseg.storage.images.units import from_mm, to_mm
from nnseg.storage.images.unpack import SLACK, unpack_parts
from nnseg.system.regular import check_regular, open_regular

GIPL_HEADER_BYTES = 256

END_OF_HEADER = re.compile(rb"(?<=\n)ElementDataFile\s*[=:][^\n]*\n|\r?\n\r?\n")
"""Of MetaImage, and of NRRD."""

NRRD_END, LINE_END = re.compile(rb"\r?\n\r?\n|\r\r"), re.compile(rb"[\r\n]+")

ELEMENT_DATA = re.compile(rb"ElementDataFile\s*[=:]\s*([^\r\n]*)")
DATA_FILE = re.compile(rb"data *file:([^\r\n]*)", re.IGNORECASE)
"""The fields of MetaImage and NRRD that name files, wherever they stand."""

META = (".mha", ".mhd")

KINDS = dict.fromkeys(META, "MetaImageIO") | dict.fromkeys(NRRD, "NrrdImageIO") | {".gipl": "GiplImageIO"}
"""What reads files of a suffix, by ITK's names."""

LONGEST_PLACE = 18
"""Digits of a place in a file."""

SURROGATES = re.compile("[\ud800-\udfff]")
"""What stands for bytes that are no UTF-8."""

COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def read_itk(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of a file that ITK reads; vectors and a fourth axis become channels.

    Raises:
        ScanError: no image, truncated, or of a geometry that ITK refuses.
    """
    start, unpacked = _start(path), None
    try:
        with no_itk_warnings():
            held, packing = _held(path), "deflate" if _PACKED.search(start) else "text"
            image = header = read_header_only(path)
            size = (*header.GetSize(), header.GetNumberOfComponents())
            check_size(path, size, _dtype(header), options, held=held, packing=packing)
            if not options.only_header:
                unpacked = _unpacked(path, header)
                image = header if unpacked is not None else sitk.ReadImage(str(path), imageIO=header.GetImageIO())
    except RuntimeError as error:
        found, expected = f"cannot be read as an image ({itk_message(error)})", "a complete image with axes at right angles"
        raise ScanError.at(path, found, expected, "copy or export it again", "NS-S004") from error
    if path.suffix.lower() == ".gipl" and not options.only_header:
        _check_gipl_size(path, image)
    raw = raw_from_itk(path, image, unpacked)
    return _in_unit(raw, nrrd_unit(path)) if path.suffix.lower() in NRRD else raw


_PACKED = re.compile(rb"^(?:CompressedData\s*[=:]\s*T|encoding:\s*gz)", re.IGNORECASE | re.MULTILINE)
"""How headers state that voxels are packed."""

_AXES = re.compile(rb"(?:NDims\s*[=:]|dimension:)[ \t]*(\S*)", re.IGNORECASE)
_MATRIX = re.compile(
    rb"(?:TransformMatrix|Rotation|(?<!Anatomical)Orientation|space directions|measurement frame)\s*[=:]([^\r\n]*)", re.IGNORECASE
)
"""The number of axes, for which ITK takes memory while it reads them, and their directions, wherever they stand in a header."""

_LONG_LINES = {
    True: re.compile(
        rb"(?<!\S)((?:Name|Comment|AcquisitionDate|Object\w*|TransformType|AnatomicalOrientation|DistanceUnits|Modality|"
        rb"ElementType)\s*[=:][^\n]{250})|(?<![^\n])([^\n=:]{200}[^\n=:]*[=:])|(?<![^\n])([^\n]{4000})"
    ),
    False: re.compile(rb"(?:^|[\r\n])(?!#|[^\r\n:]*:=|content: )([^\r\n]{900})", re.IGNORECASE),
}
"""Lines that are too long for MetaImage (True) and NRRD: the libraries copy them into buffers of 255 and 1024 bytes. Of NRRD
comments, pairs of key and value, and the text of the content are no such lines."""

_NUMBER = re.compile(rb"[-+]?(?:\d{1,30}\.?\d{0,99}|\.\d{1,99})(?:e(?:-\d{1,3}|\+?[01]?\d))?|none|nan", re.IGNORECASE)
"""A number below 1e50: of larger and infinite ones ITK computes singular values without end."""


def _start(path: Path) -> bytes:
    """The beginning of a file, which holds its header.

    Raises:
        ScanError: the header is one that `_check_header` refuses.
    """
    with open_regular(path) as file:
        start = file.read(HEADER_BYTES)
    _check_header(path, start)
    return start


def _check_header(path: Path, start: bytes) -> None:
    """Raise ScanError for a header that ends too late, has very many lines, names files by a pattern that is none, or has fields as
    `_check_fields` refuses them.

    ITK may take for a field what follows any other text, so that every place that looks like one is checked.
    """
    meta, nrrd = path.suffix.lower() in META, path.suffix.lower() in NRRD
    header = start[: end.start() if (end := (END_OF_HEADER if meta else NRRD_END).search(start)) else None]
    if (meta or nrrd) and ((end is None and len(start) == HEADER_BYTES) or len(LINE_END.findall(header)) > limit("header_lines")):
        found = f"has a header of over {HEADER_BYTES:,} bytes or {limit('header_lines'):,} lines"
        raise ScanError.at(path, found, "a shorter one", f"export it again; {raise_by('header_lines')}")
    for number, match in enumerate((ELEMENT_DATA if meta else DATA_FILE).finditer(start) if meta or nrrd else ()):
        if meta and not number and start[: match.start()][-1:] not in (b"", b"\n"):
            raise ScanError.at(path, "names its voxels within a line", "ElementDataFile at the beginning of one", "export it again")
        name = os.fsdecode(match[1].strip())
        if meta and "%" in name:
            numbered_files(path, name, meta=True)
        elif nrrd and NUMBERED.search(name):
            numbered_files(path, name)
    if meta or nrrd:
        _check_fields(path, header, _LONG_LINES[meta])


def _check_fields(path: Path, header: bytes, too_long: re.Pattern[bytes]) -> None:
    """Raise ScanError for a header with too long a line, more axes than ITK's images have, or directions that are no numbers."""
    if match := too_long.search(header):
        line = match[match.lastindex or 0]
        found = f'has the line "{line[:20].decode(errors="replace")} ..." of over {len(line) // 100 * 100} bytes'
        raise ScanError.at(path, found, "a header of short lines", "export it again", "NS-S004")
    for match in _AXES.finditer(header):
        if not re.fullmatch(rb"0*[1-9]", match[1]):
            found = f"announces {match[1][:20].decode(errors='replace')} dimensions"
            raise ScanError.at(path, found, "a 2D or 3D image with at most one axis of channels", "export it again")
    for match in _MATRIX.finditer(header):
        if wrong := [part for part in re.findall(rb"[^\s(),]+", match[1]) if not _NUMBER.fullmatch(part)]:
            found = f'has the direction "{wrong[0][:20].decode(errors="replace")}"'
            raise ScanError.at(path, found, "directions of finite length", "export it again", "NS-S004")


def _held(path: Path) -> int:
    """Bytes of the files in which the voxels may lie; OSError for one that is no regular file."""
    beside = data_files if path.suffix.lower() in META else nrrd_files if path.suffix.lower() in NRRD else None
    files = [file for file in ((path, *beside(path)) if beside else (path,)) if file.exists()]
    for file in files:
        check_regular(file)
    return sum(file.stat().st_size for file in files)


def _unpacked(path: Path, header: sitk.ImageFileReader) -> npt.NDArray[Any] | None:
    """The compressed voxels of a MetaImage file, of which those of NRRD are only verified; None if they are left to ITK.

    ITK prints that a stream is damaged, and goes on with what it has; and it needs CompressedDataSize of MetaImage to be right.

    Raises:
        ScanError: a stream is damaged, or does not unpack to the voxels that the header announces.
    """
    voxels, nrrd = _voxels(header)[0], path.suffix.lower() in NRRD
    fields, files = (nrrd_header(path), nrrd_files(path)) if nrrd else (meta_header(path), data_files(path))
    if not (fields.get("encoding") in ("gz", "gzip") if nrrd else fields.get("CompressedData", "F")[:1] in "tTyY1"):
        return None
    if (before := _whole_number(fields, "byte skip")) > voxels.nbytes + SLACK:  # in the stream of NRRD
        raise ScanError.at(
            path, f"skips {before} bytes of {voxels.nbytes}", "a shorter header before the voxels", "export it again"
        )
    announced = before + voxels.nbytes // max(1, len(files))
    parts: list[bytes] = []
    for file in files or (path,):
        with file.open("rb") as opened:
            opened.seek(0 if files else _header_length(path))
            for _ in range(min(_whole_number(fields, "line skip"), limit("header_lines") + 1)):
                opened.readline(HEADER_BYTES)
            opened.seek(min(opened.tell() + _whole_number(fields, "HeaderSize"), file.stat().st_size))
            parts.extend(part for part in unpack_parts(file, opened, announced) if not nrrd)
    if nrrd:
        return None
    big = fields.get("ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "F"))[:1] in "tTyY1"
    stored = np.frombuffer(b"".join(parts), voxels.dtype.newbyteorder(">" if big else "<"), voxels.size)
    return stored.astype(voxels.dtype).reshape(voxels.shape)


def meta_header(path: Path) -> dict[str, str]:
    """The fields of a MetaImage header by name."""
    with path.open("rb") as file:
        text = os.fsdecode(file.read(HEADER_BYTES).split(b"ElementDataFile")[0])
    pairs = [re.split(r"[=:]", line, maxsplit=1) for line in text.splitlines()]
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _whole_number(fields: Mapping[str, str], name: str) -> int:
    """A field of a header, 0 if it is missing, below 0 or no number; of a number beyond every file its first digits."""
    text = fields.get(name, "")
    return int(text.lstrip("0")[:LONGEST_PLACE] or 0) if text.isdecimal() else 0


def _header_length(path: Path) -> int:
    """Where the voxels begin in a file of MetaImage or NRRD that has a header."""
    with path.open("rb") as file:
        end = END_OF_HEADER.search(file.read(HEADER_BYTES))
    return end.end() if end else 0


def _in_unit(raw: RawImage, unit: str) -> RawImage:
    """An image whose lengths ITK has taken for mm, though they are in another unit."""
    spacing, origin = ([to_mm(length, unit) for length in lengths] for lengths in (raw.grid.spacing, raw.grid.origin))
    return replace(raw, grid=replace(raw.grid, spacing=as_vector(spacing), origin=as_vector(origin)), length_unit=unit)


def data_files(path: Path) -> tuple[Path, ...]:
    """The files in which the voxels of a MetaImage header (.mhd) lie; none if they follow in the header's own file.

    Source: MetaIO's description of ElementDataFile: a name, LOCAL, LIST and a name a line, or a pattern of numbered names.
    """
    match = re.search(rb"^ElementDataFile\s*[=:]\s*(\S.*)", _start(path), re.MULTILINE | re.DOTALL)
    name, *others = [os.fsdecode(line.strip()) for line in match[1].splitlines()] if match else ["LOCAL"]
    if name.upper() == "LOCAL":
        return ()
    if name.split()[0] == "LIST":
        return tuple(path.parent / other for other in others if other)
    if "%" in name:
        numbered = path.parent / name.split()[0]  # checked by _start
        pattern = "*".join(map(glob.escape, NUMBERED.split(numbered.name)))
        return tuple(sorted(numbered.parent.glob(pattern)))
    return (path.parent / name,)


def read_header_only(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of a file; it has the methods of an image, except for its voxels.

    The suffix says by what it is read: ITK itself would go by the content, and read DICOM without the checks of our own readers.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO(KINDS[path.suffix.lower()])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def raw_from_itk(path: Path, image: sitk.Image | sitk.ImageFileReader, unpacked: npt.NDArray[Any] | None = None) -> RawImage:
    """The content of an ITK image of two, three or four axes, with placeholders for voxels if only its header was read.

    Args:
        unpacked: the voxels, if ITK has read the header only.
    """
    if image.GetPixelIDValue() in COMPLEX:
        raise ScanError.at(path, "holds complex numbers", "integers or floats", "export magnitude images")
    voxels, colours = _voxels(image)
    voxels = voxels if unpacked is None else unpacked
    dimensions = image.GetDimension()
    if not 2 <= dimensions <= 4 or (dimensions == 4 and colours > 1):
        found = f"is a {dimensions}-dimensional image of {sitk.GetPixelIDValueAsString(image.GetPixelIDValue())}"
        raise ScanError.at(path, found, "a 2D or 3D image with at most one axis of channels", "export it again", "NS-S021")
    if colours > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    elif dimensions < 4:
        voxels = voxels[None]
    if dimensions == 2:
        voxels = voxels[:, None]
    segments = read_segments(path, {key: text for key, text in _metadata(image).items() if key.startswith("Segment")})
    return RawImage(voxels=voxels, grid=_grid(path, image, voxels.shape[1:]), is_2d=dimensions == 2, segments=segments)


def _voxels(image: sitk.Image | sitk.ImageFileReader) -> tuple[npt.NDArray[Any], int]:
    """The voxels, and the number of components of each; several components are the last axis."""
    if isinstance(image, sitk.Image):
        return np.array(sitk.GetArrayViewFromImage(image)), image.GetNumberOfComponentsPerPixel()
    colours = image.GetNumberOfComponents()
    shape = (*image.GetSize()[::-1], *((colours,) if colours > 1 else ()))
    return placeholder(shape, _dtype(image)), colours


def _dtype(image: sitk.ImageFileReader) -> np.dtype[Any]:
    """The type of the values of a file whose header was read."""
    pixel = sitk.Image([1] * image.GetDimension(), image.GetPixelIDValue(), min(image.GetNumberOfComponents(), 2))
    return np.asarray(sitk.GetArrayViewFromImage(pixel)).dtype


def write_itk(voxels: npt.NDArray[Any], path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a volume with exactly this spacing, origin and direction; NRRD in the unit of an NRRD scan, with the names of labels.

    Args:
        voxels: (Z, Y, X).
        path: its suffix chooses the format.
        like: the scan; further metadata of a file of the same format (its content, the patient, ...) is copied.

    Raises:
        ScanError: GIPL of a turned volume; the format has no direction.
    """
    gipl, grid = path.suffix.lower() == ".gipl", like.grid
    if gipl and not np.array_equal(np.asarray(grid.direction)[::-1].T, np.eye(3)):
        raise ScanError.at(path, "cannot hold the direction of a turned volume", "another format", "write .mha or .nii.gz")
    if gipl and voxels.dtype.itemsize > 2 and voxels.dtype.kind in "ui":
        found, advice = f"cannot hold values {voxels.min()} to {voxels.max()}", "write .mha or .nii.gz"
        raise ScanError.at(path, found, "values 0 to 65535", advice)
    nrrd = path.suffix.lower() in NRRD
    unit = like.length_unit if nrrd and like.files[0].suffix.lower() in NRRD and not like.is_2d else "mm"
    spacing, origin = from_mm(grid.spacing, unit), from_mm(grid.origin, unit)
    image = as_image(voxels, replace(grid, spacing=spacing, origin=origin) if unit != "mm" else grid, is_2d=like.is_2d)
    names = segment_metadata(labels, voxels) if labels and nrrd else {}
    for key, value in (_source_metadata(like.files[0], path) | names).items():
        image.SetMetaData(key, value)
    try:
        with no_itk_warnings():
            sitk.WriteImage(image, str(path), useCompression=not gipl)
        if unit != "mm":
            state_unit(path, unit)
    except RuntimeError as error:  # most often a full disk; callers treat it as any other failed write
        raise OSError(itk_message(error)) from error


def as_image(voxels: npt.NDArray[Any], grid: Grid, *, is_2d: bool) -> sitk.Image:
    """An ITK image of voxels (Z, Y, X) on a grid, or of the only slice; of vectors for (K, Z, Y, X)."""
    dimensions, columns = 2 if is_2d else 3, np.asarray(grid.direction)[::-1].T
    several, shown = voxels.ndim > 3, voxels[..., 0, :, :] if is_2d else voxels
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(shown, 0, -1) if several else shown), isVector=several)
    image.SetSpacing(grid.spacing[::-1][:dimensions])
    image.SetOrigin(grid.origin[:dimensions])
    image.SetDirection(columns[:dimensions, :dimensions].ravel().tolist())
    return image


def _source_metadata(source: Path, path: Path) -> dict[str, str]:
    """Metadata of a source of the same format as ``path``, without the grid and what ITK adds on reading."""
    if source.suffix.lower() != path.suffix.lower() or not source.is_file():
        return {}
    try:
        with no_itk_warnings():
            reader = read_header_only(source)
    except RuntimeError:  # it was readable before; losing its metadata does no harm
        return {}
    found = _metadata(reader)
    own = ("ITK_", "NRRD_kinds", "NRRD_space", "NRRD_sizes", "NRRD_thicknesses", "NRRD_measurement frame")
    return {key: value for key, value in found.items() if not key.startswith(own) and value != "MET_MOD_UNKNOWN"}


def _metadata(image: sitk.Image | sitk.ImageFileReader) -> dict[str, str]:
    """All entries that are UTF-8; of others SimpleITK makes strings that it does not take back."""
    names = (key for key in image.GetMetaDataKeys() if key.isprintable())
    return {key: text for key in names if not SURROGATES.search(text := image.GetMetaData(key))}


def _grid(path: Path, image: sitk.Image | sitk.ImageFileReader, shape: tuple[int, ...]) -> Grid:
    """The grid of an image; a flat one lies in the x-y plane, a fourth axis is left out."""
    dimensions = image.GetDimension()
    n = min(dimensions, 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (dimensions, dimensions))[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    grid = make_grid(path, shape, (direction * spacing).T[::-1], origin)
    # the exact spacing, because a norm may be off in the last digit
    return replace(grid, spacing=as_vector(spacing[::-1]), direction=as_matrix(direction.T[::-1]))


def _check_gipl_size(path: Path, image: sitk.Image) -> None:
    """Raise ScanError if a GIPL file is shorter than its header says: ITK would fill the missing end with zeros."""
    voxels: npt.NDArray[Any] = sitk.GetArrayViewFromImage(image)
    promised = GIPL_HEADER_BYTES + voxels.nbytes
    if path.stat().st_size < promised:
        raise ScanError.at(path, f"has {path.stat().st_size} bytes", f"{promised}", "copy it again; it is truncated", "NS-S002")
