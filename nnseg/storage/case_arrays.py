"""Arrays of preprocessed cases: Blosc2 frames that are members of a zip, with digests and checksums."""

from __future__ import annotations

import hashlib
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from nnseg.core.errors import DamagedCaseError
from nnseg.core.frozen import FrozenModel
from nnseg.system.machine import allowed_ram_gb


class ArrayFile(FrozenModel):
    """A packed array in the file.

    Args:
        bytes, digest: of the whole.
        sums: CRC-32 of all but its chunks, and of each chunk, as 8 hexadecimal digits each; "" in files of earlier versions.
    """

    bytes: int
    digest: str
    sums: str = ""


def describe(frame: bytes) -> ArrayFile:
    """What is recorded of a packed array."""
    return ArrayFile(bytes=len(frame), digest=_digest(frame), sums=_checksums(frame))


class CheckedArray:
    """An array on disk; a chunk is verified when it is read for the first time. Threads may read at once.

    Args:
        array: as Blosc2 opened it.
        sums: CRC-32 of each of its chunks, in order; empty if it has been verified.
        path: of the file, which messages name.
        most: the largest label index that it may have; None if it holds no labels.
    """

    def __init__(self, array: Any, sums: Sequence[int], path: Path, most: int | None = None) -> None:
        self.array, self._sums, self._path, self._most, self._opened = array, sums, path, most, path.stat()
        self.shape, self.dtype, self.nbytes = tuple(array.shape), array.dtype, int(array.nbytes)
        counts = tuple(-(-length // chunk) for length, chunk in zip(self.shape, array.chunks, strict=True))
        self._numbers = np.arange(len(sums) or math.prod(counts)).reshape(counts)
        self._verified = np.full(self._numbers.size, not sums)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        self._check_size()
        for number in self._chunks(index):
            if zlib.crc32(self.array.schunk.get_chunk(number)) != self._sums[number]:
                raise self._damaged(f"is damaged in chunk {number}")
            if self._most is not None and not _are_labels(self._values(number), self._most):
                raise self._damaged(OTHER_LABELS)
            self._verified[number] = True
        return np.asarray(self.array[index])

    def _values(self, number: int) -> npt.NDArray[Any]:
        return np.frombuffer(self.array.schunk.decompress_chunk(number), self.dtype)

    def _damaged(self, found: str) -> DamagedCaseError:
        return DamagedCaseError(f"{self._path}: this preprocessed case {found}; {MADE_AGAIN}")

    def _check_size(self) -> None:
        """Raise DamagedCaseError if the file was cut: the system ends a process that reads a mapped file beyond its end."""
        with suppress(OSError):  # what was removed or replaced stays mapped
            now = self._path.stat()
            if now.st_ino == self._opened.st_ino and now.st_size < self._opened.st_size:
                raise self._damaged(f"was cut to {now.st_size:,} of {self._opened.st_size:,} bytes while it was in use")

    def _chunks(self, index: Any) -> Iterator[int]:
        """The chunks, not verified yet, that lie in an index of slices, whole numbers and an ellipsis."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in parts:
            place = parts.index(Ellipsis)
            parts[place : place + 1] = [slice(None)] * (len(self.shape) - len(parts) + 1)
        box = []
        for part, length, chunk in zip(parts, self.shape, self.array.chunks, strict=False):
            inside = range(length)[part if isinstance(part, slice) else slice(part, part + 1 or None)]
            box.append(slice(inside.start // chunk, (inside[-1] // chunk + 1) if inside else 0))
        numbers = self._numbers[tuple(box)].reshape(-1)
        return iter(numbers[~self._verified[numbers]].tolist())


FRAME_START = 64
"""Bytes of a frame's header that hold its lengths."""

MADE_AGAIN = "preprocess it again, as the same command does"
OTHER_LABELS = "has other labels than it says"


def pack(array: npt.NDArray[Any], dimensions: int) -> bytes:
    """An array as one Blosc2 frame, in chunks for patches of 2 or 3 axes, or of Blosc2's choice for 0. Sizes are in voxels."""
    cut: dict[str, Any] = {}
    if dimensions:
        chunk, block = ((16, 128, 128), (1, 64, 64)) if dimensions == 2 else ((64, 64, 64), (32, 32, 32))
        lead = (1,) * (array.ndim - 3)
        cut["chunks"] = tuple(map(_even, array.shape, (*lead, *chunk)))
        cut["blocks"] = tuple(map(_even, cut["chunks"], (*lead, *block)))
    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    packed = blosc2.asarray(np.ascontiguousarray(array), cparams=cparams, dparams={"nthreads": 1}, **cut)
    return bytes(packed.to_cframe())


def _even(length: int, most: int) -> int:
    """The length of the fewest equal parts of at most ``most``: uneven ones are padded, which costs time and space."""
    return math.ceil(length / math.ceil(length / most))


def read_into_memory(file: zipfile.ZipFile, name: str, member: ArrayFile, most: int | None = None) -> npt.NDArray[Any]:
    """An array that lies in a member of the zip.

    Args:
        most: the largest label index that it may have; None if it holds no labels.

    Raises:
        ValueError: it is not what was written, or announces more than fits into memory.
    """
    frame = file.read(name)
    if _digest(frame) != member.digest:
        raise ValueError(f"{name} is not what was written")
    array = blosc2.ndarray_from_cframe(frame)
    if array.nbytes > allowed_ram_gb() * 1e9:
        raise ValueError(f"{name} announces {array.nbytes} bytes")
    values = np.asarray(array[...])
    if most is not None and not _are_labels(values, most):
        raise ValueError(f"{name} {OTHER_LABELS}")
    return values


def _are_labels(values: npt.NDArray[Any], most: int) -> bool:
    """True for label indices up to ``most``, and -1 where voxels are ignored."""
    return values.size == 0 or bool(values.min() >= -1 and values.max() <= most)


def open_in_place(file: zipfile.ZipFile, name: str, member: ArrayFile, most: int | None = None) -> CheckedArray:
    """A member of the zip as an array on disk. Not memory-mapped on Windows, where a mapped file cannot be replaced.

    Args:
        most: as in `read_into_memory`.

    Raises:
        ValueError: what surrounds its chunks is not what was written.
    """
    if not member.sums:
        read_into_memory(file, name, member, most)
    path, offset = Path(str(file.filename)), _offset(file, name)
    sums = [int(member.sums[i : i + 8], 16) for i in range(0, len(member.sums), 8)]
    with path.open("rb") as raw:
        raw.seek(offset)
        start = raw.read(FRAME_START)
        rest = b""
        for begin, end in _around_chunks(start, member.bytes):
            raw.seek(offset + begin)
            rest += raw.read(end - begin)
    if sums and zlib.crc32(rest) != sums[0]:
        raise ValueError(f"the description of {name} is not what was written")
    mapped = None if sys.platform == "win32" else "r"
    array = blosc2.open(str(path), mode="r", offset=offset, mmap_mode=mapped, dparams={"nthreads": 1})
    return CheckedArray(array, sums[1:], path, most)


def _checksums(frame: bytes) -> str:
    """See `ArrayFile`."""
    array = blosc2.ndarray_from_cframe(frame)  # which owns its chunks
    chunks = array.schunk
    rest = b"".join(frame[begin:end] for begin, end in _around_chunks(frame, len(frame)))
    sums = (zlib.crc32(part) for part in (rest, *(chunks.get_chunk(number) for number in range(chunks.nchunks))))
    return "".join(f"{crc:08x}" for crc in sums)


def _around_chunks(frame: bytes, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a frame's header, and its index and trailer, begin and end: before and after the chunks.

    Source: Blosc2's README_CFRAME_FORMAT: big-endian numbers, the header's length at 11, that of all chunks at 39.
    """
    header, chunks = int.from_bytes(frame[11:15], "big"), int.from_bytes(frame[39:47], "big")
    header = min(header, size)
    return (0, header), (min(header + chunks, size), size)


def _offset(file: zipfile.ZipFile, name: str) -> int:
    """Offset of a member's bytes. Source: PKWARE APPNOTE 4.3.7, the local file header."""
    start = file.getinfo(name).header_offset
    with Path(str(file.filename)).open("rb") as raw:
        raw.seek(start + 26)
        name_length, extra_length = struct.unpack("<HH", raw.read(4))
    return start + 30 + int(name_length) + int(extra_length)


def _digest(frame: bytes) -> str:
    return hashlib.blake2b(frame, digest_size=16).hexdigest()
