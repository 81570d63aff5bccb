"""NIfTI files, read from fully decompressed bytes and written with the header of the scan they belong to.

Not through ITK: it fills the missing part of a truncated file with zeros and turns NaN and Inf into 0, both without a word.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from nnseg.core.geometry import Grid
from nnseg.core.image import Integers
from nnseg.storage.stored import Stored, contents, flat_grid, make_grid, refuse

GZIP_MAGIC = b"\x1f\x8b"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


def read_nifti(path: Path, as_labels: bool = False) -> Stored:
    """The voxels of a NIfTI file, scaled as its header says; axes after the third become channels.

    The grid is the sform's if its code is positive, else the qform's, else the voxel sizes'.

    Raises:
        ScanError: not a NIfTI file, truncated, damaged, sheared, or of a number type that is no intensity.
    """
    data = decompressed(path)
    header = _header(path, data)
    shape = tuple(int(n) for n in header.get_data_shape())
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise refuse(
            path, f"is {len(shape)}-dimensional {shape}", expected="a 2D or 3D image, with or without channels", advice=_AGAIN
        )
    voxels = _channels_first(path, _scaled(path, header, _stored_voxels(path, header, data, shape)), shape)
    return Stored(voxels=voxels, grid=_grid(path, header, voxels.shape[1:], is_2d=len(shape) == 2), is_2d=len(shape) == 2)


def write_nifti_like(labels: Integers, path: Path, source: Path) -> None:
    """Write a label map with the header of the NIfTI file ``source``; only number type, scaling and display range differ.

    Args:
        labels: (Z, Y, X) in the stored order of ``source``.
        path: ends in .nii or .nii.gz.
        source: the scan; its header is read again.
    """
    header = _header(source, decompressed(source, only_header=True)).copy()
    dimensions = min(int(header["dim"][0]), 3)
    if int(header["dim"][0]) > dimensions:  # channels go; so does a note that they were a vector or a time series
        header["dim"][4:] = 1
        header.set_intent(0)
    header["dim"][0] = dimensions
    header.set_data_dtype(labels.dtype)
    header["scl_slope"], header["scl_inter"], header["cal_max"], header["cal_min"] = 1, 0, 0, 0
    start = int(header["sizeof_hdr"]) + 4  # four bytes that say: no extensions
    header["vox_offset"] = start
    header["magic"] = b"n+1" if start == 352 else b"n+2\0\r\n\x1a\n"
    voxels = np.ascontiguousarray(labels, header.get_data_dtype())
    data = header.binaryblock + bytes(4) + voxels.tobytes()
    path.write_bytes(gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data)


def is_nifti(path: Path) -> bool:
    """True if the file starts like a NIfTI file, compressed or not."""
    with path.open("rb") as file:
        start = file.read(4)
    return start[:2] == GZIP_MAGIC or _kind(start) is not None


def decompressed(path: Path, *, only_header: bool = False) -> bytes:
    """The bytes of a file, decompressed to the very end, so that checksum and length of a gzip stream are verified.

    Raises:
        ScanError: the stream ends early or is damaged.
    """
    data = contents(path)
    if not data.startswith(GZIP_MAGIC):
        return data
    if only_header:
        return zlib.decompressobj(wbits=31).decompress(data, 1024)
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise refuse(path, "gzip stream ends early", expected="a complete file", advice="copy it again; it is truncated") from error
    except (OSError, zlib.error) as error:
        raise refuse(path, f"gzip stream is damaged ({error})", expected="an intact file", advice="copy it again") from error


_AGAIN = "export the image again"


def _kind(start: bytes) -> tuple[int, bool] | None:
    """Header size and whether it is big-endian, from a file's first four bytes."""
    for size in _HEADERS:
        if int.from_bytes(start[:4], "little") == size:
            return size, False
        if int.from_bytes(start[:4], "big") == size:
            return size, True
    return None


