"""DICOM images: frames placed by their headers, sorted into volumes, checked for completeness, decoded and rescaled.

A volume inside a file of several is named by a path below the file: ``scan.dcm/echo2``.

Headers are read by pydicom, whose elements are the standard's; pixels as `dicom_pixels` says. Why not highdicom's volumes,
dicom2nifti or ITK's sorter: docs/decisions/dicom-by-frames.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import list_some
from nnseg.core.errors import ScanError
from nnseg.core.geometry import SHEAR_LIMIT, Grid, Vector, as_shape, as_vector, format_axes
from nnseg.core.image import VOXEL
from nnseg.storage.images.dicom_frame import DicomFile, Frame
from nnseg.storage.images.dicom_frames import read_file
from nnseg.storage.images.dicom_headers import WHOLE_SLIDE, dicom_files, kind_name, name_pattern, no_scan
from nnseg.storage.images.dicom_pixels import read_planes
from nnseg.storage.images.dicom_units import unit_of
from nnseg.storage.images.dicom_volumes import Volume, find_volumes
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, check_size, make_grid, placeholder

EVEN, NEARLY_EVEN = 0.01, 0.1
"""Shares of the slice spacing by which slices may lie beside even steps: without a note, and with one."""

SPACING_TOLERANCE = 1e-3
"""Share by which the PixelSpacing of slices may differ: headers round it."""


def split_path(path: Path) -> tuple[Path, str]:
    """The file of a path, and the name of a volume in it: ("scan.dcm", "echo2") of scan.dcm/echo2, ("scan.dcm", "") of scan.dcm."""
    return (path.parent, path.name) if path.parent.is_file() else (path, "")


def sort_files(files: Iterable[Path]) -> tuple[dict[str, tuple[Path, ...]], dict[Path, str]]:
    """The volumes among DICOM files, and the files that are no scans, by their headers, each of which is read once.

    Returns:
        The files of each volume by a name for it, {} if there is but one. A volume that shares a file with others is named as a
        path in it. Files whose headers cannot be read belong to the series that their names lie between, or to
        "unreadable".
        Those of the files that are no scans or localisers, or are passed over beside longer series, with the reason.
    """
    kinds = {path: no_scan(path) for path in files}
    read, broken = _read_files(path for path, kind in kinds.items() if not kind)
    found = find_volumes(read)
    scans = _scans(found)
    reasons = {path: f"is a DICOM {kind}" for path, kind in kinds.items() if kind}
    kept = {path for volume in scans for path in volume.files}
    for volume in found:
        why = "is a localiser" if volume.file.is_localiser else "is a single slice beside longer series"
        reasons |= {path: why for path in volume.files if path not in kept or volume.file.is_localiser}
    return _by_name(*_with_broken(scans, broken)), reasons


def _by_name(volumes: Sequence[Volume], loose: tuple[Path, ...]) -> dict[str, tuple[Path, ...]]:
    """The files of each volume, and the unreadable ones that belong to none, by a name; {} if there is but one volume."""
    if len(volumes) + bool(loose) < 2 or not volumes:
        return {}
    shared = Counter(path for volume in volumes for path in volume.files)
    named = {"unreadable": loose} if loose else {}
    for name, volume in zip(_names(volumes), volumes, strict=True):
        inside = len(volume.files) == 1 and shared[volume.files[0]] > 1
        named[name] = (volume.files[0] / (volume.name or name),) if inside else volume.files
    return named


def read_series(source: Path | Sequence[Path], options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """A volume of a DICOM series, rescaled as its headers say: HU for CT, SUV for PET (`dicom_units`).

    Args:
        source: a folder with one series, or its files in any order, or the only file; a volume in a file of several is named by a
            path below the file.

    Raises:
        ScanError: no file is readable, several volumes, slices missing, doubled, out of line or unevenly spaced, voxels at no
            distance or at different ones, frames that follow in time, or no image at all.
    """
    paths = dicom_files(source) if isinstance(source, Path) else tuple(source)
    place = source if isinstance(source, Path) else paths[0] if len(paths) == 1 else paths[0].parent
    volume = choose_volume([split_path(path) for path in paths], place)
    _check_kind(volume, place, options)
    grid, notes, placed = _grid(volume, place, options.spacing)
    unit, factor, lacking = unit_of(volume.file, volume.frames[0])
    frames = [replace(f, slope=f.slope * factor, intercept=f.intercept * factor) for f in volume.frames]
    shape = (volume.frames[0].colours, *grid.shape)
    check_size(place, shape, np.float32, options, held=sum(file.stat().st_size for file in volume.files), packing="any")
    return RawImage(
        voxels=placeholder(shape, np.float32) if options.only_header else read_planes(frames),
        grid=grid,
        has_geometry=placed,
        length_unit="mm" if placed or options.spacing else VOXEL,
        notes=(*notes, lacking) if lacking else notes,
        files=volume.files,
        unit=unit,
    )


def choose_volume(paths: Sequence[tuple[Path, str]], place: Path) -> Volume:
    """The volume that is named, or the only one; localisers and single slices beside longer series are passed over.

    Args:
        paths: files, each with the name of a volume in it, or "".

    Raises:
        ScanError: a file cannot be read, there is no such volume, or there are several.
    """
    name = next((name for _, name in paths if name), "")
    volumes = _scans(find_volumes(read_file(path) for path, _ in paths))
    if not volumes:
        others = sorted(set(sort_files(place.iterdir())[1].values())) if place.is_dir() else []
        found = "holds no DICOM file of a scan" + (f"; one {', one '.join(others)}" if others else "")
        raise ScanError.at(place, found, "the slices of one series", "check the folder", "NS-S004")
    if name:
        return _named(volumes, name, paths[0][0])
    if len(volumes) == 1:
        return volumes[0]
    if len(paths) == 1:
        listed = ", ".join(v.name for v in volumes)
        found = f"holds {len(volumes)} volumes: {listed}"
        raise ScanError.at(place, found, "one", f"name one as {paths[0][0].name}/{volumes[0].name}", "NS-S035")
    of_one = len({v.file.uid for v in volumes}) == 1
    listed = ", ".join(map(str, volumes))
    found = f"holds {len(volumes)} {'volumes' if of_one else 'series'}: {listed}"
    raise ScanError.at(place, found, "one", f"put each {'volume' if of_one else 'series'} in a separate folder", "NS-S035")


def _named(volumes: Sequence[Volume], name: str, file: Path) -> Volume:
    found = [v for v in volumes if v.name == name]
    if len(found) != 1:
        listed = ", ".join(v.name for v in volumes if v.name) or "one volume, without a name"
        raise ScanError.at(file / name, "there is no such volume in the file", listed, "name one of these")
    return found[0]


def _read_files(paths: Iterable[Path]) -> tuple[list[DicomFile], list[Path]]:
    """The headers of files, and the files whose headers cannot be read."""
    read, broken = [], []
    for path in paths:
        try:
            read.append(read_file(path))
        except ScanError:
            broken.append(path)
    return read, broken


def _scans(found: Sequence[Volume]) -> tuple[Volume, ...]:
    """The volumes that are scans: no localisers, and no single slices beside longer series."""
    volumes = [v for v in found if not v.file.is_localiser] or list(found)
    return tuple([v for v in volumes if len(v.frames) > 1 or v.name] or volumes)


def _with_broken(volumes: Sequence[Volume], broken: Sequence[Path]) -> tuple[tuple[Volume, ...], tuple[Path, ...]]:
    """Volumes with the unreadable files that lie, by name, between their slices; and the other unreadable files."""
    owners = {path: i for i, volume in enumerate(volumes) for path in volume.files}
    added: dict[int, list[Path]] = {}
    loose = []
    for path in broken:
        alike = sorted((p for p in (*owners, path) if name_pattern(p) == name_pattern(path)), key=_by_numbers)
        at = alike.index(path)
        near = {owners[p] for p in (*alike[max(0, at - 1) : at], *alike[at + 1 : at + 2])}
        for i in near:
            added.setdefault(i, []).append(path)
        if not near:
            loose.append(path)
    if len(volumes) < 2 and broken:
        return tuple(replace(v, broken=tuple(broken)) for v in volumes), ()
    return tuple(replace(v, broken=tuple(added.get(i, ()))) for i, v in enumerate(volumes)), tuple(loose)


def _by_numbers(path: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)], path.name


def _names(volumes: Sequence[Volume]) -> list[str]:
    """Names of volumes: the number of the series, and what differs within it."""
    names = [f"series{v.number or 0}" + (f"_{v.name}" if v.name else "") for v in volumes]
    names = [
        f"{n}_{v.plane}" if names.count(n) > 1 and _planes_differ(volumes, v) else n for n, v in zip(names, volumes, strict=True)
    ]
    return [f"{name}_{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _planes_differ(volumes: Sequence[Volume], volume: Volume) -> bool:
    """True if the volumes of a volume's series lie in different planes."""
    planes = [v.plane for v in volumes if v.file.uid == volume.file.uid]
    return len(set(planes)) == len(planes) > 1


