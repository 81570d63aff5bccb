"""Scans and label maps in canonical orientation; the only place where axes are turned on reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from nibabel.spatialimages import SpatialImage

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector, format_axes
from nnseg.core.image import Floats, LabelMap, Scan, Source
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.storage.images.formats import DICOM, FOLDER_FORMATS, FORMATS, SLICER, folder_format, known_suffixes, suffix_of
from nnseg.storage.images.itk import raw_from_itk
from nnseg.storage.images.label_codings import (
    MarkedMap,
    as_mask,
    decode_instances,
    decode_marks,
    mark,
    mark_masks,
    own_coding,
    whole_numbers,
    without_copies,
)
from nnseg.storage.images.nibabel_files import raw_from_nibabel
from nnseg.storage.images.raw import CHANNEL_TOLERANCE, RawImage, ReadOptions, check_file
from nnseg.storage.images.resampling import NEAR, find_place, resampled, share_inside, upright
from nnseg.storage.images.unread import why_unread

WIDEST, NARROWEST = 3000.0, 0.5
"""Extents in mm: scans that cover more, or less, along an axis get a note."""

RESAMPLE_OVERLAP = 0.95
"""Share of the first channel's voxels that another channel must cover to be resampled onto it."""


RESAMPLED = "was resampled onto the grid"
"""Beginning of the note of a channel that lay on another grid."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a scan before any voxel is read.

    Args:
        grid: the canonical grid that the scan will have.
    """

    grid: Grid
    channels: int


Images = Any
"""A path (`str` or `Path`), an ITK or nibabel image in memory, or a sequence of them, one for each channel."""

IN_MEMORY: dict[type, Callable[..., RawImage]] = {sitk.Image: raw_from_itk, SpatialImage: raw_from_nibabel}
"""Classes of images in memory, and what reads them: functions of a name for messages, and the image."""


def read_scan(images: Images, *, repair: bool = False, resample: bool = False, spacing: Vector | None = None) -> Scan:
    """A scan of one file, of one file per channel, of a DICOM series, or of images in memory, in canonical orientation.

    Args:
        images: a file, or one per channel (a file may hold several channels); a folder is a DICOM series; DICOM files alone are the
            slices of one series. Images of SimpleITK and nibabel may stand for files.
        repair: to predict: NaN and Inf become the least value of their channel, and all is resampled that ``resample`` names.
        resample: to train: sheared volumes are resampled to right angles, and channels on other grids onto the first one's; the
            scan's notes list it, as all repairs. Without, such scans are refused.
        spacing: mm along the stored axes (z, y, x), for files without a usable one.

    Raises:
        ScanError: a file is missing, damaged or no image, or has what only ``repair`` or ``resample`` would mend.

    Example:
        ``read_scan([Path("t1.nii.gz"), Path("flair.nii.gz")]).image.shape == (2, 60, 256, 256)``
    """
    resample = resample or repair
    found = _read_all(images, ReadOptions(spacing=spacing))
    parts = [_canonical_part(path, raw, repair=repair, resample=resample) for path, raw in found]
    first = parts[0]
    parts = [first, *(_onto_first(part, first, repair=resample) for part in parts[1:])]
    source = replace(first.source, files=tuple(file for part in parts for file in part.source.files))
    image = first.image if len(parts) == 1 else np.concatenate([part.image for part in parts])
    return Scan(image=image, grid=first.grid, source=source, notes=tuple(note for part in parts for note in part.notes))


def read_header(images: Images, *, repair: bool = False, spacing: Vector | None = None) -> Header:
    """Grid and channels of a scan, in milliseconds: no voxel is read but those of pictures with transparency.

    Args:
        images: as for `read_scan`, as all others.

    Raises:
        ScanError: as `read_scan`, except for what only the voxels show.
    """
    found = _read_all(images, ReadOptions(only_header=True, spacing=spacing))
    grids = [_canonical_grid(path, raw, repair=repair) for path, raw in found]
    (first_path, first), grid = found[0], grids[0]
    for (path, raw), other in zip(found[1:], grids[1:], strict=True):
        _check_same_grid(path, other, first_path, grid, repair=repair and raw.has_geometry and first.has_geometry)
    return Header(grid=grid, channels=sum(len(raw.voxels) for _, raw in found))


