"""DICOM series: slices found by what their headers say, checked for completeness, read through SimpleITK (GDCM)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector
from nnseg.storage.images.itk import header_only, quiet, reason, stored
from nnseg.storage.images.raw import PLAINLY, SHEAR_LIMIT, RawImage, ReadOptions, make_grid, stand_in

GAP_TOLERANCE = 0.01
"""By how much of the slice spacing a gap between two slices may differ from it, and a slice lie beside its place."""

SPACING_TOLERANCE = 1e-3
"""By what share the PixelSpacing of slices may differ: headers round it."""

_SERIES_UID, _SERIES_NUMBER, _DESCRIPTION = "0020|000e", "0020|0011", "0008|103e"
_POSITION, _ORIENTATION, _IMAGE_TYPE, _FRAMES = "0020|0032", "0020|0037", "0008|0008", "0028|0008"
_SPACINGS = ("0028|0030", "0018|1164", "0018|2010")
"""In the patient, at the detector, and as scanned from film."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_IMAGES = (
    "1.2.840.10008.1.3.10",  # the directory of a disc
    *(_STORAGE + kind for kind in ("66", "88.", "11.", "104.", "9.", "4.2", "481.3", "481.4", "481.5", "481.8")),
)
"""How the classes of files begin that lie among the slices and are none: segmentations and registrations, reports, presentation
states, documents, waveforms, spectra, contours, treatment plans."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The slices of one series that share an orientation and a size.

    Args:
        uid: its SeriesInstanceUID.
        number: its series number, as text.
        description: in the words of the scanner.
        files: its slices, ordered along the normal of the slices.
        positions: mm along that normal; empty if a slice does not say where it lies.
        is_localiser: a planning view, not a volume.
        is_multiframe: one file with all slices in it.
        places: ImagePositionPatient of each slice, in mm; empty like ``positions``.
        spacings: mm between the rows and the columns of each slice; () for one that does not say.
    """

    uid: str
    number: str
    description: str
    files: tuple[Path, ...]
    positions: tuple[float, ...]
    is_localiser: bool
    is_multiframe: bool
    places: tuple[tuple[float, ...], ...]
    spacings: tuple[tuple[float, ...], ...]

    @property
    def has_spacing(self) -> bool:
        """True if every slice says how far apart its voxels are; a file of many frames says it frame by frame."""
        return self.is_multiframe or all(self.spacings)

    def __str__(self) -> str:
        return f"{self.number or '?'} {self.description!r} ({len(self.files)} slices)"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A series that was read.

    Args:
        stored: its voxels and grid.
        files: its slices in order.
    """

    stored: RawImage
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class _Slice:
    path: Path
    uid: str
    number: str
    description: str
    size: tuple[int, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    is_localiser: bool
    frames: int
    spacing: tuple[float, ...]


def is_dicom(path: Path) -> bool:
    """True if a file starts like a DICOM file."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """The DICOM files with images that lie in a folder itself, by name.

    Raises:
        ScanError: the folder cannot be looked into.
    """
    try:
        entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_file()]
    except OSError as error:
        found = f"cannot be looked into ({error.strerror})"
        raise ScanError.at(folder, found, "a readable folder", "check its permissions") from error
    return tuple(p for p in entries if is_dicom(p) and not _class_of(p).startswith(NO_IMAGES))


def _class_of(path: Path) -> str:
    """The UID of what a DICOM file is; "" if it does not say so where the format asks for it."""
    with path.open("rb") as file:
        start = file.read(4096)
    at = start.find(b"\x02\x00\x02\x00UI", 132)
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace") if at > 0 else ""


def find_series(files: Iterable[Path]) -> tuple[Series, ...]:
    """The series among DICOM files, by series number: slices with one SeriesInstanceUID, orientation and size belong together.

    Raises:
        ScanError: a file cannot be read.
    """
    return _grouped(map(_read_header, files))


def readable_series(files: Iterable[Path]) -> tuple[tuple[Series, ...], tuple[Path, ...]]:
    """The series among those DICOM files whose headers can be read, and the other files."""
    slices, broken = [], []
    for path in files:
        try:
            slices.append(_read_header(path))
        except ScanError:
            broken.append(path)
    return _grouped(slices), tuple(broken)


def _grouped(slices: Iterable[_Slice]) -> tuple[Series, ...]:
    groups: list[list[_Slice]] = []
    for piece in slices:
        group = next((g for g in groups if _belong_together(g[0], piece)), None)
        if group is None:
            groups.append([piece])
        else:
            group.append(piece)
    found = [_series(pieces) for pieces in groups]
    return tuple(sorted(found, key=lambda s: (s.number.zfill(9), s.uid, s.files[0].name)))


def volumes_of(found: Sequence[Series]) -> tuple[Series, ...]:
    """The series that are volumes: no localisers, and no single slices beside longer series."""
    volumes = [s for s in found if not s.is_localiser] or list(found)
    return tuple([s for s in volumes if len(s.files) > 1 or s.is_multiframe] or volumes)


def choose_series(found: Sequence[Series], folder: Path) -> Series:
    """The only series that is a volume; localisers are passed over.

    Raises:
        ScanError: none, or several.
    """
    volumes = volumes_of(found)
    if len(volumes) > 1:
        listed = ", ".join(map(str, volumes))
        raise ScanError.at(folder, f"holds {len(volumes)} series: {listed}", "one", "put each series in a folder of its own")
    if not volumes:
        raise ScanError.at(folder, "holds no DICOM file", "the slices of one series", "check the folder")
    return volumes[0]


def read_series(source: Path | Sequence[Path], asked: ReadOptions = PLAINLY) -> Volume:
    """The volume of a DICOM series, rescaled as its headers say (Hounsfield units for CT).

    Args:
        source: a folder with one series, or its files in any order.
        asked: what besides the voxels.

    Raises:
        ScanError: no file is readable, several series, slices missing, doubled, out of line or unevenly spaced, or voxels at no
            distance or at different ones.
    """
    files = dicom_files(source) if isinstance(source, Path) else tuple(source)
    place = source if isinstance(source, Path) else files[0].parent
    series = choose_series(find_series(files), place)
    is_flat = len(series.files) == 1 and not series.is_multiframe
    if not (series.has_spacing or asked.spacing or (is_flat and not series.positions)):
        found, advice = f"series {series} does not say how far apart its voxels are", "mend the headers, or predict with --spacing"
        raise ScanError.at(place, found, "PixelSpacing in every slice", advice)
    _check_spacings(series, place)
    gap = _check_positions(series, place) if len(series.files) > 1 else 0.0
    volume = _look(series.files) if asked.only_header else _read_pixels(series.files)
    if not series.has_spacing:
        volume = _with_spacing(volume, asked.spacing, positioned=bool(series.positions))
    if len(series.files) > 1:
        volume = replace(volume, grid=_stacked(series, volume.grid, gap, place))
    return Volume(stored=volume, files=series.files)


def _stacked(series: Series, grid: Grid, gap: float, place: Path) -> Grid:
    """The grid of slices, each in its place: above one another, or shifted sideways as a tilted gantry shifts them."""
    steps = grid.steps
    normal = np.cross(steps[2], steps[1])
    steps[0] = normal / np.linalg.norm(normal) * gap
    first, last = np.asarray(series.places[0]), np.asarray(series.places[-1])
    step = (last - first) / (len(series.files) - 1)
    if np.linalg.norm(step - steps[0]) > SHEAR_LIMIT * gap:
        steps[0] = step
    placed = make_grid(place, (len(series.files), *grid.shape[1:]), steps, first)
    return replace(placed, spacing=(placed.spacing[0], *grid.spacing[1:]))


def _with_spacing(volume: RawImage, spacing: Vector | None, *, positioned: bool) -> RawImage:
    """A volume whose files do not say how far apart its voxels are, at the spacing that was given, or 1 mm for a mere picture."""
    if positioned:
        return replace(volume, grid=replace(volume.grid, spacing=spacing or volume.grid.spacing))
    return replace(volume, grid=Grid(shape=volume.grid.shape, spacing=spacing or (1.0, 1.0, 1.0)), has_geometry=False)


def _read_header(path: Path) -> _Slice:
    try:
        with quiet():
            reader = header_only(path, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be read as DICOM ({reason(error)})"
        raise ScanError.at(path, found, "a slice with pixels", "export the series again, or remove the file") from error

    def text(key: str) -> str:
        return str(reader.GetMetaData(key)).strip("\0 ") if reader.HasMetaDataKey(key) else ""

    return _Slice(
        path=path,
        uid=text(_SERIES_UID),
        number=text(_SERIES_NUMBER),
        description=text(_DESCRIPTION),
        size=tuple(reader.GetSize()[:2]),
        position=_numbers(text(_POSITION)),
        orientation=_numbers(text(_ORIENTATION)),
        is_localiser="LOCALIZER" in text(_IMAGE_TYPE).upper(),
        frames=_whole(path, "NumberOfFrames", text(_FRAMES) or "1"),
        spacing=next((pair for key in _SPACINGS if len(pair := _numbers(text(key))) == 2 and min(pair) > 0), ()),
    )


def _whole(path: Path, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ScanError.at(path, f'has the {name} "{text}"', "a whole number", "mend the header, or remove the file") from error


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of a DICOM value such as ``1\\0\\0``; none if one cannot be read."""
    try:
        return tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()


