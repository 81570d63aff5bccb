"""NIfTI files, of one part or two, read from fully decompressed bytes and written with the header of the scan they belong to.

Not through ITK, which silently fills the missing part of a truncated file with zeros and turns NaN and Inf into 0.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from nnseg.core.errors import ScanError, coded
from nnseg.core.geometry import SHEAR_LIMIT, Grid, Vector, format_axes
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.storage.images.nifti_header import (
    EXPORT_AGAIN,
    compression_note,
    decompressed,
    is_nifti,
    is_single,
    length_unit,
    number_type,
    parse_header,
    voxel_file,
)
from nnseg.storage.images.raw import FEW, READ_DEFAULTS, RawImage, ReadOptions, check_size, make_grid, no_spacing, placeholder
from nnseg.storage.images.units import to_mm

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])

VECTOR = 1007
"""Code of the intent of an image whose voxels are vectors."""


NO_FORMS = (
    "states no orientation (its sform and qform have code 0): "
    "its axes were taken to point left, front and up, as nibabel takes them [NS-S016]"
)
"""Note of a volume whose orientation is a guess; ITK would take its second axis to point to the back."""

SIZE_TOLERANCE = 0.01
"""Relative difference of voxel sizes in pixdim and in the sform above which there is a note."""

FORMS_TOLERANCE = 0.1
"""Distance in voxels between the corners of a volume by sform and by qform above which there is a note."""


def read_nifti(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of a NIfTI file, scaled as its header says; axes after the third become channels.

    The grid is the sform's if its code is positive, else the qform's, else that of the voxel sizes; in the unit of the header.

    Raises:
        ScanError: not a NIfTI file, truncated, damaged, or of a number type that is no intensity.
    """
    header = parse_header(path, decompressed(path, only_header=True))
    shape = tuple(int(n) for n in header.get_data_shape())
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise ScanError.at(
            path, f"is {len(shape)}-dimensional {shape}", "a 2D or 3D image, with or without channels", EXPORT_AGAIN, "NS-S021"
        )
    kind = number_type(path, header)
    check_size(path, shape, kind, options, held=voxel_file(path).stat().st_size, packing="deflate")
    if options.only_header:
        found = _not_read(kind, shape)
    else:
        announced = max(_first_byte(header), 0) + math.prod(shape) * kind.itemsize
        data = decompressed(path if is_single(header) else voxel_file(path), announced=announced)
        found = _scaled(path, header, _stored_voxels(path, header, kind, data, shape))
    (voxels, of_axes), is_2d = arranged(path, found, shape, vectors=int(header["intent_code"]) == VECTOR), len(shape) == 2
    grid = _grid(path, header, voxels.shape[1:], is_2d=is_2d, spacing=options.spacing)
    notes = (
        *(compression_note(path) if is_single(header) else ()),
        *of_axes,
        *_slope_note(header),
        *(_forms_note(header, grid) or _size_note(header, grid)),
    )
    return RawImage(voxels=voxels, grid=grid, is_2d=is_2d, notes=notes, length_unit=length_unit(header))