def _check_kind(volume: Volume, place: Path, options: ReadOptions) -> None:
    """Raise ScanError for frames that are no volume: clips, tiles of a slide, stacks of which nothing is known."""
    if len(volume.frames) == 1 or volume.heights:
        return
    count, kind, pictures = len(volume.frames), kind_name(volume.file.kind), "export single frames as pictures"
    if volume.file.kind.startswith(WHOLE_SLIDE):
        raise ScanError.at(place, f"is a whole slide image of {count} tiles", "slices of a volume", "export a region of it as TIFF")
    if len(volume.files) > 1:
        found = f"series {volume} has slices without ImagePositionPatient or with a wrong ImageOrientationPatient"
        raise ScanError.at(place, found, "a position in every slice", "export the series again with full headers")
    if volume.file.in_time:
        raise ScanError.at(place, f"is a clip of {count} frames in time ({kind})", "slices of a volume", pictures)
    if volume.frames[0].colours > 1:
        raise ScanError.at(place, f"is a clip of {count} colour frames ({kind})", "slices of a volume", pictures)
    if any(frame.position for frame in volume.frames):
        found = f"has {count} frames of which some have no position or orientation"
        raise ScanError.at(place, found, "a position of each frame", "export it again")
    if options.spacing is None:
        advice = "predict with --spacing if they are even slices, or export it again"
        raise ScanError.at(place, f"has {count} frames without positions ({kind})", "a position of each frame", advice)


