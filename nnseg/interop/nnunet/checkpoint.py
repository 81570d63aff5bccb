"""Tensors and settings of a PyTorch checkpoint file: a zip archive of raw tensors and one pickle, read without executing it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from nnseg.core.errors import ModelError
from nnseg.core.limits import limit
from nnseg.interop.nnunet.pickle_interpreter import PickleInterpreter, StoredTensor
from nnseg.storage.bounded import check_archive
from nnseg.system.regular import open_regular

MOST_SHARED = 4
"""All tensors together have at most so many times the bytes of the file: some networks share weights."""
MOST_REPEATED = 2**24
"""Largest number of values of a tensor that is larger than its storage, because strides repeat some."""


class Checkpoint:
    """An open file.

    Args:
        path: named in errors.
        archive: the file.

    Attributes:
        content: dicts, lists, tuples, strings, numbers, and each tensor as a `StoredTensor`. NumPy's numbers and arrays, sets,
            paths, dates and the like are ``...``; items of dicts with keys other than strings and small numbers are left out.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive, self._read_bytes = path, archive, 0
        self._entries = _entries(path, archive)
        programs = [name for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            raise _refused(path, "has no data.pkl, or several, and is no checkpoint that PyTorch wrote")
        self._prefix = programs[0].removesuffix("data.pkl")
        order = f"{self._prefix}byteorder"
        if order in self._entries and self._bytes(order, 16) != b"little":
            raise _refused(path, "was written on a machine with another order of bytes; save it again on a common one")
        self.content = PickleInterpreter(path).run(self._bytes(programs[0], limit("checkpoint_program_bytes")))

    def read(self, stored: StoredTensor) -> Tensor:
        """A tensor with its values, in memory of its own.

        Raises:
            ModelError: values are missing.
        """
        dtype, count = stored.storage.dtype, stored.storage.count
        self._read_bytes += math.prod(stored.shape) * dtype.itemsize
        if self._read_bytes > MOST_SHARED * self._path.stat().st_size + MOST_REPEATED:
            raise _refused(self._path, "has tensors that together are many times as large as the file; copy it again")
        if 0 in stored.shape:
            return torch.empty(stored.shape, dtype=dtype)
        last = stored.offset + sum((n - 1) * stride for n, stride in zip(stored.shape, stored.strides, strict=True))
        if last >= count or math.prod(stored.shape) > max(count, MOST_REPEATED):
            place = f"of shape {stored.shape} and strides {stored.strides} at {stored.offset} of {count} numbers"
            raise _refused(self._path, f"has a tensor {place}; copy it again")
        expected = count * dtype.itemsize
        data = self._bytes(f"{self._prefix}data/{stored.storage.key}", expected)
        if len(data) != expected:
            raise _refused(self._path, f"holds {len(data)} bytes of data/{stored.storage.key}, not {expected}; copy it again")
        numbers = torch.frombuffer(bytearray(data), dtype=dtype)
        return numbers.as_strided(stored.shape, stored.strides, stored.offset).clone(memory_format=torch.contiguous_format)

    def _bytes(self, name: str, most: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None or entry.file_size > most:
            raise _refused(self._path, f"lacks {name}" if entry is None else f"has {entry.file_size} bytes in {name}, over {most}")
        return self._archive.read(entry)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """A checkpoint, whose tensors can be read while it is open.

    Raises:
        ModelError: the file cannot be read, is damaged, is no checkpoint, or uses anything but tensors and plain values; then the
            message has the name of what it uses.
    """
    try:
        with open_regular(path) as file:
            start = file.read(4)
            if start != b"PK\x03\x04":
                raise _refused(path, _wrong_format(start))
            check_archive(file, limit("model_tensors"))
            with zipfile.ZipFile(file) as archive:
                yield Checkpoint(path, archive)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(path, f"is damaged or no checkpoint ({' '.join(str(error).split())[:200]}); copy it again") from error


def _wrong_format(start: bytes) -> str:
    if start[:1] == b"\x80":
        return "is a bare pickle, as PyTorch wrote before 1.6; have the tool that wrote it save it again"
    return "is no checkpoint that PyTorch wrote"


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by name; none is compressed, so that reading never needs more memory than the file has bytes."""
    listed = archive.infolist()
    entries = {entry.filename: entry for entry in listed}
    most = limit("model_tensors")
    if len(listed) > most or len(entries) < len(listed):
        raise _refused(path, f"has {len(listed)} entries, {len(entries)} of different names; allowed are {most}, all different")
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in listed):
        raise _refused(path, "is compressed or encrypted, which PyTorch's files are not")
    if sum(e.file_size for e in listed) > path.stat().st_size:
        raise _refused(path, "has entries that overlap")
    return entries


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} {reason}")
