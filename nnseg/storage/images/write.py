"""Answers written: label maps and maps of floats, each on its scan's own grid, in the scan's format or another."""

from __future__ import annotations

import json
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
from nnseg.storage.files import write_aside, write_text
from nnseg.storage.images.dicom import is_dicom
from nnseg.storage.images.dicom_seg import INSTALL, can_write_dicom_seg, write_dicom_seg
from nnseg.storage.images.formats import FORMATS, TIFF, Writer, known, suffix_of
from nnseg.storage.images.raw import CHANNEL_TOLERANCE, SHEAR_LIMIT, compact
from nnseg.storage.images.resampling import resampled, upright

log = logging.getLogger(__name__)

DICOM_SEG = ".dcm"


def write_answer(
    label_map: LabelMap, folder: Path, name: str, *, like: Source, labels: Labels, form: str | None = None
) -> tuple[Path, ...]:
    """The files written for a scan's label map, the label map itself first.

    Args:
        label_map: on the canonical grid of ``like``.
        folder: where to.
        name: of the case.
        like: the scan.
        labels: names and values.
        form: a suffix, ``.dcm`` for DICOM-SEG. By default the scan's own where that can hold labels, else ``.nii.gz``; for a scan
            read from DICOM ``.nii.gz``, and DICOM-SEG beside it if the extra ``dicom`` is installed and the headers allow it.

    Raises:
        ScanError: the format is unknown, lossy, or cannot hold these values or this shape.
        RunError: the folder cannot be written to, or DICOM-SEG was asked for and the extra is not installed.
    """
    written: tuple[Path, ...] = ()
    if form != DICOM_SEG:
        path = folder / (name + (form or label_suffix(like)))
        write_label_map(label_map, path, like=like)
        written = (path, *(p for p in [path.with_suffix(".json")] if _needs_spacing(path, like)))
    if form == DICOM_SEG or (form is None and from_dicom(like) and _has_extra(name)):
        path = folder / (name + DICOM_SEG)
        try:
            write_dicom_seg(as_stored(label_map, like), path, like=like, labels=labels)
        except ScanError as error:
            if form == DICOM_SEG:
                raise
            log.warning("%s", error)
        else:
            written += (path,)
    return written


def from_dicom(source: Source) -> bool:
    """True if a scan was read from DICOM."""
    return suffix_of(source.files[0]) not in FORMATS and is_dicom(source.files[0])


def _has_extra(name: str) -> bool:
    if not can_write_dicom_seg():
        log.info("case %s: no DICOM-SEG beside the label map, which %s would make possible", name, INSTALL)
        return False
    return True


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
    path, labels = Path(path), as_stored(label_map, like)
    form = FORMATS.get(suffix_of(path))
    if form is None or form.write is None:
        raise _not_written(path, "label maps", form.instead if form else "")
    _write(labels.astype(compact(labels)), path, form.write, like)


def write_map(map_ZYX: Floats, path: str | Path, *, like: Source) -> None:
    """Write a map of floats, such as uncertainty, on the scan's own grid as `write_label_map` writes label maps.

    Args:
        map_ZYX: float32, on the canonical grid of ``like``.
        path: its suffix chooses the format; a complete file appears under this name, or none.
        like: the scan.

    Raises:
        ScanError: the format is unknown, or holds no floats.
        RunError: the folder cannot be written to.
    """
    path = Path(path)
    form = FORMATS.get(suffix_of(path))
    if form is None or form.write is None or form.instead_of_floats:
        raise _not_written(path, "maps of floats", form.instead_of_floats if form else "")
    grid = upright(like.grid.reoriented(like.grid.canonical()))
    if map_ZYX.shape != grid.shape:
        raise _elsewhere(f"the map (shape {map_ZYX.shape})", like)
    _write(_turned_back(map_ZYX, grid, like, order=1).astype(np.float32, copy=False), path, form.write, like)


def as_stored(label_map: LabelMap, like: Source) -> Integers:
    """The labels (Z, Y, X) in the stored order of a scan.

    Raises:
        ScanError: the label map is not on the scan's grid.
    """
    grid = upright(like.grid.reoriented(like.grid.canonical()))
    if not label_map.grid.matches(grid, CHANNEL_TOLERANCE):
        raise _elsewhere(f"the label map (shape {label_map.grid.shape})", like)
    return _turned_back(label_map.labels, label_map.grid, like, order=0)


def label_suffix(source: Source) -> str:
    """The suffix a prediction for this scan is written with: the scan's own where that is lossless and one file."""
    suffix = suffix_of(source.files[0])
    form = FORMATS.get(suffix)
    return ".nii.gz" if form is None else form.instead or suffix


def _turned_back(voxels: npt.NDArray[Any], grid: Grid, like: Source, *, order: int) -> npt.NDArray[Any]:
    """Voxels (Z, Y, X) of a canonical grid in the stored order of a scan, sheared as it is."""
    turn = like.grid.canonical()
    wanted = like.grid.reoriented(turn)
    if wanted.shear > SHEAR_LIMIT:
        voxels = resampled(voxels, grid, wanted, order=order)
    return np.ascontiguousarray(turn.inverse().apply(voxels))


def _write(voxels: npt.NDArray[Any], path: Path, write: Writer, like: Source) -> None:
    with write_aside(path) as aside:
        try:
            write(voxels, aside, like.grid, is_2d=like.is_2d, source=like.files[0])
        except ScanError as error:
            raise ScanError(str(error).replace(str(aside), str(path))) from error
    if _needs_spacing(path, like):
        write_text(path.with_suffix(".json"), json.dumps({"spacing": like.grid.spacing}))


def _needs_spacing(path: Path, like: Source) -> bool:
    """TIFF knows no distance of slices; a file beside it does."""
    return suffix_of(path) in TIFF and like.grid.spacing != (1.0, 1.0, 1.0)


def _not_written(path: Path, what: str, instead: str) -> ScanError:
    found = f'{what} are not written as "{suffix_of(path)}"'
    return ScanError.at(path, found, f"one of {known(writable=True)}", f"write {instead or '.nii.gz'}")


def _elsewhere(what: str, like: Source) -> ScanError:
    return ScanError(
        f"{what} is not on the grid of {like.files[0].name} (shape {like.grid.shape}); predict and write on the same scan"
    )


LEVEL = 1
"""Of the compression: most probabilities are 0 or 1, which the fastest level packs as well as any."""


def write_probabilities(probabilities_KZYX: Floats, path: Path, *, heads: Sequence[str]) -> None:
    """Write probabilities to a file that ``numpy.load`` opens: float16 ``probabilities`` (K, Z, Y, X), and ``heads``, K names.

    Equal probabilities give equal bytes.

    Args:
        probabilities_KZYX: may be a memory map; a slice at a time is read of it.
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