def write_nifti(voxels: npt.NDArray[Any], path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a volume as NIfTI; with the header of the scan's file, where only number type, scaling and display range differ.

    Args:
        voxels: (Z, Y, X) in stored order.
        like: the scan; its grid as stored may be sheared. The header of its file is taken if that is NIfTI on exactly this grid.
    """
    source = like.files[0]
    header = _header_like(source, like.grid) if source.is_file() and is_nifti(source) else None
    if header is None:
        header = _new_header(like.grid, 2 if like.is_2d else 3)
    header.set_data_dtype(voxels.dtype)
    header["scl_slope"], header["scl_inter"], header["cal_max"], header["cal_min"] = 1, 0, 0, 0
    start = int(header["sizeof_hdr"]) + 4  # four bytes of zeros mean: no extensions
    header["vox_offset"] = start
    header["magic"] = b"n+1" if start == 352 else b"n+2\0\r\n\x1a\n"
    stored = np.ascontiguousarray(voxels, header.get_data_dtype())
    with path.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.writelines((header.binaryblock, bytes(4), stored.data))
        else:
            file.writelines((header.binaryblock, bytes(4), stored.data))


def _header_like(source: Path, grid: Grid) -> Any:
    """The header of a file without its channels; None if its grid differs, for instance because a spacing was given instead."""
    header = parse_header(source, decompressed(source, only_header=True)).copy()
    stored = tuple(int(n) for n in header.get_data_shape())
    space = _as_slices(stored) if int(header["intent_code"]) != VECTOR else stored
    shape = (*(1,) * (3 - len(space)), *space[2::-1])
    try:
        there = _grid(source, header, shape, is_2d=int(header["dim"][0]) == 2)
    except ScanError:
        return None
    if there != grid:
        return None
    dimensions = min(int(header["dim"][0]), 3)
    header["dim"][1 : dimensions + 1] = space[:dimensions]
    if int(header["dim"][0]) > dimensions:  # without channels, the image is no vector or time series
        header["dim"][4:] = 1
        header.set_intent(0)
    header["dim"][0] = dimensions
    return header


def _new_header(grid: Grid, dimensions: int) -> Any:
    """A header with a grid in its sform, and in its qform where that can hold it: not if axes are sheared."""
    affine = ras_affine(grid)
    header = nib.Nifti1Header() if max(grid.shape) < 2**15 else nib.Nifti2Header()
    header.set_data_shape(grid.shape[::-1][:dimensions])
    header["pixdim"][1:4] = grid.spacing[::-1]
    header.set_qform(affine, code=int(grid.shear <= SHEAR_LIMIT), strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    return header


def ras_affine(grid: Grid) -> npt.NDArray[np.float64]:
    """(4, 4) from voxel indices (x, y, z) to mm in RAS."""
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS @ grid.steps[::-1].T
    affine[:3, 3] = RAS_TO_LPS @ np.asarray(grid.origin)
    return affine


def _not_read(dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A placeholder of the shape and type of what `_stored_voxels` returns."""
    return placeholder((*shape[::-1], len(dtype.names)), np.uint8) if dtype.names else placeholder(shape[::-1], dtype)


def _first_byte(header: Any) -> int:
    """Where the voxels begin in their file."""
    start = float(header["vox_offset"])
    start = int(start) if math.isfinite(start) else -1
    return start or (int(header["sizeof_hdr"]) + 4 if is_single(header) else 0)


def _stored_voxels(path: Path, header: Any, dtype: np.dtype[Any], data: bytes, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """(..., T, Z, Y, X[, 3 or 4]) as stored; RGB types get their colours as last axis."""
    start, count = _first_byte(header), math.prod(shape)
    if start < 0 or len(data) < start + count * dtype.itemsize:
        found = f"holds {max(len(data) - start, 0)} bytes of voxels"
        promised = f"{count * dtype.itemsize} as its header says (shape {shape})"
        raise ScanError.at(path, found, promised, "copy it again; it is truncated", "NS-S002")
    voxels = np.frombuffer(data, dtype, count, start).reshape(shape[::-1])
    return voxels.view(np.uint8).reshape(*voxels.shape, -1) if dtype.names else voxels


def _scaled(path: Path, header: Any, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Voxels times slope plus intercept; a slope of 0 or NaN means none, as the format says."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or (slope, intercept) == (1.0, 0.0):
        return voxels
    if not np.isfinite(intercept):
        raise ScanError.at(path, f"has scl_inter {intercept}", "a number", "correct the header", "NS-S011")
    wide: npt.NDArray[np.floating[Any]] = voxels.astype(np.float64 if voxels.dtype.itemsize > 4 else np.float32)
    wide *= slope
    wide += intercept
    return wide


def arranged(
    path: Path, voxels: npt.NDArray[Any], shape: tuple[int, ...], *, vectors: bool = False
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Stored voxels as (C, Z, Y, X), and what was concluded about their axes.

    Args:
        voxels: (..., T, Z, Y, X), or with colours as last axis.
        shape: as the header has it, (x, y, z, t, ...).
        vectors: the fourth axis holds components, as the header says.
    """
    longer = len(shape) > 3 and shape[2] == 1 and shape[3] > 1 and max(shape[4:], default=1) == 1
    if not longer or vectors:
        return _channels_first(path, voxels, shape), ()
    space = _as_slices(shape)
    what = "slices" if space != shape else "channels"
    colours = voxels.shape[len(shape) :]
    note = coded(f"is {' x '.join(map(str, shape[:4]))}: its fourth axis was taken as {what}", "NS-S020")
    return _channels_first(path, voxels.reshape(*space[::-1], *colours), space), (note,)


def _as_slices(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a volume saved with its slices along the fourth axis, instead of the third; else the same shape."""
    misplaced = len(shape) > 3 and shape[2] == 1 and shape[3] > FEW and max(shape[4:], default=1) == 1
    return (*shape[:2], shape[3]) if misplaced else shape


def _channels_first(path: Path, voxels: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """(C, Z, Y, X) of stored voxels: colours, or the one axis after the third that is longer than 1, are channels."""
    extra = [n for n in shape[3:] if n > 1]
    colours = voxels.shape[-1] if voxels.ndim > len(shape) else 1
    if len(extra) + (colours > 1) > 1:
        raise ScanError.at(path, f"is {len(shape)}-dimensional {shape}", "at most one axis of channels", EXPORT_AGAIN, "NS-S021")
    space = (*(1,) * (3 - len(shape)), *shape[2::-1]) if len(shape) > 2 else (1, shape[1], shape[0])
    if colours > 1:
        return np.moveaxis(voxels.reshape(*space, colours), -1, 0)
    return voxels.reshape(-1, *space)


def _grid(path: Path, header: Any, shape: tuple[int, ...], *, is_2d: bool, spacing: Vector | None = None) -> Grid:
    header = header.copy()
    sizes = np.asarray(header["pixdim"][1 : 3 if is_2d else 4])
    if not int(header["sform_code"]) > 0 and not (np.isfinite(sizes) & (sizes > 0)).all():
        if spacing is None:
            raise no_spacing(path, sizes[::-1])
        header["pixdim"][1:4] = spacing[::-1]
    if header["pixdim"][0] not in (-1, 1):  # ITK and the format read an invalid sign as +1; nibabel would refuse
        header["pixdim"][0] = 1
    if is_2d and not header["pixdim"][3] > 0:
        header["pixdim"][3] = 1
    try:
        affine = np.asarray(header.get_best_affine(), float)
    except (HeaderDataError, ValueError) as error:
        raise ScanError.at(
            path, f"has a broken qform ({error})", "valid positions in its header", "correct the header", "NS-S031"
        ) from error
    if is_2d and not np.any(affine[:3, 2]):
        affine[2, 2] = 1.0
    unit = to_mm(1.0, length_unit(header))
    steps, origin = unit * (RAS_TO_LPS @ affine[:3, 2::-1]).T, unit * (RAS_TO_LPS @ affine[:3, 3])
    grid = make_grid(path, shape, steps, origin, spacing)
    return flat_grid(grid) if is_2d else grid


def flat_grid(grid: Grid) -> Grid:
    """The grid of a flat image, which may have any orientation: like a picture, it keeps its slice axis first."""
    return grid if grid.canonical().axes[0] == 0 else Grid(shape=grid.shape, spacing=grid.spacing)


def _slope_note(header: Any) -> tuple[str, ...]:
    """A note if the header's factor for voxels is none; readers differ in what they make of that."""
    slope = float(header["scl_slope"])
    note = f"its scl_slope is {slope:g} (scl_inter {float(header['scl_inter']):g}): as the format says, voxels were not scaled"
    return () if np.isfinite(slope) and slope else (coded(note, "NS-S010"),)


def _size_note(header: Any, grid: Grid) -> tuple[str, ...]:
    """A note if the voxel sizes of the header are not those of its sform."""
    sizes = to_mm(1.0, length_unit(header)) * np.asarray(header["pixdim"][1:4], float)[: 2 if grid.is_2d else 3]
    used = np.asarray(grid.spacing[::-1])[: len(sizes)]
    if not int(header["sform_code"]) > 0 or np.allclose(sizes, used, rtol=SIZE_TOLERANCE, atol=0):
        return ()
    return (
        f"its pixdim says {format_axes(sizes)} mm, but its sform {format_axes(used)} mm (x, y, z); the sform is used [NS-S013]",
    )


def _forms_note(header: Any, grid: Grid) -> tuple[str, ...]:
    """A note if the header holds two positions, sform and qform, that differ, or a volume's none."""
    stated = [int(header[code]) > 0 for code in ("sform_code", "qform_code")]
    if not all(stated):
        return () if any(stated) or grid.is_2d else (NO_FORMS,)
    try:
        between = np.asarray(header.get_sform(), float) - np.asarray(header.get_qform(), float)
    except (HeaderDataError, ValueError):
        return ("its qform is broken; the sform is used [NS-S017]",)
    corners = np.column_stack([grid.corners[:, ::-1], np.ones(8, int)])
    unit = to_mm(1.0, length_unit(header))
    gap = unit * float(np.linalg.norm(corners @ between[:3].T, axis=1).max())
    note = f"its sform and qform differ by up to {gap:.3g} mm; the sform is used [NS-S015]"
    return (note,) if gap > FORMS_TOLERANCE * min(grid.spacing) else ()
