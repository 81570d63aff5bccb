"""DICOM series: slices found by what their headers say, checked for completeness, read through SimpleITK (GDCM)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.storage.itk import quiet, reason, stored
from nnseg.storage.stored import SHEAR_LIMIT, Stored, make_grid, refuse

GAP_TOLERANCE = 0.01
"""By how much of the slice spacing a gap between two slices may differ from it."""

_SERIES_UID, _SERIES_NUMBER, _DESCRIPTION = "0020|000e", "0020|0011", "0008|103e"
_POSITION, _ORIENTATION, _IMAGE_TYPE, _FRAMES = "0020|0032", "0020|0037", "0008|0008", "0028|0008"


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
    """

    uid: str
    number: str
    description: str
    files: tuple[Path, ...]
    positions: tuple[float, ...]
    is_localiser: bool
    is_multiframe: bool

    def __str__(self) -> str:
        return f"{self.number or '?'} {self.description!r} ({len(self.files)} slices)"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A series that was read.

    Args:
        stored: its voxels and grid.
        files: its slices in order.
    """

    stored: Stored
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


def is_dicom(path: Path) -> bool:
    """True if a file starts like a DICOM file."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """The DICOM files that lie in a folder itself, by name."""
    return tuple(p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_file() and is_dicom(p))


def find_series(files: Iterable[Path]) -> tuple[Series, ...]:
    """The series among DICOM files, by series number: slices with one SeriesInstanceUID, orientation and size belong together.

    Raises:
        ScanError: a file cannot be read.
    """
    groups: list[list[_Slice]] = []
    for piece in map(_read_header, files):
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
        raise refuse(
            folder, f"holds {len(volumes)} series: {listed}", expected="one", advice="put each series in a folder of its own"
        )
    if not volumes:
        raise refuse(folder, "holds no DICOM file", expected="the slices of one series", advice="check the folder")
    return volumes[0]


def read_series(source: Path | Sequence[Path]) -> Volume:
    """The volume of a DICOM series, rescaled as its headers say (Hounsfield units for CT).

    Args:
        source: a folder with one series, or its files in any order.

    Raises:
        ScanError: no file is readable, several series, slices missing, doubled, unevenly spaced or shifted sideways.
    """
    files = dicom_files(source) if isinstance(source, Path) else tuple(source)
    place = source if isinstance(source, Path) else files[0].parent
    series = choose_series(find_series(files), place)
    if len(series.files) == 1:
        return Volume(stored=_read_pixels(series.files), files=series.files)
    spacing = _check_positions(series, place)
    volume = _read_pixels(series.files)
    steps = np.asarray(volume.grid.direction) * np.asarray(volume.grid.spacing)[:, None]
    normal = np.cross(steps[2], steps[1])
    steps[0] = normal / np.linalg.norm(normal) * spacing
    origin = np.asarray(_read_header(series.files[0]).position)
    upright = make_grid(place, volume.grid.shape, steps, origin)
    grid = replace(upright, spacing=(upright.spacing[0], *volume.grid.spacing[1:]))
    return Volume(stored=replace(volume, grid=grid), files=series.files)


def _read_header(path: Path) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        found = f"cannot be read as DICOM ({reason(error)})"
        raise refuse(path, found, expected="a slice with pixels", advice="export the series again, or remove the file") from error

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
        frames=int(text(_FRAMES) or 1),
    )


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
    )


def _normal(piece: _Slice) -> npt.NDArray[np.float64]:
    normal = np.cross(piece.orientation[:3], piece.orientation[3:])
    return np.asarray(normal / (np.linalg.norm(normal) or 1.0), float)


def _check_positions(series: Series, place: Path) -> float:
    """The distance in mm between neighbouring slices, all of which are there, once, above one another."""
    if not series.positions:
        found = f"series {series} has slices without ImagePositionPatient"
        raise refuse(place, found, expected="a position in every slice", advice="export the series again with full headers")
    gaps = np.diff(series.positions)
    spacing = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < GAP_TOLERANCE * max(spacing, 1e-6)) if spacing > 0 else np.arange(len(gaps))
    if len(doubled):
        i = int(doubled[0])
        found = f"{series.files[i].name} and {series.files[i + 1].name} lie both at {series.positions[i]:.2f} mm"
        raise refuse(place, found, expected="every slice once", advice="keep one of them, or one time point of the series")
    wrong = np.flatnonzero(np.abs(gaps - spacing) > GAP_TOLERANCE * spacing)
    if len(wrong):
        raise _uneven(series, place, spacing, [int(i) for i in wrong])
    _check_upright(series, place)
    return float(np.mean(gaps))


def _uneven(series: Series, place: Path, spacing: float, wrong: list[int]) -> ScanError:
    shown = ", ".join(f"{series.positions[i]:.2f} to {series.positions[i + 1]:.2f} mm" for i in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    found = f"slices are missing or unevenly spaced: gaps from {shown}{more}"
    return refuse(place, found, expected=f"a slice every {spacing:.3g} mm", advice="add the missing slices, or resample the series")


def _check_upright(series: Series, place: Path) -> None:
    """Slices that are shifted sideways, as a tilted gantry shifts them, are no rectangular grid."""
    first, last = _read_header(series.files[0]), _read_header(series.files[-1])
    way = np.subtract(last.position, first.position)
    sideways = way - _normal(first) * float(_normal(first) @ way)
    if np.linalg.norm(sideways) > SHEAR_LIMIT * np.linalg.norm(way):
        found = f"slices are shifted sideways by {np.linalg.norm(sideways):.3g} mm over the volume (a tilted gantry?)"
        raise refuse(place, found, expected="slices above one another", advice="resample the series to a rectangular grid")


def _read_pixels(files: tuple[Path, ...]) -> Stored:
    """Voxels as float32: each slice may have a slope of its own, so that they never pass through integers."""
    try:
        with quiet():
            if len(files) == 1:
                image = sitk.ReadImage(str(files[0]), sitk.sitkFloat32, "GDCMImageIO")
            else:
                image = sitk.ReadImage([str(f) for f in files], sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be decoded ({reason(error)})"
        raise refuse(files[0], found, expected="readable grey pixels", advice="export the series again, uncompressed") from error
    return stored(files[0], image)
