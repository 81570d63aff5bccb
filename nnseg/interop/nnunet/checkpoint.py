"""Tensors and settings of a PyTorch checkpoint file, read without executing it.

Such a file is a zip archive of raw tensors and one pickle, a small program that may call any function of any library. Here the
program is interpreted: instructions that build lists, dicts, text and numbers are followed, a few names stand for functions of our
own, and every other name or instruction is refused. Python's own unpickler is not used.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from nnseg.core.errors import ModelError

MOST_AXES = 8
MOST_ARGUMENTS = 8
"""Of a call that is followed; PyTorch's have seven or fewer."""

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""Names that a file may give to its numbers."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Numbers of a file, not read yet.

    Args:
        key: name of the zip's entry that holds them.
        count: how many there are.
    """

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a file, not read yet; `nnseg.interop.nnunet.checkpoint.Checkpoint.read` reads it.

    Args:
        storage: where its numbers are.
        offset: of the first of them.
        shape: along its axes.
        strides: numbers from one to the next along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """What a file calls a function or type, of those that are known here."""

    name: str


class _Mark:
    """Where the parts of a list, dict or tuple begin on the stack."""


class PickleInterpreter:
    """The stack machine that such programs are for, without the means to import, call or change anything of Python's.

    Args:
        path: named in errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def follow(self, program: bytes) -> Any:
        """What the program makes."""
        try:
            for opcode, argument, _ in pickletools.genops(io.BytesIO(program)):
                name = opcode.name
                if name in _PUSHED:
                    self._stack.append(argument)
                elif name in _OBEYED:
                    _OBEYED[name](self, argument)
                elif name == "STOP":
                    break
                else:
                    raise self._refused(f"uses the instruction {name}")
            [result] = self._stack
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"its pickle makes no sense: {error}") from error
        return result

    def _refused(self, what: str) -> ModelError:
        advice = "only tensors and plain values are read, and nothing is run; save it without that"
        return ModelError(f"{self._path} {what}; {advice}")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def remember(self, key: int | None) -> None:
        """Keep what is on top of the stack under a number, the next if none is given."""
        if key is not None and not _natural(key):
            raise self._refused("remembers by what is no small number")
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        """Push what is kept under a number."""
        self._stack.append(self._memo[key])

    def name(self, given: str | None) -> None:
        """Push a name, given as "module name", or as two texts on the stack."""
        if given is None:
            last, module = self._stack.pop(), self._stack.pop()
            if not (type(module) is str and type(last) is str):
                raise self._refused("makes a name of what is no text")
        else:
            module, _, last = given.partition(" ")
        name = f"{module}.{last}"
        if name not in STORAGES and name not in _CALLS and name not in _LEFT_OUT:
            raise self._refused(f'asks for "{name[:100]}"')
        self._stack.append(_Name(name))

    def call(self, _: None) -> None:
        """Replace name and arguments by what our own function of that name makes of them."""
        arguments, called = self._stack.pop(), self._stack.pop()
        if type(called) is not _Name or type(arguments) is not tuple:
            raise self._refused(f"calls {_described(called)}")
        if called.name in STORAGES:
            raise self._refused(f'calls "{called.name}"')
        if called.name not in _CALLS:
            self._stack.append(...)
        elif len(arguments) > MOST_ARGUMENTS:
            raise self._refused(f'calls "{called.name}" with {len(arguments)} arguments')
        else:
            self._stack.append(_CALLS[called.name](*arguments))

    def build(self, _: None) -> None:
        """Attributes of dicts (PyTorch's versions of modules) and what NumPy's types are made of are left out."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict | EllipsisType):
            raise self._refused(f"sets attributes of {_described(self._stack[-1])}")

    def storage(self, _: None) -> None:
        """Replace a reference to numbers by what is known about them."""
        reference = self._stack.pop()
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise self._refused("refers to something that is not a storage")
        _, kind, key, _, count = reference
        if type(kind) is not _Name or kind.name not in STORAGES or type(key) is not str or not _natural(count):
            raise self._refused("refers to a storage of an unknown kind")
        self._stack.append(Storage(key=key, dtype=STORAGES[kind.name], count=count))

    def since_mark(self) -> list[Any]:
        """Take what lies above the last mark, and the mark, off the stack."""
        values: list[Any] = []
        while (value := self._stack.pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def last(self, count: int) -> list[Any]:
        """Take so many off the stack."""
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def extend(self, values: list[Any]) -> None:
        """Append values to the list on top of the stack; those of what is left out are left out."""
        target = self._stack[-1]
        if type(target) is list:
            target.extend(values)
        elif target is not ...:
            raise self._refused(f"appends to {_described(target)}")

    def update(self, values: list[Any]) -> None:
        """Set items of the dict on top of the stack: key, value, key, value, ...; leaves out those without an `_is_key`."""
        target, items = self._stack[-1], zip(values[::2], values[1::2], strict=True)
        if type(target) is dict:
            target.update((key, value) for key, value in items if _is_key(key))
        elif target is not ...:
            raise self._refused(f"sets items of {_described(target)}")

    def leave_out(self, _: Any) -> None:
        """Push what stands for values that are not needed."""
        self._stack.append(...)


def _described(value: Any) -> str:
    return f'"{value.name}"' if type(value) is _Name else f"what is a {type(value).__name__}"


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _is_key(value: Any) -> bool:
    """Text, or numbers so small that their hashes differ: other keys could be chosen to make a dict slow."""
    return type(value) is str or _natural(value)


def _axes(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) <= MOST_AXES and all(map(_natural, value))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """A tensor, which may lie outside its storage until it is read."""
    if type(storage) is not Storage or not (_natural(offset) and _axes(shape) and _axes(strides) and len(shape) == len(strides)):
        raise TypeError("a tensor of something else than numbers")
    return StoredTensor(storage=storage, offset=offset, shape=tuple(shape), strides=tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _dict() -> dict[str, Any]:
    return {}


def _size(shape: Any) -> tuple[int, ...]:
    if not _axes(shape):
        raise TypeError("a shape of something else than numbers")
    return tuple(shape)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
}

_LEFT_OUT = {
    "torch.device",
    *(
        f"torch.{name}"
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    ),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"collections.{name}" for name in ("defaultdict", "Counter", "deque")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"{place}.{kind}Path"
        for place in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    ),
    *(
        f"{place}.{name}"
        for place in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "list", "dict", "int", "float", "complex")
    ),
}
"""What trained checkpoints hold besides, none of which an import needs: a call of one of these is not made, and ``...`` stands for
its result."""

_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
"""Instructions that push a number, text or bytes."""

_OBEYED: dict[str, Callable[[PickleInterpreter, Any], None]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "NONE": lambda f, _: f.push(None),
    "NEWTRUE": lambda f, _: f.push(True),
    "NEWFALSE": lambda f, _: f.push(False),
    "MARK": lambda f, _: f.push(_Mark),
    "EMPTY_LIST": lambda f, _: f.push([]),
    "EMPTY_DICT": lambda f, _: f.push({}),
    "EMPTY_TUPLE": lambda f, _: f.push(()),
    "TUPLE1": lambda f, _: f.push(tuple(f.last(1))),
    "TUPLE2": lambda f, _: f.push(tuple(f.last(2))),
    "TUPLE3": lambda f, _: f.push(tuple(f.last(3))),
    "TUPLE": lambda f, _: f.push(tuple(f.since_mark())),
    "APPEND": lambda f, _: f.extend(f.last(1)),
    "APPENDS": lambda f, _: f.extend(f.since_mark()),
    "EMPTY_SET": PickleInterpreter.leave_out,
    "ADDITEMS": lambda f, _: f.extend(f.since_mark()),
    "FROZENSET": lambda f, _: f.leave_out(f.since_mark()),
    "BYTEARRAY8": PickleInterpreter.leave_out,
    "SETITEM": lambda f, _: f.update(f.last(2)),
    "SETITEMS": lambda f, _: f.update(f.since_mark()),
    "PUT": PickleInterpreter.remember,
    "BINPUT": PickleInterpreter.remember,
    "LONG_BINPUT": PickleInterpreter.remember,
    "MEMOIZE": PickleInterpreter.remember,
    "GET": PickleInterpreter.recall,
    "BINGET": PickleInterpreter.recall,
    "LONG_BINGET": PickleInterpreter.recall,
    "GLOBAL": PickleInterpreter.name,
    "STACK_GLOBAL": PickleInterpreter.name,
    "REDUCE": PickleInterpreter.call,
    "BUILD": PickleInterpreter.build,
    "BINPERSID": PickleInterpreter.storage,
}

PROGRAM_BYTES = 16_000_000
"""Of the pickle; those of trained nnU-Nets have some hundred thousand."""
ENTRIES = 20_000
MOST_REPEATED = 2**24
"""Numbers of a tensor that has more than its storage, some of them several times."""


class Checkpoint:
    """An open file.

    Args:
        path: named in errors.
        archive: the file.

    Attributes:
        content: dicts, lists, tuples, text, numbers, and each tensor as a `StoredTensor`. What is not needed is left out:
            NumPy's numbers and arrays, sets, paths, dates and the like, as ``...``; items of dicts by keys other than text and
            small numbers, altogether.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._entries = _entries(path, archive)
        programs = [name for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            raise _refused(path, "has no data.pkl, or several, and is no checkpoint that PyTorch wrote")
        self._prefix = programs[0].removesuffix("data.pkl")
        order = f"{self._prefix}byteorder"
        if order in self._entries and self._bytes(order, 16) != b"little":
            raise _refused(path, "was written on a machine with another order of bytes; save it again on a common one")
        self.content = PickleInterpreter(path).follow(self._bytes(programs[0], PROGRAM_BYTES))

    def read(self, stored: StoredTensor) -> Tensor:
        """A tensor's numbers, in memory of its own.

        Raises:
            ModelError: they are not all there.
        """
        dtype, count = stored.storage.dtype, stored.storage.count
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
    """A checkpoint's content, and a way to its tensors while it is open.

    Raises:
        ModelError: the file cannot be read, is damaged, is no checkpoint, or asks for anything but tensors and plain values; then
            the message has the name of what it asks for.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start != b"PK\x03\x04":
                raise _refused(path, _no_zip(start))
            with zipfile.ZipFile(file) as archive:
                yield Checkpoint(path, archive)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(path, f"is damaged or no checkpoint ({' '.join(str(error).split())[:200]}); copy it again") from error


def _no_zip(start: bytes) -> str:
    if start[:1] == b"\x80":
        return "is a bare pickle, as PyTorch wrote before 1.6; have the tool that wrote it save it again"
    return "is no checkpoint that PyTorch wrote"


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By name. Nothing is compressed, so that what is read is never more than the file has."""
    listed = archive.infolist()
    entries = {entry.filename: entry for entry in listed}
    if len(listed) > ENTRIES or len(entries) < len(listed):
        raise _refused(path, f"has {len(listed)} entries, {len(entries)} of different names; allowed are {ENTRIES}, all different")
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in listed):
        raise _refused(path, "is compressed or encrypted, which PyTorch's files are not")
    if sum(e.file_size for e in listed) > path.stat().st_size:
        raise _refused(path, "has entries that overlap")
    return entries


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} {reason}")
