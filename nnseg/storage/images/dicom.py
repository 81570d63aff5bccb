"""DICOM series: slices grouped by their headers, checked for completeness, read through SimpleITK (GDCM)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import SHEAR_LIMIT, Grid, Vector, format_axes
from nnseg.storage.images.dicom_headers import Slice, dicom_files, read_slice
from nnseg.storage.images.itk import itk_message, no_itk_warnings, raw_from_itk, read_header_only
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, make_grid, placeholder

GAP_TOLERANCE = 0.01
"""Share of the slice spacing by which a gap between two slices may differ from it, and a slice lie beside its place."""

SPACING_TOLERANCE = 1e-3
"""Share by which the PixelSpacing of slices may differ: headers round it."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The slices of one series that share an orientation and a size.

    Args:
        slices: ordered along their normal.
        heights: mm along that normal; empty if a slice has no position.
    """

    slices: tuple[Slice, ...]
    heights: tuple[float, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the slices."""
        return tuple(s.path for s in self.slices)

    @property
    def number(self) -> str:
        """SeriesNumber."""
        return self.slices[0].number

    @property
    def is_multiframe(self) -> bool:
        """True for one file with all slices in it."""
        return self.slices[0].frames > 1

    @property
    def has_spacing(self) -> bool:
        """True if every slice has a pixel spacing; a file of many frames has one for each frame."""
        return self.is_multiframe or all(s.spacing for s in self.slices)

    def __str__(self) -> str:
        return f"{self.number or '?'} {self.slices[0].description!r} ({len(self.slices)} slices)"


def find_series(slices: Iterable[Slice]) -> tuple[Series, ...]:
    """The series of slices, by series number: those with one SeriesInstanceUID, orientation and size belong together."""
    groups: list[list[Slice]] = []
    for piece in slices:
        group = next((g for g in groups if _belong_together(g[0], piece)), None)
        if group is None:
            groups.append([piece])
        else:
            group.append(piece)
    return tuple(sorted(map(_series, groups), key=lambda s: (s.number.zfill(9), s.slices[0].uid, s.slices[0].path.name)))


def find_volumes(found: Sequence[Series]) -> tuple[Series, ...]:
    """The series that are volumes: no localisers, and no single slices beside longer series."""
    volumes = [s for s in found if not s.slices[0].is_localiser] or list(found)
    return tuple([s for s in volumes if len(s.slices) > 1 or s.is_multiframe] or volumes)