def _grid(volume: Volume, place: Path, given: Vector | None) -> tuple[Grid, tuple[str, ...], bool]:
    """The grid of a volume, notes of what was assumed, and whether its spacing is the header's.

    Raises:
        ScanError: it is not complete, or its spacing is not known.
    """
    first, count = volume.frames[0], len(volume.frames)
    shape = as_shape((count, *first.size))
    said = _check_spacings(volume, place)
    if not said and not given and (count > 1 or volume.heights):
        found, advice = f"series {volume} has no spacing of its voxels", "correct the headers, or predict with --spacing"
        raise ScanError.at(place, found, "PixelSpacing in every slice", advice, "NS-S012")
    gap, uneven = _check_positions(volume, place) if count > 1 and volume.heights else (None, ())
    depth = gap or first.depth or (given[0] if given else 1.0)
    rows, columns = said or (given[1:] if given else (1.0, 1.0))
    spacing = as_vector((depth, rows, columns))
    thin = bool(volume.heights) and not (gap or first.depth or given)
    notes = (
        ("its header has neither SliceThickness nor SpacingBetweenSlices; its slice counts as 1 mm thick [NS-S027]",)
        if thin
        else uneven
    )
    if not volume.heights:
        origin = as_vector(first.position or (0.0, 0.0, 0.0))
        return Grid(shape=shape, spacing=spacing, origin=origin), notes, bool(said)
    steps = _steps(first, spacing)
    if gap:
        steps[0] = _step(volume, steps[0], gap)
    grid = make_grid(place, shape, steps, np.asarray(first.position))
    # the exact spacing, because a norm may be off in the last digit
    return replace(grid, spacing=as_vector((grid.spacing[0] if gap else depth, rows, columns))), notes, True


def _steps(frame: Frame, spacing: Vector) -> npt.NDArray[np.float64]:
    """(3, 3) mm: from slice to slice along the normal, from row to row, from column to column."""
    along_row, along_column = (np.asarray(v) / np.linalg.norm(v) for v in (frame.orientation[:3], frame.orientation[3:]))
    normal = np.cross(along_row, along_column)
    return np.stack([normal / np.linalg.norm(normal) * spacing[0], along_column * spacing[1], along_row * spacing[2]])


