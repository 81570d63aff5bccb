"""Interpreter of the pickles in PyTorch's checkpoint files, which executes nothing of theirs.

A pickle is a program for a stack machine that may call any function of any library; Python's unpickler is not used. Opcodes that
build lists, dicts, strings and numbers are interpreted, a few names stand for functions of this module, and every other name or
opcode is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch

from nnseg.core.errors import ModelError
from nnseg.core.limits import limit

MOST_AXES = 8
MOST_ARGUMENTS = 8
"""Of a call; PyTorch's have seven or fewer."""

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
"""Data type of each of PyTorch's storage classes."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The values of tensors in a file, not read yet.

    Args:
        key: name of their entry in the archive.
        count: number of values.
    """

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a file, not read yet; `nnseg.interop.nnunet.checkpoint.Checkpoint.read` reads it.

    Args:
        storage: of its values.
        offset: of the first value in the storage.
        shape: along its axes.
        strides: distance of neighbours along each axis, in values.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A function or class by the full name that the file uses, one of those known here."""

    name: str


class _Mark:
    """Marks the beginning of a list, dict or tuple on the stack."""


class PickleInterpreter:
    """The stack machine of pickle, without any means to import, call or change Python objects; methods are named by its opcodes.

    Args:
        path: named in errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """The object that the program builds.

        Raises:
            ModelError: it uses a name or opcode that is not allowed.
            ValueError: it is not valid.
        """
        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(program))):
                name = opcode.name
                if step >= limit("checkpoint_steps"):
                    raise self._refused(f"has a pickle of over {limit('checkpoint_steps'):,} steps")
                if name in _LITERALS:
                    self._stack.append(argument)
                elif name in _OPCODES:
                    _OPCODES[name](self, argument)
                elif name == "STOP":
                    break
                else:
                    raise self._refused(f"uses the opcode {name}")
            [result] = self._stack
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"its pickle is not valid: {error}") from error
        return result

    def _refused(self, what: str) -> ModelError:
        advice = "only tensors and plain values are read, and nothing is run; save it without that"
        return ModelError(f"{self._path} {what}; {advice}")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def put(self, key: int | None) -> None:
        """Store the top of the stack in the memo under a number, the next if none is given."""
        if key is not None and not _natural(key):
            raise self._refused("stores a value under something other than a small number")
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def get(self, key: int) -> None:
        """Push a value of the memo."""
        self._stack.append(self._memo[key])

    def find(self, given: str | None) -> None:
        """Push a name, given as "module name", or as two strings on the stack."""
        if given is None:
            last, module = self._stack.pop(), self._stack.pop()
            if not (type(module) is str and type(last) is str):
                raise self._refused("builds a name from values that are no text")
        else:
            module, _, last = given.partition(" ")
        name = f"{module}.{last}"
        if name not in STORAGES and name not in _CALLS and name not in _IGNORED:
            raise self._refused(f'uses the name "{name[:100]}"')
        self._stack.append(_Name(name))

    def reduce(self, _: None) -> None:
        """Replace a name and arguments by the result of this module's function for that name."""
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
        """Drop the attributes of a dict (PyTorch's versions of modules) or of an ignored object."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict | EllipsisType):
            raise self._refused(f"sets attributes of {_described(self._stack[-1])}")

    def persistent_id(self, _: None) -> None:
        """Replace the reference to a storage by a `Storage`."""
        reference = self._stack.pop()
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise self._refused("refers to something that is not a storage")
        _, kind, key, _, count = reference
        if type(kind) is not _Name or kind.name not in STORAGES or type(key) is not str or not _natural(count):
            raise self._refused("refers to a storage of an unknown kind")
        self._stack.append(Storage(key=key, dtype=STORAGES[kind.name], count=count))

    def pop_to_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        values: list[Any] = []
        while (value := self._stack.pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def pop(self, count: int) -> list[Any]:
        """Pop that many values."""
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def extend(self, values: list[Any]) -> None:
        """Append values to the list on top of the stack, unless it is an ignored object."""
        target = self._stack[-1]
        if type(target) is list:
            target.extend(values)
        elif target is not ...:
            raise self._refused(f"appends to {_described(target)}")

    def set_items(self, values: list[Any]) -> None:
        """Set items (key, value, key, value, ...) of the dict on top of the stack, except where `_is_key` is false."""
        target, items = self._stack[-1], zip(values[::2], values[1::2], strict=True)
        if type(target) is dict:
            target.update((key, value) for key, value in items if _is_key(key))
        elif target is not ...:
            raise self._refused(f"sets items of {_described(target)}")

    def ignore(self, _: Any) -> None:
        """Push ``...``, which stands for values that are not needed."""
        self._stack.append(...)


def _described(value: Any) -> str:
    return f'"{value.name}"' if type(value) is _Name else f"a value of type {type(value).__name__}"


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _is_key(value: Any) -> bool:
    """A string, or a number small enough to be its own hash: other keys could be chosen to collide and make a dict slow."""
    return type(value) is str or _natural(value)


def _axes(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) <= MOST_AXES and all(map(_natural, value))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """A tensor; `nnseg.interop.nnunet.checkpoint.Checkpoint.read` checks that it lies inside its storage."""
    if type(storage) is not Storage or not (_natural(offset) and _axes(shape) and _axes(strides) and len(shape) == len(strides)):
        raise TypeError("a tensor of something other than numbers")
    return StoredTensor(storage=storage, offset=offset, shape=tuple(shape), strides=tuple(strides))


def _size(shape: Any) -> tuple[int, ...]:
    if not _axes(shape):
        raise TypeError("a shape of something other than numbers")
    return tuple(shape)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": _size,
}

_IGNORED = {
    "torch.device",
    *map(str, STORAGES.values()),
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
"""Other names in trained checkpoints, which the import does not need: they are not called, and ``...`` stands for the result."""

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
"""Opcodes that push a number, string or bytes."""

_OPCODES: dict[str, Callable[[PickleInterpreter, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_Mark),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_to_mark())),
    **dict.fromkeys(("EMPTY_SET", "BYTEARRAY8"), PickleInterpreter.ignore),
    "FROZENSET": lambda machine, _: machine.ignore(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleInterpreter.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleInterpreter.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), PickleInterpreter.find),
    "REDUCE": PickleInterpreter.reduce,
    "BUILD": PickleInterpreter.build,
    "BINPERSID": PickleInterpreter.persistent_id,
}