def _belong_together(one: _Slice, other: _Slice) -> bool:
    """True if two slices have the same series, size and orientation; a file of many frames is a volume of its own."""
    if (one.uid, one.size, len(one.orientation)) != (other.uid, other.size, len(other.orientation)) or max(
        one.frames, other.frames
    ) > 1:
        return False
    return bool(np.allclose(one.orientation, other.orientation, atol=0.01))


def _series(pieces: list[_Slice]) -> Series:
    placed = all(len(p.position) == 3 and len(p.orientation) == 6 for p in pieces)
    normal = _normal(pieces[0]) if placed else np.zeros(3)
    heights = [float(normal @ np.asarray(p.position)) if placed else 0.0 for p in pieces]
    order = sorted(range(len(pieces)), key=lambda i: (heights[i], pieces[i].path.name))
    first = pieces[0]
    return Series(
        uid=first.uid,
        number=first.number,
        description=first.description,
        files=tuple(pieces[i].path for i in order),
        positions=tuple(heights[i] for i in order) if placed else (),
        is_localiser=first.is_localiser,
        is_multiframe=first.frames > 1,
        places=tuple(pieces[i].position for i in order) if placed else (),
        spacings=tuple(pieces[i].spacing for i in order),
    )


def _normal(piece: _Slice) -> npt.NDArray[np.float64]:
    normal = np.cross(piece.orientation[:3], piece.orientation[3:])
    return np.asarray(normal / (np.linalg.norm(normal) or 1.0), float)