def _step(volume: Volume, upward: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.float64]:
    """mm from slice to slice: along the normal or against it, or shifted sideways as a tilted gantry shifts them."""
    first, last = (np.asarray(volume.frames[i].position) for i in (0, -1))
    step = (last - first) / (len(volume.frames) - 1)
    straight = upward if volume.heights[-1] > volume.heights[0] else -upward
    sheared = bool(np.linalg.norm(step - straight) > SHEAR_LIMIT * gap)
    return np.asarray(step if sheared else straight)


def _check_spacings(volume: Volume, place: Path) -> tuple[float, ...]:
    """mm between rows and columns; () if a frame does not say it.

    Raises:
        ScanError: frames say different ones.
    """
    if not all(frame.spacing for frame in volume.frames):
        return ()
    spacings = np.asarray([frame.spacing for frame in volume.frames])
    other = np.argwhere(~np.isclose(spacings, spacings[:1], rtol=SPACING_TOLERANCE, atol=0))
    if len(other):
        i = int(other[0][0])
        one, another = (format_axes(volume.frames[k].spacing) for k in (0, i))
        found = f"{_named_frame(volume.frames[0])} has voxels of {one} mm and {_named_frame(volume.frames[i])} of {another} mm"
        raise ScanError.at(
            place, found, "one PixelSpacing in a series", "put them in folders of their own, or resample them", "NS-S035"
        )
    return volume.frames[0].spacing


def _check_positions(volume: Volume, place: Path) -> tuple[float, tuple[str, ...]]:
    """The distance in mm between neighbouring slices, and a note if they are not quite even.

    Raises:
        ScanError: a slice is missing, there twice, or not at its place in a line with even steps.
    """
    if volume.missing:
        found = f"series {volume} lacks {volume.missing} of the {len(volume.frames) + volume.missing} slices of its other volumes"
        raise ScanError.at(place, found, "all slices", "add the missing slices, or remove this volume", "NS-S033")
    gaps = np.abs(np.diff(volume.heights))
    spacing = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < EVEN * max(spacing, 1e-6)) if spacing > 0 else np.arange(len(gaps))
    if len(doubled):
        i = int(doubled[0])
        one, other = (_named_frame(volume.frames[k]) for k in (i, i + 1))
        found = f"{one} and {other} are both at {volume.heights[i]:.2f} mm"
        raise ScanError.at(place, found, "every slice once", "keep one of them, or one time point of the series", "NS-S034")
    return float(np.mean(gaps)), _check_steps(volume, place, gaps, spacing)


def _check_steps(volume: Volume, place: Path, gaps: npt.NDArray[np.float64], spacing: float) -> tuple[str, ...]:
    """A note if slices lie a little beside even steps, as dcm2niix takes them.

    Raises:
        ScanError: a slice lies further away.
    """
    places, heights = (np.asarray(at) for at in ([frame.position for frame in volume.frames], volume.heights))
    away = np.linalg.norm(places - np.linspace(places[0], places[-1], len(places)), axis=1)
    along = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if along.max() > NEARLY_EVEN * spacing:
        raise _uneven(volume, place, spacing, np.flatnonzero(np.abs(gaps - spacing) > EVEN * spacing).tolist())
    if away.max() > NEARLY_EVEN * spacing:
        i = int(away.argmax())
        found = f"{_named_frame(volume.frames[i])} lies {away[i]:.2g} mm away from the line through the first and the last slice"
        raise ScanError.at(place, found, "even steps", "correct its ImagePositionPatient, or resample the series", "NS-S033")
    if away.max() <= EVEN * spacing and np.abs(gaps - spacing).max() <= EVEN * spacing:
        return ()
    return (
        f"its slices lie up to {away.max():.2g} mm beside even steps of {np.mean(gaps):.3g} mm, as which they are taken [NS-S036]",
    )


def _named_frame(frame: Frame) -> str:
    """A slice in messages: its file, and its number in a file of several."""
    return frame.path.name + (f" frame {frame.index + 1}" if frame.index else "")


def _uneven(volume: Volume, place: Path, spacing: float, wrong: list[int]) -> ScanError:
    gaps = [f"{volume.heights[i]:.2f} to {volume.heights[i + 1]:.2f} mm" for i in wrong]
    found = f"slices are missing or unevenly spaced: gaps from {list_some(gaps, 5)}"
    return ScanError.at(
        place, found, f"a slice every {spacing:.3g} mm", "add the missing slices, or resample the series", "NS-S033"
    )