def _header(path: Path, data: bytes) -> Any:
    """The header as stored: not checked by nibabel, which would silently turn a voxel size of 0 into 1."""
    kind = _kind(data[:4])
    if kind is None:
        raise refuse(path, "is not a NIfTI file", expected="a NIfTI header after decompression", advice="export it as .nii.gz")
    size, big = kind
    magic = data[344:348] if size == 348 else data[4:8]
    if len(data) < size + 4 or magic[:3] not in (b"n+1", b"n+2"):
        found = "has no complete single-file NIfTI header"
        raise refuse(path, found, expected='"n+1" or "n+2" in it', advice="save it as one .nii.gz file (not .hdr with .img)")
    return _HEADERS[size](data[:size], endianness=">" if big else "<", check=False)


def _stored_voxels(path: Path, header: Any, data: bytes, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """(..., T, Z, Y, X[, 3 or 4]) as stored; RGB types get their colours as last axis."""
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise refuse(path, f"has unknown number type {code}", expected="integers or floats", advice=_AGAIN) from error
    if dtype.kind == "c":
        raise refuse(path, "holds complex numbers", expected="integers or floats", advice="export magnitude images")
    start, count = int(header["vox_offset"]) or int(header["sizeof_hdr"]) + 4, int(np.prod(shape, dtype=object))
    if start < 0 or len(data) < start + count * dtype.itemsize:
        found = f"holds {max(len(data) - start, 0)} bytes of voxels"
        promised = f"{count * dtype.itemsize} as its header says (shape {shape})"
        raise refuse(path, found, expected=promised, advice="copy it again; it is truncated")
    voxels = np.frombuffer(data, dtype, count, start).reshape(shape[::-1])
    return voxels.view(np.uint8).reshape(*voxels.shape, -1) if dtype.names else voxels


def _scaled(path: Path, header: Any, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Voxels times slope plus intercept; a slope of 0 or NaN means none, as the format says."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or (slope, intercept) == (1.0, 0.0):
        return voxels
    if not np.isfinite(intercept):
        raise refuse(path, f"has scl_inter {intercept}", expected="a number", advice="mend the header")
    wide: npt.NDArray[np.floating[Any]] = voxels.astype(np.float64 if voxels.dtype.itemsize > 4 else np.float32)
    wide *= slope
    wide += intercept
    return wide


def _channels_first(path: Path, voxels: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """(C, Z, Y, X) of stored voxels: colours, or the one axis after the third that is longer than 1, are channels."""
    extra = [n for n in shape[3:] if n > 1]
    colours = voxels.shape[-1] if voxels.ndim > len(shape) else 1
    if len(extra) + (colours > 1) > 1:
        raise refuse(path, f"is {len(shape)}-dimensional {shape}", expected="at most one axis of channels", advice=_AGAIN)
    space = (*(1,) * (3 - len(shape)), *shape[2::-1]) if len(shape) > 2 else (1, shape[1], shape[0])
    if colours > 1:
        return np.moveaxis(voxels.reshape(*space, colours), -1, 0)
    return voxels.reshape(-1, *space)


def _grid(path: Path, header: Any, shape: tuple[int, ...], *, is_2d: bool) -> Grid:
    header = header.copy()
    if header["pixdim"][0] not in (-1, 1):  # ITK and the format read an invalid sign as +1; nibabel would refuse
        header["pixdim"][0] = 1
    if is_2d and not header["pixdim"][3] > 0:
        header["pixdim"][3] = 1
    try:
        affine = np.asarray(header.get_best_affine(), float)
    except (HeaderDataError, ValueError) as error:
        raise refuse(
            path, f"has a broken qform ({error})", expected="valid positions in its header", advice="mend the header"
        ) from error
    if is_2d and not np.any(affine[:3, 2]):
        affine[2, 2] = 1.0
    steps, origin = (RAS_TO_LPS @ affine[:3, 2::-1]).T, RAS_TO_LPS @ affine[:3, 3]
    grid = make_grid(path, shape, steps, origin)
    # A flat image may hang anywhere in space; as a picture, its slice axis stays first.
    return flat_grid(shape, grid.spacing) if is_2d and grid.canonical().axes[0] != 0 else grid
