"""Scans and label maps by suffix. The only place where axes are turned: everything read is in canonical orientation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, Integers, LabelMap, Scan, Source
from nnseg.storage.dicom import is_dicom, read_series
from nnseg.storage.files import write_aside, write_text
from nnseg.storage.itk import read_itk, write_itk
from nnseg.storage.nifti import is_nifti, read_nifti, write_nifti_like
from nnseg.storage.pictures import read_picture, read_tiff, write_picture, write_tiff
from nnseg.storage.stored import Stored, check_file, refuse

WHOLE_TOLERANCE = 1e-3
"""How far a stored label value may lie from a whole number: slope and intercept of a header leave such crumbs."""

CHANNEL_TOLERANCE = 0.1
"""In voxels: how far apart two channels of a scan may lie. Headers of co-registered images differ by rounding."""

Reader = Callable[[Path, bool], Stored]
Writer = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of one suffix are read and written.

    Args:
        read: (path, as_labels) -> Stored.
        write: (labels in stored order, path, grid, *, is_2d); None if nnseg does not write this format.
        instead: the suffix a label map gets where this format cannot or should not hold one.
    """

    read: Reader
    write: Writer | None
    instead: str = ""


def suffix_of(path: Path) -> str:
    """The suffix of an image file in lower case, with the dot; ".nii.gz" counts as one."""
    name = path.name.lower()
    return next((s for s in sorted(FORMATS, key=len, reverse=True) if name.endswith(s)), path.suffix.lower())


def stem_of(path: Path) -> str:
    """A file's name without the suffix that `suffix_of` finds."""
    return path.name[: len(path.name) - len(suffix_of(path))] if suffix_of(path) else path.name


def read_scan(images: str | Path | Sequence[str | Path]) -> Scan:
    """A scan of one file, of one file per channel, or of a DICOM series, in canonical orientation.

    Args:
        images: a file, or one per channel (a file may hold several channels); a folder is a DICOM series; DICOM files alone are the
            slices of one series.

    Raises:
        ScanError: a file is missing, damaged or no image, has NaN or Inf voxels, or the channels do not lie on one grid.

    Example:
        ``read_scan([Path("t1.nii.gz"), Path("flair.nii.gz")]).image.shape == (2, 60, 256, 256)``
    """
    paths = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    if not paths:
        raise ScanError("a scan needs at least one image file")
    if len(paths) > 1 and all(p.is_file() and is_dicom(p) for p in paths):
        series = read_series(paths)
        parts, files = [_part(series.files[0], series.stored)], series.files
    else:
        read = [_read_channel(path) for path in paths]
        parts, files = [part for part, _ in read], tuple(f for _, fs in read for f in fs)
    grid = parts[0].grid
    for path, part in zip(paths[1:], parts[1:], strict=False):
        _check_same_grid(path, part.grid, paths[0], grid)
    image = parts[0].image if len(parts) == 1 else np.concatenate([p.image for p in parts])
    return Scan(image=image, grid=grid, source=Source(files=files, grid=parts[0].stored_grid, is_2d=parts[0].is_2d))


def read_label_map(path: Path, *, like: Source | None = None) -> LabelMap:
    """A label map in canonical orientation, its values as stored.

    Args:
        path: one file.
        like: the scan it belongs to; its grid is taken where the label map's format stores no positions (PNG, TIFF).

    Raises:
        ScanError: missing, damaged, no image, of several channels, lossy (JPEG), or with values that are not whole numbers.
    """
    stored = _read(path, as_labels=True)
    voxels = stored.voxels
    if len(voxels) > 1 and all(np.array_equal(voxels[0], other) for other in voxels[1:]):
        voxels = voxels[:1]  # a grey picture saved in colour
    if len(voxels) > 1:
        found = f"has {len(voxels)} channels of different content"
        raise refuse(path, found, expected="one label value per voxel", advice="save it as a grey or palette image")
    grid = stored.grid
    if like is not None and not stored.has_geometry and grid.shape == like.grid.shape:
        grid = like.grid
    turn = grid.canonical()
    labels = np.ascontiguousarray(turn.apply(_whole_numbers(path, voxels[0])))
    return LabelMap(labels=labels, grid=grid.reoriented(turn))


def write_label_map(label_map: LabelMap, path: str | Path, *, like: Source) -> None:
    """Write a label map on the scan's own grid: turned back, and for NIfTI with the scan's own header.

    Args:
        label_map: on the canonical grid of ``like``.
        path: its suffix chooses the format; a complete file appears under this name, or none.
        like: the scan.

    Raises:
        ScanError: the format is unknown, lossy, or cannot hold these values or this shape.
        RunError: the folder cannot be written to.
    """
    turn = like.grid.canonical()
    if not label_map.grid.matches(like.grid.reoriented(turn), CHANNEL_TOLERANCE):
        found = f"the label map (shape {label_map.grid.shape}) is not on the grid of {like.files[0].name} (shape {like.grid.shape})"
        raise ScanError(f"{path}: {found}; predict and write on the same scan")
    labels = np.ascontiguousarray(turn.inverse().apply(label_map.labels))
    labels = labels.astype(_compact(labels))
    path = Path(path)
    suffix = suffix_of(path)
    form = FORMATS.get(suffix)
    if form is None or form.write is None:
        found = f'label maps are not written as "{suffix}"'
        raise refuse(path, found, expected=f"one of {_known(writable=True)}", advice=f"write {form.instead if form else '.nii.gz'}")
    with write_aside(path) as aside:
        if suffix in NIFTI and _has_nifti_header(like.files[0]):
            write_nifti_like(labels, aside, like.files[0])
        else:
            form.write(labels, aside, like.grid, is_2d=like.is_2d)
    if suffix in TIFF and like.grid.spacing != (1.0, 1.0, 1.0):
        write_text(path.with_suffix(".json"), json.dumps({"spacing": like.grid.spacing}))


