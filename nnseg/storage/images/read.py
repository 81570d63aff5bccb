"""Scans and label maps by suffix. The only place where axes are turned: everything read is in canonical orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector
from nnseg.core.image import Floats, Integers, LabelMap, Scan, Source
from nnseg.storage.images.dicom import is_dicom, read_series
from nnseg.storage.images.formats import FORMATS, LOSSLESS_PICTURE, known, suffix_of
from nnseg.storage.images.itk import stored as stored_in
from nnseg.storage.images.raw import CHANNEL_TOLERANCE, SHEAR_LIMIT, RawImage, ReadOptions, check_file, compact
from nnseg.storage.images.resampling import resampled, share_inside, upright

WHOLE_TOLERANCE = 1e-3
"""How far a stored label value may lie from a whole number: slope and intercept of a header leave such crumbs."""

WIDEST, NARROWEST = 3000.0, 0.5
"""In mm: scans that cover more, or less, along an axis get a note."""

RESAMPLE_OVERLAP = 0.95
"""The share of the first channel's voxels that another must cover to be resampled onto it."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What files say of a scan, before any voxel is read.

    Args:
        grid: the canonical grid that the scan will have.
        channels: it will have.
    """

    grid: Grid
    channels: int


def read_scan(images: str | Path | Sequence[str | Path], *, mend: bool = False, spacing: Vector | None = None) -> Scan:
    """A scan of one file, of one file per channel, or of a DICOM series, in canonical orientation.

    Args:
        images: a file, or one per channel (a file may hold several channels); a folder is a DICOM series; DICOM files alone are the
            slices of one series.
        mend: to predict: NaN and Inf become the least value of their channel, sheared volumes and channels on other grids are
            resampled, and the scan's notes say so. Otherwise, to train, such scans are refused.
        spacing: mm along the stored axes (z, y, x), taken where a file says none, or none that can be.

    Raises:
        ScanError: a file is missing, damaged or no image, or has what only ``mend`` would mend.

    Example:
        ``read_scan([Path("t1.nii.gz"), Path("flair.nii.gz")]).image.shape == (2, 60, 256, 256)``
    """
    parts = [_part(read, mend=mend) for read in _read_all(images, ReadOptions(spacing=spacing))]
    first = parts[0]
    parts = [first, *(_onto_first(part, first, mend=mend) for part in parts[1:])]
    image = first.image if len(parts) == 1 else np.concatenate([p.image for p in parts])
    notes = tuple(note for part in parts for note in part.notes)
    source = Source(files=tuple(f for part in parts for f in part.files), grid=first.stored_grid, is_2d=first.is_2d)
    return Scan(image=image, grid=first.grid, source=source, notes=notes)


def scan_of(image: sitk.Image) -> Scan:
    """The scan that an ITK image holds, in canonical orientation; what `read_scan` mends is mended.

    Raises:
        ScanError: its pixels or axes are none of a scan's.
    """
    path = Path("the image")
    part = _part(_StoredChannels(path=path, files=(path,), stored=stored_in(path, image)), mend=True)
    source = Source(files=part.files, grid=part.stored_grid, is_2d=part.is_2d)
    return Scan(image=part.image, grid=part.grid, source=source, notes=part.notes)


def read_header(images: str | Path | Sequence[str | Path], *, mend: bool = False, spacing: Vector | None = None) -> Header:
    """What the files of a scan say of it, in milliseconds: no voxel is read but those of pictures with transparency.

    Args:
        images: as for `read_scan`, as all others.

    Raises:
        ScanError: as `read_scan`, but for what only the voxels can tell.
    """
    reads = _read_all(images, ReadOptions(only_header=True, spacing=spacing))
    grids = [_canonical(read, mend=mend) for read in reads]
    for read, grid in zip(reads[1:], grids[1:], strict=True):
        placed = read.stored.has_geometry and reads[0].stored.has_geometry
        _check_same_grid(read.path, grid, reads[0].path, grids[0], mend=mend and placed)
    return Header(grid=grids[0], channels=sum(len(read.stored.voxels) for read in reads))


def read_label_map(path: Path, *, like: Source | None = None) -> LabelMap:
    """A label map in canonical orientation, its values as stored.

    Args:
        path: one file.
        like: the scan it belongs to; its grid is taken where the label map's format stores no positions (PNG, TIFF).

    Raises:
        ScanError: missing, damaged, no image, of several channels, lossy (JPEG), or with values that are not whole numbers.
    """
    stored = _read(path, ReadOptions(as_labels=True))
    voxels = stored.voxels
    if len(voxels) > 1 and all(np.array_equal(voxels[0], other) for other in voxels[1:]):
        voxels = voxels[:1]  # a grey picture saved in colour
    if len(voxels) > 1:
        found = f"has {len(voxels)} channels of different content"
        raise ScanError.at(path, found, "one label value per voxel", "save it as a grey or palette image")
    grid = stored.grid
    if like is not None and not stored.has_geometry and grid.shape == like.grid.shape:
        grid = like.grid
    if grid.shear > SHEAR_LIMIT:
        raise _sheared(path, grid)
    turn = grid.canonical()
    labels = np.ascontiguousarray(turn.apply(_whole_numbers(path, voxels[0])))
    return LabelMap(labels=labels, grid=grid.reoriented(turn))


@dataclass(frozen=True, kw_only=True, eq=False)
class _StoredChannels:
    """One or more channels as stored."""

    path: Path
    files: tuple[Path, ...]
    stored: RawImage


@dataclass(frozen=True, kw_only=True, eq=False)
class _CanonicalChannels:
    """One or more channels, turned to canonical orientation."""

    path: Path
    files: tuple[Path, ...]
    image: Floats
    grid: Grid
    stored_grid: Grid
    is_2d: bool
    has_geometry: bool
    notes: tuple[str, ...]


def _read_all(images: str | Path | Sequence[str | Path], asked: ReadOptions) -> list[_StoredChannels]:
    paths = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    if not paths:
        raise ScanError("a scan needs at least one image file")
    if len(paths) > 1 and all(p.is_file() and is_dicom(p) for p in paths):
        return [_read_series(paths, asked)]
    return [_read_channel(path, asked) for path in paths]


def _read_channel(path: Path, asked: ReadOptions) -> _StoredChannels:
    if path.is_dir() or (path.is_file() and suffix_of(path) not in FORMATS and is_dicom(path)):
        return _read_series(path if path.is_dir() else [path], asked)
    return _StoredChannels(path=path, files=(path,), stored=_read(path, asked))


def _read_series(source: Path | Sequence[Path], asked: ReadOptions) -> _StoredChannels:
    volume = read_series(source, asked)
    return _StoredChannels(path=source if isinstance(source, Path) else volume.files[0], files=volume.files, stored=volume.stored)


def _read(path: Path, asked: ReadOptions) -> RawImage:
    """What a file holds, by the reader of its suffix."""
    check_file(path)
    form = FORMATS.get(suffix_of(path))
    if form is None:
        raise ScanError.at(path, f'has the unknown suffix "{suffix_of(path)}"', f"one of {known()}", "convert it")
    if asked.as_labels and form.instead == LOSSLESS_PICTURE:
        raise ScanError.at(path, "is a JPEG label map, whose values compression has changed", "a lossless file", _PNG)
    return form.read(path, asked)


_PNG = "export the original masks as PNG"


def _canonical(read: _StoredChannels, *, mend: bool) -> Grid:
    """The grid that a scan will have: turned, and at right angles."""
    grid = read.stored.grid
    if grid.shear > SHEAR_LIMIT and not mend:
        raise _sheared(read.path, grid)
    return upright(grid.reoriented(grid.canonical()))


def _part(read: _StoredChannels, *, mend: bool) -> _CanonicalChannels:
    stored, grid = read.stored, _canonical(read, mend=mend)
    turn = stored.grid.canonical()
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes Inf, and is refused or mended below
        image = np.ascontiguousarray(turn.apply(stored.voxels), np.float32)
    notes = list(stored.notes)
    if stored.voxels.dtype.kind == "f" and not np.isfinite(image).all():
        if not mend:
            raise _not_finite(read.path, stored.voxels.astype(np.float32))
        image, note = _finite(read.path, image)
        notes.append(note)
    turned = stored.grid.reoriented(turn)
    if grid != turned:
        image = np.stack([resampled(c, turned, grid, order=1, outside=float(c.min())) for c in image])
        notes.append(f"its axes are sheared (cosine {turned.shear:.3g}); it was resampled to right angles and the labels back")
    if mend:
        notes += _wide_note(grid)
        notes += [f"channel {i} has the same value everywhere" for i, c in enumerate(image) if c.min() == c.max()]
    named = tuple(f"{read.path.name}: {note}" for note in notes)
    return _CanonicalChannels(
        path=read.path,
        files=read.files,
        image=image,
        grid=grid,
        stored_grid=stored.grid,
        is_2d=stored.is_2d,
        has_geometry=stored.has_geometry,
        notes=named,
    )


def _wide_note(grid: Grid) -> list[str]:
    """A note if a scan is wider than what there is to scan, or narrower than a voxel mostly is: units may be wrong."""
    widths = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True) if n > 1]
    if not widths or (max(widths) < WIDEST and min(widths) > NARROWEST):
        return []
    shown = " x ".join(f"{n * s:.3g}" for n, s in zip(grid.shape, grid.spacing, strict=True))
    return [f"it covers {shown} mm (z, y, x); are the units of its header right?"]


def _finite(path: Path, image: Floats) -> tuple[Floats, str]:
    """The image with the least finite value of its channel wherever it has none, and a note of how often."""
    good = np.isfinite(image)
    if not good.any(axis=(1, 2, 3)).all():
        raise ScanError.at(path, "has a channel without any finite voxel", "intensities", "export it again")
    least = [float(c.min(where=g, initial=np.inf)) for c, g in zip(image, good, strict=True)]
    counts = " and ".join(f"{int(n)} {kind}" for kind, n in (("NaN", np.isnan(image).sum()), ("Inf", np.isinf(image).sum())) if n)
    values = ", ".join(f"{v:g}" for v, g in zip(least, good, strict=True) if not g.all())
    filled = np.where(good, image, np.asarray(least, np.float32)[:, None, None, None])
    return filled, f"{counts} voxels were replaced by the least value of their channel ({values})"


def _onto_first(part: _CanonicalChannels, first: _CanonicalChannels, *, mend: bool) -> _CanonicalChannels:
    """A channel on the grid of the first; one that knows no positions cannot be brought there, only lie there."""
    placed = part.has_geometry and first.has_geometry
    _check_same_grid(part.path, part.grid, first.path, first.grid, mend=mend and placed)
    if first.grid.matches(part.grid, CHANNEL_TOLERANCE):
        return part
    image = np.stack([resampled(c, part.grid, first.grid, order=1, outside=float(c.min())) for c in part.image])
    note = f"{part.path.name}: was resampled onto the grid of {first.path.name}"
    return replace(part, image=image, grid=first.grid, notes=(*part.notes, note))


def _check_same_grid(path: Path, grid: Grid, first_path: Path, first: Grid, *, mend: bool) -> None:
    advice = "resample this channel onto the first"
    if mend:
        share = share_inside(first, grid)
        if share < RESAMPLE_OVERLAP:
            found = f"covers {share:.0%} of channel {first_path.name}"
            raise ScanError.at(path, found, f"at least {RESAMPLE_OVERLAP:.0%}", "check that both are of one scan")
        return
    if grid.shape != first.shape:
        found = f"has shape {grid.shape} (canonical z, y, x), but channel {first_path.name} has {first.shape}"
    elif not first.matches(grid, CHANNEL_TOLERANCE):
        found = f"lies up to {first.largest_gap(grid):.3g} mm away from channel {first_path.name}"
    else:
        return
    raise ScanError.at(path, found, "all channels of a scan on one grid", advice)


def _sheared(path: Path, grid: Grid) -> ScanError:
    found = f"has sheared axes (cosine {grid.shear:.3g} between two of them, for instance from a tilted gantry)"
    return ScanError.at(path, found, "axes at right angles", "resample it to a rectangular grid")


def _not_finite(path: Path, voxels: npt.NDArray[Any]) -> ScanError:
    kinds = [(name, found) for name, found in (("NaN", np.isnan(voxels)), ("Inf", np.isinf(voxels))) if found.any()]
    counts = " and ".join(f"{int(found.sum())} {name}" for name, found in kinds)
    first = _first(kinds[0][1].any(axis=0))
    found = f"has {counts} voxels, the first at (z, y, x) = {first} as stored"
    return ScanError.at(path, found, "finite intensities", "replace them, for instance by the background's value")


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
        raise ScanError.at(path, found, "label values", "resample label maps with nearest neighbour, not interpolation")
    whole: Integers = rounded.astype(compact(rounded))
    return whole


def _first(where: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