def _check_spacings(series: Series, place: Path) -> None:
    spacings = np.asarray(series.spacings if all(series.spacings) else ())
    other = np.argwhere(~np.isclose(spacings, spacings[:1], rtol=SPACING_TOLERANCE, atol=0))
    if len(other):
        i = int(other[0][0])
        one, another = (" x ".join(f"{v:g}" for v in series.spacings[k]) for k in (0, i))
        found = f"{series.files[0].name} has voxels of {one} mm and {series.files[i].name} of {another} mm"
        raise ScanError.at(place, found, "one PixelSpacing in a series", "put them in folders of their own, or resample them")


def _check_positions(series: Series, place: Path) -> float:
    """The distance in mm between neighbouring slices, all of which are there, once, in one line with even steps."""
    if not series.positions:
        found = f"series {series} has slices without ImagePositionPatient"
        raise ScanError.at(place, found, "a position in every slice", "export the series again with full headers")
    gaps = np.diff(series.positions)
    spacing = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < GAP_TOLERANCE * max(spacing, 1e-6)) if spacing > 0 else np.arange(len(gaps))
    if len(doubled):
        i = int(doubled[0])
        found = f"{series.files[i].name} and {series.files[i + 1].name} lie both at {series.positions[i]:.2f} mm"
        raise ScanError.at(place, found, "every slice once", "keep one of them, or one time point of the series")
    wrong = np.flatnonzero(np.abs(gaps - spacing) > GAP_TOLERANCE * spacing)
    if len(wrong):
        raise _uneven(series, place, spacing, [int(i) for i in wrong])
    places = np.asarray(series.places)
    away = np.linalg.norm(places - np.linspace(places[0], places[-1], len(places)), axis=1)
    if away.max() > GAP_TOLERANCE * spacing:
        i = int(away.argmax())
        found = f"{series.files[i].name} lies {away[i]:.2g} mm beside its place in a line from the first slice to the last"
        raise ScanError.at(place, found, "even steps", "correct its ImagePositionPatient, or resample the series")
    return float(np.mean(gaps))


