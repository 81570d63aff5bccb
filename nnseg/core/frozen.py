"""The base of all models that are read from files or written to them, what objects show of themselves, and a digest of content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

LINES, WIDTH = 24, 80
"""Of a screen."""

MOST = 4
"""Items that are shown of a collection."""


class FrozenModel(BaseModel):
    """An immutable model that refuses unknown keys, and shows itself on at most a screen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr__(self) -> str:
        return short_repr(self)

    def __str__(self) -> str:
        return short_repr(self)


def digest(content: Any) -> str:
    """BLAKE2b hash (32 hexadecimal digits) of anything that JSON can hold; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def short_repr(found: Any) -> str:
    """The fields of a data class or model, in one line or in one line each; collections and arrays are abbreviated."""
    name, parts = type(found).__name__, [f"{key}={_short(value, WIDTH)}" for key, value in _fields(found)]
    line = f"{name}({', '.join(parts)})"
    if len(line) <= WIDTH:
        return line
    more = len(parts) - (LINES - 2)
    if more > 0:
        parts = [*parts[: LINES - 3], f"... {more + 1} more"]
    return "\n".join([f"{name}(", *(f"{_cut(part, WIDTH - 3)}," for part in (f"  {part}" for part in parts)), ")"])


def _fields(found: Any) -> Iterator[tuple[str, Any]]:
    names: Iterable[str] = type(found).model_fields if isinstance(found, BaseModel) else (f.name for f in fields(found) if f.repr)
    return ((name, getattr(found, name)) for name in names)


def _short(value: Any, room: int) -> str:
    """A value in one line of about so many columns, deeper parts in fewer."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # arrays and tensors
        return f"<{value.dtype} {tuple(value.shape)}>"
    if isinstance(value, Mapping):
        items = [f"{_short(key, room // 2)}: {_short(one, room // 2)}" for key, one in _first(value.items())]
        return _cut("{" + _joined(items, len(value)) + "}", room)
    if isinstance(value, list | tuple | set | frozenset):
        text = _joined([_short(one, room // 2) for one in _first(value)], len(value))
        alone = "," if len(value) == 1 else ""
        return _cut(f"[{text}]" if isinstance(value, list) else f"({text}{alone})", room)
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        name = type(value).__name__
        if room < WIDTH // 4:
            return f"{name}(...)"
        return _cut(f"{name}({', '.join(f'{key}={_short(one, room // 2)}' for key, one in _fields(value))})", room)
    return _cut(" ".join(repr(value).split()), room)


def _first(items: Iterable[Any]) -> list[Any]:
    return [item for _, item in zip(range(MOST), items, strict=False)]


def _joined(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f", ... {count - MOST} more" if count > MOST else "")


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(0, room - 4)]} ..."
