"""Predictions as files: label maps and maps of floats, each on its scan's own grid, in the scan's format or another."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, Integers, LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.storage.files import write_aside
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, Writer, folder_format, known_suffixes, suffix_of
from nnseg.storage.images.raw import CHANNEL_TOLERANCE, smallest_integer_type
from nnseg.storage.images.resampling import resampled, upright
from nnseg.storage.images.sidecar import sidecar_content, sidecar_path, write_sidecar

log = logging.getLogger(__name__)


def write_label_files(
    label_map: LabelMap, folder: Path, name: str, *, like: Source, labels: Labels, suffix: str | None = None
) -> tuple[Path, ...]:
    """The files written for a scan's label map, the label map itself first.

    Args:
        label_map: on the canonical grid of ``like``.
        suffix: ``.dcm`` for DICOM-SEG. By default the scan's own where that can hold labels, else ``.nii.gz``; for a scan read from
            DICOM ``.nii.gz``, and DICOM-SEG beside it.

    Raises:
        ScanError: the format is unknown, lossy, or cannot hold these values or this shape.
        RunError: the folder cannot be written to.
    """
    written: tuple[Path, ...] = ()
    chosen = next((form for form in FOLDER_FORMATS.values() if form.write and form.suffix == suffix), None)
    if chosen is None:
        written = write_label_map(label_map, folder / (name + (suffix or label_suffix(like))), like=like, labels=labels)
    form = folder_format(like.files[0]) if suffix is None else chosen
    if form is None or form.write is None:
        return written
    path = folder / (name + form.suffix)
    try:
        form.write(to_stored_order(label_map, like), path, like=like, labels=labels)
    except ScanError as error:
        if chosen:
            raise
        log.warning("%s", error)
        return written
    return (*written, path)


def write_label_map(
    label_map: LabelMap,
    path: str | Path,
    *,
    like: Source,
    labels: Labels | None = None,
    dtype: npt.DTypeLike | None = None,
) -> tuple[Path, ...]:
    """Write a label map on the scan's own grid, turned back, for NIfTI with the scan's own header; returns the files.

    Those are the label map, and the spacing beside it where its format has no place for that.

    Args:
        label_map: on the canonical grid of ``like``.
        path: its suffix chooses the format; a complete file appears under this name, or none.
        labels: whose names the file gets, where its format has a place for them.
        dtype: of the numbers; by default the smallest that holds the values.

    Raises:
        ScanError: the format is unknown, lossy, or cannot hold these values or this shape.
        RunError: the folder cannot be written to.
    """
    stored = to_stored_order(label_map, like)
    return _write(stored.astype(smallest_integer_type(stored) if dtype is None else dtype), Path(path), like, "label maps", labels)


def write_map(map_ZYX: Floats, path: str | Path, *, like: Source) -> None:
    """Write a map of floats, such as uncertainty, on the scan's own grid as `write_label_map` writes label maps.

    Args:
        map_ZYX: float32, on the canonical grid of ``like``.
        path: its suffix chooses the format; a complete file appears under this name, or none.

    Raises:
        ScanError: the format is unknown, or holds no floats.
        RunError: the folder cannot be written to.
    """
    _write(map_to_stored_order(map_ZYX, like), Path(path), like, "maps of floats")


def map_to_stored_order(map_ZYX: Floats, like: Source) -> Floats:
    """A map of floats (Z, Y, X) in the stored order of a scan.

    Raises:
        ScanError: it is not on the scan's grid.
    """
    grid = upright(like.grid.reoriented(like.grid.canonical()))
    if map_ZYX.shape != grid.shape:
        raise _wrong_grid(f"the map (shape {map_ZYX.shape})", like)
    return _to_stored_order(map_ZYX, grid, like, order=1).astype(np.float32, copy=False)


def to_stored_order(label_map: LabelMap, like: Source) -> Integers:
    """The labels (Z, Y, X) in the stored order of a scan.

    Raises:
        ScanError: the label map is not on the scan's grid.
    """
    grid = upright(like.grid.reoriented(like.grid.canonical()))
    if not label_map.grid.matches(grid, CHANNEL_TOLERANCE):
        raise _wrong_grid(f"the label map (shape {label_map.grid.shape})", like)
    return _to_stored_order(label_map.labels, label_map.grid, like, order=0)


def label_suffix(source: Source) -> str:
    """The suffix a prediction for this scan is written with: the scan's own where that is lossless and one file."""
    suffix = suffix_of(source.files[0])
    form = FORMATS.get(suffix)
    return ".nii.gz" if form is None else form.label_suffix or suffix