def _uneven(series: Series, place: Path, spacing: float, wrong: list[int]) -> ScanError:
    shown = ", ".join(f"{series.positions[i]:.2f} to {series.positions[i + 1]:.2f} mm" for i in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    found = f"slices are missing or unevenly spaced: gaps from {shown}{more}"
    return ScanError.at(place, found, f"a slice every {spacing:.3g} mm", "add the missing slices, or resample the series")


def _look(files: tuple[Path, ...]) -> RawImage:
    """What `_read_pixels` will give, in shape, type and place of the first slice only."""
    with quiet():
        one = stored(files[0], header_only(files[0], "GDCMImageIO"))
    if len(files) == 1:
        return one
    return replace(one, voxels=stand_in((len(one.voxels), len(files), *one.voxels.shape[2:]), one.voxels.dtype))


def _read_pixels(files: tuple[Path, ...]) -> RawImage:
    """Voxels as float32: each slice may have a slope of its own, so that they never pass through integers."""
    try:
        with quiet():
            colours = header_only(files[0], "GDCMImageIO").GetNumberOfComponents()
            kind = sitk.sitkVectorFloat32 if colours > 1 else sitk.sitkFloat32
            image = sitk.ReadImage(str(files[0]) if len(files) == 1 else [str(f) for f in files], kind, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be decoded ({reason(error)})"
        raise ScanError.at(files[0], found, "readable grey pixels", "export the series again, uncompressed") from error
    return stored(files[0], image)


TAGS = {
    "manufacturer": "0008|0070",
    "model": "0008|1090",
    "institution": "0008|0080",
    "sex": "0010|0040",
    "age": "0010|1010",
}
"""Read of each scan, by name; age in years, whatever its unit."""

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_tags(scan: Path) -> dict[str, str]:
    """Those of the `TAGS` that a scan's first file gives a value for; none of a scan that is not DICOM.

    Args:
        scan: a DICOM file, or the folder of a series.

    Raises:
        ScanError: its header cannot be read.
    """
    file = next(iter(dicom_files(scan)), None) if scan.is_dir() else scan
    if file is None or not is_dicom(file):
        return {}
    try:
        with quiet():
            reader = header_only(file, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be read as DICOM ({reason(error)})"
        raise ScanError.at(file, found, "a slice with a header", "export the series again") from error
    texts = {name: str(reader.GetMetaData(key)).strip("\0 ") for name, key in TAGS.items() if reader.HasMetaDataKey(key)}
    if "age" in texts:
        texts["age"] = _years(texts["age"])
    return {name: text for name, text in texts.items() if text}


def _years(text: str) -> str:
    """Of an age such as 063Y or 018M; nothing of what is not written like one."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text)
    return f"{int(match[1]) * _YEARS[match[2]]:.4g}" if match else ""
