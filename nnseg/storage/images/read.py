"""Scans and label maps in canonical orientation, of files and of images in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.spatialimages import SpatialImage

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector
from nnseg.core.image import Integers, LabelMap, Scan, Source
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.core.limits import check_limit
from nnseg.storage.images.canonical import canonical_grid, canonical_labels, canonical_part, check_same_grid, onto_first
from nnseg.storage.images.formats import (
    FOLDER_FORMATS,
    FORMATS,
    folder_format,
    read_raw,
    read_raw_file,
    read_raw_labels,
    suffix_of,
)
from nnseg.storage.images.itk import raw_from_itk
from nnseg.storage.images.label_codings import (
    MarkedMap,
    as_mask,
    decode_instances,
    decode_marks,
    mark,
    mark_masks,
    mask_in_colour,
    own_coding,
    whole_numbers,
    without_copies,
)
from nnseg.storage.images.nibabel_files import raw_from_nibabel
from nnseg.storage.images.nrrd import NRRD
from nnseg.storage.images.raw import BYTES_EACH, CHANNEL_TOLERANCE, RawImage, ReadOptions, check_memory, errors_of_file
from nnseg.storage.images.resampling import resampled


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
        ScanError: a file is missing, damaged or no image, or has what only ``repair`` or ``resample`` would correct.

    Example:
        ``read_scan([Path("t1.nii.gz"), Path("flair.nii.gz")]).image.shape == (2, 60, 256, 256)``
    """
    resample = resample or repair
    found = _read_all(images, ReadOptions(spacing=spacing))
    parts = [canonical_part(path, raw, repair=repair, resample=resample) for path, raw in found]
    first = parts[0]
    parts = [first, *(onto_first(part, first, repair=resample) for part in parts[1:])]
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
    grids = [canonical_grid(path, raw, repair=repair) for path, raw in found]
    (first_path, first), grid = found[0], grids[0]
    for (path, raw), other in zip(found[1:], grids[1:], strict=True):
        check_same_grid(path, other, first_path, grid, repair=repair and raw.has_geometry and first.has_geometry)
    return Header(grid=grid, channels=sum(len(raw.voxels) for _, raw in found))


def read_label_map(source: LabelSource | str, *, like: Source | None = None, sheared: bool = False) -> LabelMap:
    """A label map in canonical orientation, its values as stored, or as `LabelFiles` says; outside its field of view as that says.

    Args:
        like: the scan it belongs to; its grid is taken where the label map's format stores no positions (PNG, TIFF), and a label
            map that covers a part of it, whole voxels away, is put into its place.
        sheared: the grid may have axes that are not at right angles, as of a CT with a tilted gantry.

    Raises:
        ScanError: missing, damaged, no image, of several channels, lossy (JPEG), or with values that are not whole numbers; or it
            lies partly outside ``like``.
    """
    source = Path(source) if isinstance(source, str) else source
    label_map = _read_label_map(source, like, sheared=sheared)
    if not isinstance(source, LabelFiles) or source.view is None:
        return label_map
    seen = _read_label_map(LabelFiles(paths=(source.view,), coding="masks", values={"0": 1}), like, sheared=sheared).labels
    _check_beside(source.view, seen, label_map.labels, source, "a mask of the field of view")
    fitting = np.promote_types(label_map.labels.dtype, np.min_scalar_type(source.outside))
    return replace(label_map, labels=np.where(seen, label_map.labels.astype(fitting), source.outside))


def _check_beside(path: Path, voxels: Integers, labels: Integers, source: LabelFiles, what: str) -> None:
    if voxels.shape != labels.shape:
        found = f"has shape {voxels.shape} (z, y, x), but the label map {source.paths[0].name} has {labels.shape}"
        raise ScanError.at(path, found, f"{what} on the same grid", "remove it, or save it again")


def _read_label_map(source: LabelSource, like: Source | None, *, sheared: bool) -> LabelMap:
    path = label_paths(source)[0]
    if isinstance(source, LabelFiles) and (source.coding not in ("values", "instances") or len(source.paths) > 1):
        marked, placed = read_marks(source, like=like, sheared=sheared)
        return replace(placed, labels=decode_marks(path, marked, source))
    raw = read_raw_labels(path, like)
    voxels = without_copies(raw)
    if len(voxels) > 1:
        found = f"has {len(voxels)} channels of different content"
        raise ScanError.at(path, found, "one label value per voxel", "save it as a grey or palette image")
    whole = whole_numbers(path, voxels[0])
    label_map = canonical_labels(path, whole, _note_rounded(raw, whole), like, sheared=sheared)
    if isinstance(source, LabelFiles) and source.coding == "instances":
        return replace(label_map, labels=decode_instances(label_map.labels, source))
    return label_map


def read_labels_of(source: LabelSource, scan: Scan) -> LabelMap:
    """A label map on its scan's grid; one on the sheared grid on which the scan is stored is resampled to right angles with it.

    Raises:
        ScanError: as `read_label_map`.
    """
    return labels_on_grid_of(scan, read_label_map(source, like=scan.source, sheared=True))


def read_objects(source: LabelSource, scan: Scan) -> Integers | None:
    """Numbers of the objects in a label map (Z, Y, X), on its scan's grid; 0 is none. None if the label map does not number them.

    Raises:
        ScanError: as `read_label_map`.
    """
    if not isinstance(source, LabelFiles) or not source.has_numbers:
        return None
    return labels_on_grid_of(scan, read_numbers(source, like=scan.source)).labels