def _to_stored_order(voxels: npt.NDArray[Any], grid: Grid, like: Source, *, order: int) -> npt.NDArray[Any]:
    """Voxels (Z, Y, X) of a canonical grid in the stored order of a scan, sheared as it is."""
    turn = like.grid.canonical()
    wanted = like.grid.reoriented(turn)
    if wanted.is_sheared:
        voxels = resampled(voxels, grid, wanted, order=order)
    return np.ascontiguousarray(turn.inverse().apply(voxels))


def _write(voxels: npt.NDArray[Any], path: Path, like: Source, what: str, labels: Labels | None = None) -> tuple[Path, ...]:
    """The files written: the voxels, and the spacing where they need one beside them."""
    write = _writer(path, what, floats=voxels.dtype.kind == "f")
    with write_aside(path) as aside:
        try:
            write(voxels, aside, like=like, labels=labels)
        except ScanError as error:
            raise ScanError(str(error).replace(str(aside), str(path))) from error
    if not _needs_spacing(path, like):
        return (path,)
    write_sidecar(path, like)
    return path, sidecar_path(path)


def check_label_suffix(suffix: str, scan: Path | None = None) -> None:
    """Raise ScanError unless label maps, of a scan if its first file is given, are written with this suffix."""
    chosen = next(((name, form) for name, form in FOLDER_FORMATS.items() if form.write and form.suffix == suffix), None)
    if chosen is None:
        _writer(Path(f"CASE{suffix}"), "label maps", floats=False)
    elif scan is not None and (suffix_of(scan) in FORMATS or folder_format(scan) not in (None, chosen[1])):
        raise ScanError.at(scan, f"is no {chosen[0]} image", f"a scan read from {chosen[0]}", "write .nii.gz instead")


def _writer(path: Path, what: str, *, floats: bool) -> Writer:
    """What writes a file.

    Raises:
        ScanError: its format is unknown, or holds no such voxels.
    """
    form = FORMATS.get(suffix_of(path))
    instead = "" if form is None else form.map_suffix if floats else form.label_suffix
    if form is None or form.write is None or instead:
        found = f'{what} are not written as "{suffix_of(path)}"'
        raise ScanError.at(path, found, f"one of {known_suffixes(writable=True)}", f"write {instead or '.nii.gz'}")
    return form.write


def _needs_spacing(path: Path, like: Source) -> bool:
    """True if the spacing is written to a file beside: 1 mm needs none."""
    form = FORMATS.get(suffix_of(path))
    return form is not None and form.spacing_beside(like) and bool(sidecar_content(path, like))


def _wrong_grid(what: str, like: Source) -> ScanError:
    place = f"the grid of {like.files[0].name} (shape {like.grid.shape})"
    return ScanError(f"{what} is not on {place}; predict and write on the same scan")


LEVEL = 1
"""Compression level of probabilities: most are 0 or 1, which the fastest level packs as well as any."""


def write_probabilities(probabilities_KZYX: Floats, path: Path, *, heads: Sequence[str]) -> None:
    """Write probabilities to a file that ``numpy.load`` opens: float16 ``probabilities`` (K, Z, Y, X), and ``heads``, K names.

    Equal probabilities give equal bytes.

    Args:
        probabilities_KZYX: may be a memory map, which is read slice by slice.
        path: ends in ".npz".
        heads: the labels' or regions' names.

    Raises:
        RunError: the file cannot be written.
    """
    described = {"descr": "<f2", "fortran_order": False, "shape": probabilities_KZYX.shape}
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        with archive.open("probabilities.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, described)
            for volume in probabilities_KZYX:
                for plane in volume:
                    file.write(np.ascontiguousarray(plane, "<f2").tobytes())
        with archive.open("heads.npy", "w") as file:
            np.lib.format.write_array(file, np.array(heads, dtype=np.str_), allow_pickle=False)