def split_volumes(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """The files of each volume among DICOM files, by a name for it; {} if there is but one volume.

    Files whose headers cannot be read are put together as "unreadable".
    """
    slices, broken = [], []
    for path in files:
        try:
            slices.append(read_slice(path))
        except ScanError:
            broken.append(path)
    volumes = find_volumes(find_series(slices))
    if len(volumes) < 2:
        return {}
    named = {"unreadable": tuple(broken)} if broken else {}
    numbers = [v.number for v in volumes]
    for i, volume in enumerate(volumes):
        mark = volume.number if volume.number and numbers.count(volume.number) == 1 else f"{volume.number or 0}_{i + 1}"
        named[f"series{mark}"] = volume.files
    return named


def choose_series(found: Sequence[Series], folder: Path) -> Series:
    """The only series that is a volume; localisers are passed over.

    Raises:
        ScanError: none, or several.
    """
    volumes = find_volumes(found)
    if len(volumes) > 1:
        listed = ", ".join(map(str, volumes))
        raise ScanError.at(folder, f"holds {len(volumes)} series: {listed}", "one", "put each series in a separate folder")
    if not volumes:
        raise ScanError.at(folder, "holds no DICOM file", "the slices of one series", "check the folder")
    return volumes[0]


def read_series(source: Path | Sequence[Path], options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The volume of a DICOM series, rescaled as its headers say (Hounsfield units for CT).

    Args:
        source: a folder with one series, or its files in any order.

    Raises:
        ScanError: no file is readable, several series, slices missing, doubled, out of line or unevenly spaced, or voxels at no
            distance or at different ones.
    """
    files = dicom_files(source) if isinstance(source, Path) else tuple(source)
    place = source if isinstance(source, Path) else files[0].parent
    series = choose_series(find_series(map(read_slice, files)), place)
    is_flat = len(series.slices) == 1 and not series.is_multiframe
    if not (series.has_spacing or options.spacing or (is_flat and not series.heights)):
        found, advice = f"series {series} has no spacing of its voxels", "correct the headers, or predict with --spacing"
        raise ScanError.at(place, found, "PixelSpacing in every slice", advice)
    _check_spacings(series, place)
    gap = _check_positions(series, place) if len(series.slices) > 1 else 0.0
    volume = _read_only_header(series.files) if options.only_header else _read_pixels(series.files)
    if not series.has_spacing:
        volume = _with_spacing(volume, options.spacing, positioned=bool(series.heights))
    if len(series.slices) > 1:
        volume = replace(volume, grid=_stacked_grid(series, volume.grid, gap, place))
    return replace(volume, files=series.files)


def _stacked_grid(series: Series, grid: Grid, gap: float, place: Path) -> Grid:
    """The grid of slices, each in its place: above one another, or shifted sideways as a tilted gantry shifts them."""
    steps = grid.steps
    normal = np.cross(steps[2], steps[1])
    steps[0] = normal / np.linalg.norm(normal) * gap
    first, last = np.asarray(series.slices[0].position), np.asarray(series.slices[-1].position)
    step = (last - first) / (len(series.slices) - 1)
    if np.linalg.norm(step - steps[0]) > SHEAR_LIMIT * gap:
        steps[0] = step
    placed = make_grid(place, (len(series.slices), *grid.shape[1:]), steps, first)
    return replace(placed, spacing=(placed.spacing[0], *grid.spacing[1:]))


def _with_spacing(volume: RawImage, spacing: Vector | None, *, positioned: bool) -> RawImage:
    """A volume whose files have no pixel spacing, with the spacing that was given, or 1 mm for a picture without position."""
    if positioned:
        return replace(volume, grid=replace(volume.grid, spacing=spacing or volume.grid.spacing))
    return replace(volume, grid=Grid(shape=volume.grid.shape, spacing=spacing or (1.0, 1.0, 1.0)), has_geometry=False)


def _belong_together(one: Slice, other: Slice) -> bool:
    """True if two slices have the same series, size and orientation; a file of many frames is a volume of its own."""
    if (one.uid, one.size, len(one.orientation)) != (other.uid, other.size, len(other.orientation)) or max(
        one.frames, other.frames
    ) > 1:
        return False
    return bool(np.allclose(one.orientation, other.orientation, atol=0.01))


def _series(slices: list[Slice]) -> Series:
    if not all(len(s.position) == 3 and len(s.orientation) == 6 for s in slices):
        return Series(slices=tuple(sorted(slices, key=lambda s: s.path.name)), heights=())
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    normal = normal / (np.linalg.norm(normal) or 1.0)
    ordered = sorted((float(normal @ np.asarray(s.position)), s.path.name, i) for i, s in enumerate(slices))
    return Series(slices=tuple(slices[i] for _, _, i in ordered), heights=tuple(height for height, _, _ in ordered))


def _check_spacings(series: Series, place: Path) -> None:
    spacings = np.asarray([s.spacing for s in series.slices] if all(s.spacing for s in series.slices) else ())
    other = np.argwhere(~np.isclose(spacings, spacings[:1], rtol=SPACING_TOLERANCE, atol=0))
    if len(other):
        i = int(other[0][0])
        one, another = (format_axes(series.slices[k].spacing) for k in (0, i))
        found = f"{series.slices[0].path.name} has voxels of {one} mm and {series.slices[i].path.name} of {another} mm"
        raise ScanError.at(place, found, "one PixelSpacing in a series", "put them in folders of their own, or resample them")


def _check_positions(series: Series, place: Path) -> float:
    """The distance in mm between neighbouring slices.

    Raises:
        ScanError: a slice is missing, there twice, or not at its place in a line with even steps.
    """
    if not series.heights:
        found = f"series {series} has slices without ImagePositionPatient"
        raise ScanError.at(place, found, "a position in every slice", "export the series again with full headers")
    gaps = np.diff(series.heights)
    spacing = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < GAP_TOLERANCE * max(spacing, 1e-6)) if spacing > 0 else np.arange(len(gaps))
    if len(doubled):
        i = int(doubled[0])
        found = f"{series.slices[i].path.name} and {series.slices[i + 1].path.name} are both at {series.heights[i]:.2f} mm"
        raise ScanError.at(place, found, "every slice once", "keep one of them, or one time point of the series")
    wrong = np.flatnonzero(np.abs(gaps - spacing) > GAP_TOLERANCE * spacing)
    if len(wrong):
        raise _uneven(series, place, spacing, [int(i) for i in wrong])
    places = np.asarray([s.position for s in series.slices])
    away = np.linalg.norm(places - np.linspace(places[0], places[-1], len(places)), axis=1)
    if away.max() > GAP_TOLERANCE * spacing:
        i = int(away.argmax())
        found = f"{series.slices[i].path.name} lies {away[i]:.2g} mm away from the line through the first and the last slice"
        raise ScanError.at(place, found, "even steps", "correct its ImagePositionPatient, or resample the series")
    return float(np.mean(gaps))


def _uneven(series: Series, place: Path, spacing: float, wrong: list[int]) -> ScanError:
    shown = ", ".join(f"{series.heights[i]:.2f} to {series.heights[i + 1]:.2f} mm" for i in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    found = f"slices are missing or unevenly spaced: gaps from {shown}{more}"
    return ScanError.at(place, found, f"a slice every {spacing:.3g} mm", "add the missing slices, or resample the series")


def _read_only_header(files: tuple[Path, ...]) -> RawImage:
    """What `_read_pixels` returns, with placeholders for voxels and the grid of the first slice."""
    with no_itk_warnings():
        one = raw_from_itk(files[0], read_header_only(files[0], "GDCMImageIO"))
    if len(files) == 1:
        return one
    return replace(one, voxels=placeholder((len(one.voxels), len(files), *one.voxels.shape[2:]), one.voxels.dtype))


def _read_pixels(files: tuple[Path, ...]) -> RawImage:
    """Voxels as float32: each slice may have another slope."""
    try:
        with no_itk_warnings():
            colours = read_header_only(files[0], "GDCMImageIO").GetNumberOfComponents()
            kind = sitk.sitkVectorFloat32 if colours > 1 else sitk.sitkFloat32
            image = sitk.ReadImage(str(files[0]) if len(files) == 1 else [str(f) for f in files], kind, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be decoded ({itk_message(error)})"
        raise ScanError.at(files[0], found, "readable grey pixels", "export the series again, uncompressed") from error
    return raw_from_itk(files[0], image)