def read_label_map(source: LabelSource | str, *, like: Source | None = None, sheared: bool = False) -> LabelMap:
    """A label map in canonical orientation, its values as stored, or as `LabelFiles` says.

    Args:
        like: the scan it belongs to; its grid is taken where the label map's format stores no positions (PNG, TIFF), and a label
            map that covers a part of it, whole voxels away, is put into its place.
        sheared: the grid may have axes that are not at right angles, as of a CT with a tilted gantry.

    Raises:
        ScanError: missing, damaged, no image, of several channels, lossy (JPEG), or with values that are not whole numbers; or it
            lies partly outside ``like``.
    """
    source = Path(source) if isinstance(source, str) else source
    path = label_paths(source)[0]
    if isinstance(source, LabelFiles) and (source.coding not in ("values", "instances") or len(source.paths) > 1):
        marked, placed = read_marks(source, like=like, sheared=sheared)
        return replace(placed, labels=decode_marks(path, marked, source))
    raw = _read_labels(path)
    voxels = without_copies(raw)
    if len(voxels) > 1:
        found = f"has {len(voxels)} channels of different content"
        raise ScanError.at(path, found, "one label value per voxel", "save it as a grey or palette image")
    label_map = _canonical_labels(path, whole_numbers(path, voxels[0]), raw, like, sheared=sheared)
    if isinstance(source, LabelFiles) and source.coding == "instances":
        return replace(label_map, labels=decode_instances(label_map.labels, source))
    return label_map


def read_labels_of(source: LabelSource, scan: Scan) -> LabelMap:
    """A label map on its scan's grid; one on the sheared grid on which the scan is stored is resampled to right angles with it.

    Raises:
        ScanError: as `read_label_map`.
    """
    return labels_on_grid_of(scan, read_label_map(source, like=scan.source, sheared=True))


def labels_on_grid_of(scan: Scan, label_map: LabelMap) -> LabelMap:
    """A label map on the grid of a scan, whose stored grid it has; each voxel has the nearest value, 0 outside."""
    stored = stored_grid(scan)
    if stored == scan.grid or label_map.grid.shape != stored.shape:
        return label_map
    return replace(label_map, labels=resampled(label_map.labels, stored, scan.grid, order=0), grid=scan.grid)


def stored_grid(scan: Scan) -> Grid:
    """The grid on which a scan is stored, turned to canonical orientation: that of the scan, unless its axes are sheared."""
    return scan.source.grid.reoriented(scan.source.grid.canonical())


def read_marks(source: LabelSource, *, like: Source | None = None, sheared: bool = False) -> tuple[MarkedMap, LabelMap]:
    """The marks of a label map in canonical orientation, and the label map of their codes.

    Args:
        source: a path is read by what the file says of itself (`own_coding`).
        like, sheared: as for `read_label_map`.

    Raises:
        ScanError: as `read_label_map`; several channels are none that can be read as masks or colours.
    """
    path, *others = label_paths(source)
    if isinstance(source, LabelFiles) and (source.coding == "masks" or others):
        return _read_masks(source, like, sheared=sheared)
    by_colour = isinstance(source, LabelFiles) and source.coding == "colours"  # which a palette gives, instead of its indices
    raw = _read_file(path, ReadOptions()) if by_colour else _read_labels(path)
    channels = len(raw.voxels)
    if not isinstance(source, LabelFiles) or source.coding != "channels":
        raw = replace(raw, voxels=without_copies(raw))
    coding = source.coding if isinstance(source, LabelFiles) else own_coding(raw)
    marked = mark(path, raw, "values" if coding == "instances" else coding)
    placed = _canonical_labels(path, marked.codes, raw, like, sheared=sheared)
    notes = (*marked.notes, *placed.notes)
    return replace(marked, coding=coding, codes=placed.labels, channels=channels), replace(placed, notes=notes)


def has_segments(path: Path) -> bool:
    """True if a label map is of a format whose header may describe segments."""
    return suffix_of(path) in SLICER or folder_format(path) is not None


def count_label_channels(source: LabelSource) -> int:
    """Channels of a label map by its header; 0 if that cannot be read."""
    try:
        return len(_read_file(label_paths(source)[0], ReadOptions(as_labels=True, only_header=True)).voxels)
    except ScanError:
        return 0


def _read_masks(source: LabelFiles, like: Source | None, *, sheared: bool) -> tuple[MarkedMap, LabelMap]:
    """Masks in files of their own, all on the grid of ``like``, or of the first."""
    parts: list[LabelMap] = []
    notes: list[str] = []
    for path in source.paths:
        raw = _read_labels(path)
        voxels = without_copies(raw)
        if len(voxels) > 1:
            raise ScanError.at(path, f"has {len(voxels)} channels", "a mask of one", "save it as a grey picture")
        mask, unclean = as_mask(path, voxels[0])
        part = _canonical_labels(path, mask, raw, like, sheared=sheared)
        if parts and not parts[0].grid.matches(part.grid, CHANNEL_TOLERANCE):
            found = f"lies on another grid (shape {part.grid.shape}) than {source.paths[0].name} (shape {parts[0].grid.shape})"
            raise ScanError.at(path, found, "all masks of a case on one grid", "resample it with nearest neighbour")
        parts.append(part)
        notes += [*unclean, *part.notes]
    marked = mark_masks([part.labels for part in parts], source.coding, notes=notes)
    return marked, replace(parts[0], labels=marked.codes, notes=marked.notes)


