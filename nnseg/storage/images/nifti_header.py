"""Headers of NIfTI files, of one part or two, as they are stored; and the bytes of files that may be compressed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from nnseg.core.errors import ScanError
from nnseg.storage.images.unpack import AUTOMATIC, GZIP_MAGIC, SLACK, unpack
from nnseg.system.regular import open_regular

SINGLE, PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
"""Magic strings of images in one file, and of those in two."""

PAIR_SUFFIX = ".hdr"

LENGTH_UNITS = {1: "m", 3: "um"}
"""Units of length by their code in ``xyzt_units``. All other codes mean mm."""

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}

HEADER_BYTES = 1024
"""Enough for a header of either version."""

EXPORT_AGAIN = "export the image again"


def is_nifti(path: Path) -> bool:
    """True if the file starts like a NIfTI file, compressed or not."""
    try:
        start = decompressed(path, only_header=True)
    except ScanError as error:
        if error.is_fault:
            raise
        return False
    return _magic(start) in SINGLE + PAIR


def is_pair_header(start: bytes) -> bool:
    """True for the header of a NIfTI image whose voxels are in another file."""
    return _magic(start) in PAIR


def voxel_file(path: Path) -> Path:
    """The file of the voxels that belong to a header .hdr.

    Raises:
        ScanError: it is missing.
    """
    if path.suffix.lower() != PAIR_SUFFIX:
        return path
    beside = (path.with_suffix(suffix) for suffix in (".img", ".IMG", ".img.gz"))
    found = next((p for p in beside if p.is_file()), None)
    if found is None:
        raise ScanError.at(path, "is a header without voxels", f"{path.stem}.img beside it", "copy both files")
    return found


def decompressed(path: Path, *, only_header: bool = False, announced: int | None = None) -> bytes:
    """The bytes of a file, decompressed to the very end, so that checksum and length of a gzip stream are verified.

    Args:
        announced: number of decompressed bytes by the file's header; None if it is not known.

    Raises:
        ScanError: the stream ends early, is damaged, or decompresses to more or to less.
    """
    with open_regular(path) as file:
        start = file.read(64 * HEADER_BYTES if only_header else len(GZIP_MAGIC))
        packed = start.startswith(GZIP_MAGIC)
        if not only_header:
            file.seek(0)
            held = os.fstat(file.fileno()).st_size  # of which a disk may hold a terabyte of nothing in one block
            most = held if announced is None else min(held, announced + SLACK)
            return unpack(path, file, announced) if packed else file.read(most)
    if not packed:
        return start
    stream = zlib.decompressobj(AUTOMATIC)
    try:
        header = stream.decompress(start, HEADER_BYTES)
        if len(header) == HEADER_BYTES or stream.eof or len(start) == 64 * HEADER_BYTES:
            return header
        raise ScanError.at(path, "gzip stream ends early", "a complete file", "copy it again; it is truncated")
    except zlib.error as error:
        raise ScanError.at(path, f"gzip stream is damaged ({error})", "an intact file", "copy it again", "NS-S030") from error


def compression_note(path: Path) -> tuple[str, ...]:
    """A note if a file is compressed, or not, contrary to its name."""
    with open_regular(path) as file:
        packed, named = file.read(2) == GZIP_MAGIC, path.name.lower().endswith(".gz")
    return () if packed == named else (f"is {'' if packed else 'not '}compressed, contrary to its name; read as it is [NS-S005]",)


def _kind(start: bytes) -> tuple[int, bool] | None:
    """Header size and whether it is big-endian, from a file's first four bytes."""
    for size in _HEADERS:
        if int.from_bytes(start[:4], "little") == size:
            return size, False
        if int.from_bytes(start[:4], "big") == size:
            return size, True
    return None


def parse_header(path: Path, data: bytes) -> Any:
    """The header as stored: not checked by nibabel, which would silently turn a voxel size of 0 into 1."""
    kind = _kind(data[:4])
    if kind is None:
        raise ScanError.at(path, "is not a NIfTI file", "a NIfTI header after decompression", "export it as .nii.gz", "NS-S004")
    size, big = kind
    paired = path.suffix.lower() == PAIR_SUFFIX
    if len(data) < size + (0 if paired else 4) or _magic(data) not in (PAIR if paired else SINGLE):
        found = "has no complete NIfTI header" if paired else "has no complete single-file NIfTI header"
        expected = " or ".join(f'"{magic.decode()}"' for magic in (PAIR if paired else SINGLE))
        raise ScanError.at(path, found, f"{expected} in it", "save it as one .nii.gz file", "NS-S004")
    return _HEADERS[size](data[:size], endianness=">" if big else "<", check=False)


def _magic(start: bytes) -> bytes:
    kind = _kind(start)
    return b"" if kind is None else start[344:347] if kind[0] == 348 else start[4:7]


def is_single(header: Any) -> bool:
    """True for the header of an image in one file."""
    return bytes(header["magic"].tobytes())[:3] in SINGLE


def length_unit(header: Any) -> str:
    """The unit of a header's lengths."""
    return LENGTH_UNITS.get(int(header["xyzt_units"]) % 8, "mm")


def number_type(path: Path, header: Any) -> np.dtype[Any]:
    """The type of the voxels.

    Raises:
        ScanError: it is not known, or of complex numbers.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise ScanError.at(path, f"has unknown number type {code}", "integers or floats", EXPORT_AGAIN) from error
    if dtype.kind == "c":
        raise ScanError.at(path, "holds complex numbers", "integers or floats", "export magnitude images")
    return dtype
