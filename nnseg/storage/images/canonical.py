"""Raw images as scans and label maps in canonical orientation; the only place where axes are turned on reading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, format_axes
from nnseg.core.image import Floats, LabelMap, Source
from nnseg.storage.images.raw import CHANNEL_TOLERANCE, RawImage
from nnseg.storage.images.resampling import NEAR, find_place, resampled, share_inside, upright

WIDEST, NARROWEST = 3000.0, 0.5
"""Extents in mm: scans that cover more, or less, along an axis get a note."""

RESAMPLE_OVERLAP = 0.95
"""Share of the first channel's voxels that another channel must cover to be resampled onto it."""

RESAMPLED = "was resampled onto the grid"
"""Beginning of the note of a channel that lay on another grid."""

DRAWN_UPRIGHT = (
    "is taken as drawn on the upright picture, not on the stored pixels, which EXIF data say to turn; its shape fits both"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One or more channels of a scan, turned to canonical orientation.

    Args:
        path: that messages name.
        has_geometry: False if the format stores no positions.
    """

    path: Path
    image: Floats
    grid: Grid
    source: Source
    has_geometry: bool
    notes: tuple[str, ...]


def canonical_grid(path: Path, raw: RawImage, *, repair: bool) -> Grid:
    """The grid that a scan will have: turned, and at right angles."""
    if not repair:
        _check_shear(path, raw.grid)
    return upright(raw.grid.reoriented(raw.grid.canonical()))


def canonical_part(path: Path, raw: RawImage, *, repair: bool, resample: bool) -> Part:
    """A raw image turned, and repaired as the options say, or refused."""
    grid, turn, notes = canonical_grid(path, raw, repair=resample), raw.grid.canonical(), list(raw.notes)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes Inf, and is refused or replaced below
        image = np.ascontiguousarray(turn.apply(raw.voxels), np.float32)
    if raw.voxels.dtype.kind == "f" and not np.isfinite(image).all():
        if not repair:
            raise _not_finite(path, raw.voxels.astype(np.float32))
        image, note = _fill_not_finite(path, image)
        notes.append(note)
    turned = raw.grid.reoriented(turn)
    if grid != turned:
        image = _resample_channels(image, turned, grid)
        notes.append(
            f"its axes are sheared (cosine {turned.shear:.3g}); it was resampled to right angles and the labels back [NS-S018]"
        )
    if repair or resample:
        notes += _extent_note(grid) if raw.length_unit in ("mm", "m", "cm") else []
    if repair:
        notes += [f"channel {i} has the same value everywhere [NS-S009]" for i, c in enumerate(image) if c.min() == c.max()]
    source = Source(
        files=raw.files or (path,),
        grid=raw.grid,
        is_2d=raw.is_2d,
        length_unit=raw.length_unit,
        exif=raw.exif,
    )
    named = tuple(f"{path.name}: {note}" for note in notes)
    return Part(path=path, image=image, grid=grid, source=source, has_geometry=raw.has_geometry, notes=named)


def _resample_channels(image: Floats, grid: Grid, onto: Grid) -> Floats:
    """(C, Z, Y, X) on another grid, linearly; the least value of each channel outside."""
    return np.stack([resampled(channel, grid, onto, order=1, outside=float(channel.min())) for channel in image])


def _extent_note(grid: Grid) -> list[str]:
    """A note if a scan is larger than any patient, or smaller than a voxel mostly is: its units may be wrong."""
    widths = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True) if n > 1]
    if not widths or (max(widths) < WIDEST and min(widths) > NARROWEST):
        return []
    shown = " x ".join(f"{n * s:.3g}" for n, s in zip(grid.shape, grid.spacing, strict=True))
    return [f"it covers {shown} mm (z, y, x); are the units of its header right? [NS-S014]"]


def _fill_not_finite(path: Path, image: Floats) -> tuple[Floats, str]:
    """The image with NaN and Inf replaced by the least finite value of their channel, and a note of their number."""
    good = np.isfinite(image)
    if not good.any(axis=(1, 2, 3)).all():
        raise ScanError.at(path, "has a channel without any finite voxel", "intensities", "export it again", "NS-S006")
    least = [float(c.min(where=g, initial=np.inf)) for c, g in zip(image, good, strict=True)]
    counts = " and ".join(f"{int(n)} {kind}" for kind, n in (("NaN", np.isnan(image).sum()), ("Inf", np.isinf(image).sum())) if n)
    values = ", ".join(f"{v:g}" for v, g in zip(least, good, strict=True) if not g.all())
    filled = np.where(good, image, np.asarray(least, np.float32)[:, None, None, None])
    return filled, f"{counts} voxels were replaced by the least value of their channel ({values}) [NS-S007]"


def onto_first(part: Part, first: Part, *, repair: bool) -> Part:
    """A channel on the grid of the first one; without positions it cannot be resampled, only be refused or taken as it is."""
    check_same_grid(part.path, part.grid, first.path, first.grid, repair=repair and part.has_geometry and first.has_geometry)
    if first.grid.matches(part.grid, CHANNEL_TOLERANCE):
        return part
    note = f"{part.path.name}: {RESAMPLED} of {first.path.name} [NS-S022]"
    image = _resample_channels(part.image, part.grid, first.grid)
    return replace(part, image=image, grid=first.grid, notes=(*part.notes, note))


def check_same_grid(path: Path, grid: Grid, first_path: Path, first: Grid, *, repair: bool) -> None:
    """Raise ScanError if a channel is not on the grid of the first; to be resampled, it need only cover most of it."""
    if repair:
        share = share_inside(first, grid)
        if share < RESAMPLE_OVERLAP:
            found = f"covers {share:.0%} of channel {first_path.name}"
            raise ScanError.at(
                path,
                found,
                f"at least {RESAMPLE_OVERLAP:.0%}",
                "check that both are of one scan, or leave it out with --channels",
                "NS-S023",
            )
        return
    if grid.shape != first.shape:
        found = f"has shape {grid.shape} (canonical z, y, x), but channel {first_path.name} has {first.shape}"
    elif not first.matches(grid, CHANNEL_TOLERANCE):
        found = f"lies up to {first.largest_gap(grid):.3g} mm away from channel {first_path.name}"
    else:
        return
    raise ScanError.at(path, found, "all channels of a scan on one grid", "resample this channel onto the first", "NS-S023")


def canonical_labels(path: Path, voxels: npt.NDArray[Any], raw: RawImage, like: Source | None, *, sheared: bool) -> LabelMap:
    """Voxels (Z, Y, X) turned to canonical orientation, and put into their place in ``like``."""
    grid, *notes = (raw.grid,) if like is None or raw.has_geometry else _grid_by_scan(raw, like)
    notes += [*raw.label_notes, *(raw.notes if raw.has_geometry else ())]
    if not sheared:
        _check_shear(path, grid)
    turn, files = grid.canonical(), raw.files or (path,)
    turned, turned_grid = np.ascontiguousarray(turn.apply(voxels)), grid.reoriented(turn)
    whole = like.grid.reoriented(like.grid.canonical()) if like and _says_where(raw, like) else turned_grid
    if place := find_place(path, turned_grid, whole):
        pasted = np.zeros(whole.shape, turned.dtype)
        pasted[place.slices] = turned
        extent = f"{format_axes(turned_grid.shape)} of {format_axes(whole.shape)} voxels"
        notes.append(f"covers {extent} of its image; it was put at {place.start} (z, y, x) [NS-L013]")
        turned, turned_grid = pasted, whole
    source = Source(files=files, grid=grid, is_2d=raw.is_2d, length_unit=raw.length_unit, exif=raw.exif)
    return LabelMap(labels=turned, grid=turned_grid, source=source, notes=tuple(f"{path.name}: {note}" for note in notes))


def _grid_by_scan(raw: RawImage, like: Source) -> tuple[Grid, *tuple[str, ...]]:
    """The grid, as stored, of a label map whose format stores no positions, and notes: that of its scan, where the shapes fit.

    Of a photo that EXIF says to turn, label maps are drawn upright or on the stored pixels: the shape says which, if only one fits.
    """
    upright_grid = like.grid.reoriented(like.grid.canonical())
    if raw.has_spacing and like.has_spacing and not np.allclose(sorted(raw.grid.spacing), sorted(like.grid.spacing), rtol=0.01):
        return (raw.grid,)
    fits, fits_upright = raw.grid.shape == like.grid.shape, raw.grid.shape == upright_grid.shape
    if raw.exif != 1 or (like.exif != 1 and fits_upright):
        return (upright_grid if raw.exif == 1 else raw.grid, *((DRAWN_UPRIGHT,) if fits and raw.exif == 1 else ()))
    return (like.grid if fits else raw.grid,)


def _says_where(raw: RawImage, like: Source) -> bool:
    """True if a label map says where it lies in a scan: one of another shape that begins at the same position may lack a header."""
    if not raw.has_geometry:
        return False
    apart = np.subtract(raw.grid.origin, like.grid.origin)
    return bool(raw.segments) or float(np.linalg.norm(apart)) > NEAR * min(like.grid.spacing)


def _check_shear(path: Path, grid: Grid) -> None:
    if grid.is_sheared:
        found = f"has sheared axes (cosine {grid.shear:.3g} between two of them, for instance from a tilted gantry)"
        raise ScanError.at(path, found, "axes at right angles", "resample it to a rectangular grid", "NS-S019")


def _not_finite(path: Path, voxels: npt.NDArray[Any]) -> ScanError:
    kinds = [(name, where) for name, where in (("NaN", np.isnan(voxels)), ("Inf", np.isinf(voxels))) if where.any()]
    counts = " and ".join(f"{int(where.sum())} {name}" for name, where in kinds)
    found = f"has {counts} voxels, the first at (z, y, x) = {_first(kinds[0][1].any(axis=0))} as stored"
    return ScanError.at(path, found, "finite intensities", "replace them, for instance by the background's value", "NS-S006")


def _first(where: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