def _canonical_labels(path: Path, voxels: npt.NDArray[Any], raw: RawImage, like: Source | None, *, sheared: bool) -> LabelMap:
    """Voxels (Z, Y, X) turned to canonical orientation, and put into their place in ``like``."""
    grid, *notes = (raw.grid,) if like is None or raw.has_geometry else _grid_by_scan(raw, like)
    if not sheared:
        _check_shear(path, grid)
    turn, files = grid.canonical(), raw.files or (path,)
    turned, turned_grid = np.ascontiguousarray(turn.apply(voxels)), grid.reoriented(turn)
    whole = like.grid.reoriented(like.grid.canonical()) if like and _says_where(raw, like) else turned_grid
    if place := find_place(path, turned_grid, whole):
        pasted = np.zeros(whole.shape, turned.dtype)
        pasted[place.slices] = turned
        extent = f"{format_axes(turned_grid.shape)} of {format_axes(whole.shape)} voxels"
        notes.append(f"covers {extent} of its image; it was put at {place.start} (z, y, x)")
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


DRAWN_UPRIGHT = (
    "is taken as drawn on the upright picture, not on the stored pixels, which EXIF data say to turn; its shape fits both"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
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


def _read_all(images: Images, options: ReadOptions) -> list[tuple[Path, RawImage]]:
    """Each file or folder as stored; several files that are parts of one image, such as slices, as one."""
    given = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not given:
        raise ScanError("a scan needs at least one image file")
    if not all(isinstance(image, str | Path) for image in given):
        return [_in_memory(image, number, options) for number, image in enumerate(given)]
    paths = [Path(path) for path in given]
    alone = len(paths) < 2 or not all(path.is_file() and suffix_of(path) not in FORMATS for path in paths)
    for form in () if alone else FOLDER_FORMATS.values():
        if any(form.is_part(path) for path in paths):  # the others may be damaged slices
            raw = form.read(paths, options)
            return [(raw.files[0], raw)]
    return [(path, _read(path, options)) for path in paths]


def _in_memory(image: Any, number: int, options: ReadOptions) -> tuple[Path, RawImage]:
    """A name for messages, and the content of an image in memory, or of a file among such."""
    if isinstance(image, str | Path):
        return Path(image), _read(Path(image), options)
    name = Path(f"image {number}" if number else "the image")
    for kind, read in IN_MEMORY.items():
        if isinstance(image, kind):
            return name, read(name, image)
    what = f"a scan cannot be read from an object of type {type(image).__name__}"
    advice = "of an array, make an image with its affine or spacing first" if isinstance(image, np.ndarray) else "load it first"
    raise ScanError(f"{what}; expected a path, an image of SimpleITK or nibabel, or a list of them; {advice}")


def _read(path: Path, options: ReadOptions) -> RawImage:
    if path.is_dir():
        return (folder_format(path) or DICOM).read(path, options)
    form = folder_format(path)
    return form.read([path], options) if form else _read_file(path, options)


def _read_labels(path: Path) -> RawImage:
    """The label map of a file, or of a folder of files of a format that has label maps of its own."""
    form = folder_format(path)
    options = ReadOptions(as_labels=True)
    return form.read_labels(path, options) if form and form.read_labels else _read_file(path, options)


def _read_file(path: Path, options: ReadOptions) -> RawImage:
    """The content of a file, by the reader of its suffix."""
    check_file(path)
    form = FORMATS.get(suffix_of(path))
    if form is None:
        if reason := why_unread(path):
            raise ScanError(f"{path}: {reason}")
        raise ScanError.at(path, f'has the unknown suffix "{suffix_of(path)}"', f"one of {known_suffixes()}", "convert it")
    if options.as_labels and form.lossy:
        found = "is a JPEG label map, whose values compression has changed"
        raise ScanError.at(path, found, "a lossless file", "export the original masks as PNG")
    try:
        return form.read(path, options)
    except OSError as error:
        raise ScanError.at(path, f"cannot be read ({error})", "a readable file", "check the disk") from error


def _says_where(raw: RawImage, like: Source) -> bool:
    """True if a label map says where it lies in a scan: one of another shape that begins at the same position may lack a header."""
    if not raw.has_geometry:
        return False
    apart = np.subtract(raw.grid.origin, like.grid.origin)
    return bool(raw.segments) or float(np.linalg.norm(apart)) > NEAR * min(like.grid.spacing)


def _canonical_grid(path: Path, raw: RawImage, *, repair: bool) -> Grid:
    """The grid that a scan will have: turned, and at right angles."""
    if not repair:
        _check_shear(path, raw.grid)
    return upright(raw.grid.reoriented(raw.grid.canonical()))


def _canonical_part(path: Path, raw: RawImage, *, repair: bool, resample: bool) -> _Part:
    grid, turn, notes = _canonical_grid(path, raw, repair=resample), raw.grid.canonical(), list(raw.notes)
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
        notes.append(f"its axes are sheared (cosine {turned.shear:.3g}); it was resampled to right angles and the labels back")
    if repair:
        notes += _extent_note(grid) if raw.length_unit in ("mm", "m", "cm") else []
        notes += [f"channel {i} has the same value everywhere" for i, c in enumerate(image) if c.min() == c.max()]
    source = Source(
        files=raw.files or (path,),
        grid=raw.grid,
        is_2d=raw.is_2d,
        length_unit=raw.length_unit,
        exif=raw.exif,
    )
    named = tuple(f"{path.name}: {note}" for note in notes)
    return _Part(path=path, image=image, grid=grid, source=source, has_geometry=raw.has_geometry, notes=named)


def _resample_channels(image: Floats, grid: Grid, onto: Grid) -> Floats:
    """(C, Z, Y, X) on another grid, linearly; the least value of each channel outside."""
    return np.stack([resampled(channel, grid, onto, order=1, outside=float(channel.min())) for channel in image])


def _extent_note(grid: Grid) -> list[str]:
    """A note if a scan is larger than any patient, or smaller than a voxel mostly is: its units may be wrong."""
    widths = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True) if n > 1]
    if not widths or (max(widths) < WIDEST and min(widths) > NARROWEST):
        return []
    shown = " x ".join(f"{n * s:.3g}" for n, s in zip(grid.shape, grid.spacing, strict=True))
    return [f"it covers {shown} mm (z, y, x); are the units of its header right?"]