def label_suffix(source: Source) -> str:
    """The suffix a prediction for this scan is written with: the scan's own where that is lossless and one file."""
    suffix = suffix_of(source.files[0])
    form = FORMATS.get(suffix)
    return ".nii.gz" if form is None else form.instead or suffix


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One or more channels, turned to canonical orientation."""

    image: Floats
    grid: Grid
    stored_grid: Grid
    is_2d: bool


def _read_channel(path: Path) -> tuple[_Part, tuple[Path, ...]]:
    if path.is_dir() or (path.is_file() and suffix_of(path) not in FORMATS and is_dicom(path)):
        series = read_series(path if path.is_dir() else [path])
        return _part(path, series.stored), series.files
    return _part(path, _read(path, as_labels=False)), (path,)


def _read(path: Path, *, as_labels: bool) -> Stored:
    """What a file holds, by the reader of its suffix."""
    check_file(path)
    form = FORMATS.get(suffix_of(path))
    if form is None:
        raise refuse(path, f'has the unknown suffix "{suffix_of(path)}"', expected=f"one of {_known()}", advice="convert it")
    if as_labels and form.instead == LOSSLESS_PICTURE:
        raise refuse(path, "is a JPEG label map, whose values compression has changed", expected="a lossless file", advice=_PNG)
    return form.read(path, as_labels)


_PNG = "export the original masks as PNG"


def _part(path: Path, stored: Stored) -> _Part:
    turn = stored.grid.canonical()
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes Inf, and is refused below
        image = np.ascontiguousarray(turn.apply(stored.voxels), np.float32)
    if stored.voxels.dtype.kind == "f" and not np.isfinite(image).all():
        raise _not_finite(path, stored.voxels.astype(np.float32))
    return _Part(image=image, grid=stored.grid.reoriented(turn), stored_grid=stored.grid, is_2d=stored.is_2d)


def _not_finite(path: Path, voxels: npt.NDArray[Any]) -> ScanError:
    kinds = [(name, found) for name, found in (("NaN", np.isnan(voxels)), ("Inf", np.isinf(voxels))) if found.any()]
    counts = " and ".join(f"{int(found.sum())} {name}" for name, found in kinds)
    first = _first(kinds[0][1].any(axis=0))
    found = f"has {counts} voxels, the first at (z, y, x) = {first} as stored"
    return refuse(path, found, expected="finite intensities", advice="replace them, for instance by the background's value")


def _whole_numbers(path: Path, voxels: npt.NDArray[Any]) -> Integers:
    """Label values as integers; floats are rounded where the difference is a crumb of scaling."""
    if voxels.dtype.kind in "ui":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    rounded = np.rint(voxels)
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(voxels - rounded) <= WHOLE_TOLERANCE) | (np.abs(rounded) > 2**31)
    if bad.any():
        first = _first(bad)
        found = (
            f"has {int(bad.sum())} voxels that are no whole numbers, the first {voxels[first]:g} at (z, y, x) = {first} as stored"
        )
        raise refuse(path, found, expected="label values", advice="resample label maps with nearest neighbour, not interpolation")
    whole: Integers = rounded.astype(_compact(rounded))
    return whole


def _compact(labels: npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest integer type that file formats know and that holds all values."""
    lowest, highest = int(labels.min()), int(labels.max())
    kinds = (np.uint8, np.uint16, np.uint32) if lowest >= 0 else (np.int16, np.int32)
    return next((np.dtype(k) for k in kinds if np.iinfo(k).min <= lowest and highest <= np.iinfo(k).max), np.dtype(np.int64))


def _first(where: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))


def _check_same_grid(path: Path, grid: Grid, first_path: Path, first: Grid) -> None:
    if grid.shape != first.shape:
        found = f"has shape {grid.shape} (canonical z, y, x), but channel {first_path.name} has {first.shape}"
    elif not first.matches(grid, CHANNEL_TOLERANCE):
        found = f"lies up to {first.largest_gap(grid):.3g} mm away from channel {first_path.name}"
    else:
        return
    raise refuse(path, found, expected="all channels of a scan on one grid", advice="resample this channel onto the first")


def _has_nifti_header(path: Path) -> bool:
    return suffix_of(path) in NIFTI and path.is_file() and is_nifti(path)


def _known(*, writable: bool = False) -> str:
    return " ".join(s for s, form in FORMATS.items() if form.write or not writable)


NIFTI = (".nii.gz", ".nii")
TIFF = (".tif", ".tiff")
LOSSLESS_PICTURE = ".png"

FORMATS: dict[str, Format] = {
    ".nii.gz": Format(read=read_nifti, write=write_itk),
    ".nii": Format(read=read_nifti, write=write_itk),
    ".mha": Format(read=read_itk, write=write_itk),
    ".mhd": Format(read=read_itk, write=None, instead=".mha"),
    ".nrrd": Format(read=read_itk, write=write_itk),
    ".gipl": Format(read=read_itk, write=write_itk),
    ".png": Format(read=read_picture, write=write_picture),
    ".bmp": Format(read=read_picture, write=write_picture),
    ".tif": Format(read=read_tiff, write=write_tiff),
    ".tiff": Format(read=read_tiff, write=write_tiff),
    ".jpg": Format(read=read_picture, write=None, instead=LOSSLESS_PICTURE),
    ".jpeg": Format(read=read_picture, write=None, instead=LOSSLESS_PICTURE),
}