def read_numbers(source: LabelFiles, *, like: Source | None = None, beside: LabelMap | None = None) -> LabelMap:
    """The numbers of the objects in a label map: its values, those of a file beside it, or of several files with an object each.

    Args:
        source: with ``has_numbers``.
        beside: the label map, if it was read already.

    Raises:
        ScanError: as `read_label_map`; a file beside it has another grid.
    """
    if source.objects is not None:
        numbers = read_label_map(source.objects, like=like, sheared=True)
        labels = (beside or read_label_map(source, like=like, sheared=True)).labels
        _check_beside(source.objects, numbers.labels, labels, source, "numbers of objects")
        return numbers
    if len(source.paths) > 1:
        marked, placed = read_marks(source, like=like, sheared=True)
        first = np.array([1 + int(mark[0]) if mark else 0 for mark in marked.marks])  # of objects that overlap
        return replace(placed, labels=first[marked.codes])
    return read_label_map(source.paths[0], like=like, sheared=True)


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
    raw = read_raw_file(path, ReadOptions()) if by_colour else read_raw_labels(path, like)
    channels = len(raw.voxels)
    if not isinstance(source, LabelFiles) or source.coding != "channels":
        raw = replace(raw, voxels=without_copies(raw))
    coding = source.coding if isinstance(source, LabelFiles) else own_coding(raw)
    marked = mark(path, raw, "values" if coding == "instances" else coding)
    raw = _note_rounded(raw, marked.codes) if coding in ("values", "instances") else raw
    placed = canonical_labels(path, marked.codes, raw, like, sheared=sheared)
    notes = (*marked.notes, *placed.notes)
    return replace(marked, coding=coding, codes=placed.labels, channels=channels), replace(placed, notes=notes)


def _note_rounded(raw: RawImage, whole: Integers) -> RawImage:
    """The image with a note, if the whole numbers taken for its values are not exactly these."""
    if raw.voxels.dtype.kind != "f" or np.array_equal(raw.voxels[0], whole):
        return raw
    return replace(
        raw, label_notes=(*raw.label_notes, "its values are whole numbers but for rounding; they were rounded [NS-L003]")
    )


def has_segments(path: Path) -> bool:
    """True if a label map is of a format whose header may describe segments."""
    return suffix_of(path) in NRRD or folder_format(path) is not None


def count_label_channels(source: LabelSource) -> int:
    """Channels of a label map by its header; 0 if that cannot be read."""
    try:
        return len(read_raw_file(label_paths(source)[0], ReadOptions(as_labels=True, only_header=True)).voxels)
    except ScanError:
        return 0


def _read_masks(source: LabelFiles, like: Source | None, *, sheared: bool) -> tuple[MarkedMap, LabelMap]:
    """Masks in files of their own, all on the grid of ``like``, or of the first."""
    parts: list[LabelMap] = []
    notes: list[str] = []
    for path in source.paths:
        raw = read_raw_labels(path, like)
        voxels = mask_in_colour(without_copies(raw))
        if len(voxels) > 1:
            raise ScanError.at(path, f"has {len(voxels)} channels", "a mask of one", "save it as a grey picture")
        mask, unclean = as_mask(path, voxels[0])
        part = canonical_labels(path, mask, raw, like, sheared=sheared)
        if parts and not parts[0].grid.agrees(part.grid, CHANNEL_TOLERANCE):
            found = f"lies on another grid (shape {part.grid.shape}) than {source.paths[0].name} (shape {parts[0].grid.shape})"
            raise ScanError.at(path, found, "all masks of a case on one grid", "resample it with nearest neighbour")
        parts.append(part)
        notes += [*unclean, *part.notes]
    marked = mark_masks([part.labels for part in parts], source.coding, notes=notes)
    return marked, replace(parts[0], labels=marked.codes, notes=marked.notes)


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
            with errors_of_file(paths[0]):
                raw = form.read(paths, options)
            return [(raw.files[0], raw)]
    check_limit("channels", len(paths), paths[0], "is the first of {:,} files", ScanError, "name fewer files", "NS-S037")
    found, values = list[tuple[Path, RawImage]](), 0
    for path in paths:
        found.append((path, read_raw(path, options)))
        values += 0 if options.only_header else found[-1][1].voxels.size
        together = f"is the first of {len(paths)} files, which take {{:,.1f}} GB of memory and more"
        check_memory(paths[0], values * BYTES_EACH, together, "name fewer files")
    return found


def _in_memory(image: Any, number: int, options: ReadOptions) -> tuple[Path, RawImage]:
    """A name for messages, and the content of an image in memory, or of a file among such."""
    if isinstance(image, str | Path):
        return Path(image), read_raw(Path(image), options)
    name = Path(f"image {number}" if number else "the image")
    for kind, read in IN_MEMORY.items():
        if isinstance(image, kind):
            return name, read(name, image)
    what = f"a scan cannot be read from an object of type {type(image).__name__}"
    advice = "of an array, make an image with its affine or spacing first" if isinstance(image, np.ndarray) else "load it first"
    raise ScanError(f"{what}; expected a path, an image of SimpleITK or nibabel, or a list of them; {advice}")