def _fill_not_finite(path: Path, image: Floats) -> tuple[Floats, str]:
    """The image with NaN and Inf replaced by the least finite value of their channel, and a note of their number."""
    good = np.isfinite(image)
    if not good.any(axis=(1, 2, 3)).all():
        raise ScanError.at(path, "has a channel without any finite voxel", "intensities", "export it again")
    least = [float(c.min(where=g, initial=np.inf)) for c, g in zip(image, good, strict=True)]
    counts = " and ".join(f"{int(n)} {kind}" for kind, n in (("NaN", np.isnan(image).sum()), ("Inf", np.isinf(image).sum())) if n)
    values = ", ".join(f"{v:g}" for v, g in zip(least, good, strict=True) if not g.all())
    filled = np.where(good, image, np.asarray(least, np.float32)[:, None, None, None])
    return filled, f"{counts} voxels were replaced by the least value of their channel ({values})"


def _onto_first(part: _Part, first: _Part, *, repair: bool) -> _Part:
    """A channel on the grid of the first one; without positions it cannot be resampled, only be refused or taken as it is."""
    _check_same_grid(part.path, part.grid, first.path, first.grid, repair=repair and part.has_geometry and first.has_geometry)
    if first.grid.matches(part.grid, CHANNEL_TOLERANCE):
        return part
    note = f"{part.path.name}: {RESAMPLED} of {first.path.name}"
    image = _resample_channels(part.image, part.grid, first.grid)
    return replace(part, image=image, grid=first.grid, notes=(*part.notes, note))


def _check_same_grid(path: Path, grid: Grid, first_path: Path, first: Grid, *, repair: bool) -> None:
    if repair:
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
    raise ScanError.at(path, found, "all channels of a scan on one grid", "resample this channel onto the first")


def _check_shear(path: Path, grid: Grid) -> None:
    if grid.is_sheared:
        found = f"has sheared axes (cosine {grid.shear:.3g} between two of them, for instance from a tilted gantry)"
        raise ScanError.at(path, found, "axes at right angles", "resample it to a rectangular grid")


def _not_finite(path: Path, voxels: npt.NDArray[Any]) -> ScanError:
    kinds = [(name, where) for name, where in (("NaN", np.isnan(voxels)), ("Inf", np.isinf(voxels))) if where.any()]
    counts = " and ".join(f"{int(where.sum())} {name}" for name, where in kinds)
    found = f"has {counts} voxels, the first at (z, y, x) = {_first(kinds[0][1].any(axis=0))} as stored"
    return ScanError.at(path, found, "finite intensities", "replace them, for instance by the background's value")


def _first(where: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
