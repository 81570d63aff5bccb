"""Values of the tags of DICOM data sets, whatever is wrong with them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.tag import Tag

UNREADABLE = (
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged files; it promises no type of its own."""


def text_of(dataset: Any, key: str | int) -> str:
    """The text of a tag, several values divided by backslashes; "" if it is missing or cannot be read."""
    value = value_of(dataset, key)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    elif not isinstance(value, str) and isinstance(value, Iterable):
        value = "\\".join(map(str, value))
    return "" if value is None else str(value).strip("\0 ")


def numbers_of(dataset: Any, key: str | int) -> tuple[float, ...]:
    """The numbers of a tag; () if it is missing, or one cannot be read."""
    value = value_of(dataset, key)
    try:
        if isinstance(value, str | bytes):
            text = value.decode("ascii") if isinstance(value, bytes) else value
            return tuple(float(part) for part in text.strip("\0 ").split("\\"))
        if isinstance(value, Iterable):
            return tuple(float(part) for part in value)
        return () if value is None else (float(value),)
    except (ValueError, TypeError):
        return ()


def number_of(dataset: Any, key: str | int) -> float | None:
    """The first number of a tag, or None."""
    return next(iter(numbers_of(dataset, key)), None)


def value_of(dataset: Any, key: str | int) -> Any:
    """The value of a tag as pydicom gives it; as it is stored where it is written wrongly; None if it is missing."""
    tag = tag_of(key)
    if not isinstance(dataset, pydicom.Dataset) or tag not in dataset:
        return None
    with suppress(*UNREADABLE):
        return dataset[tag].value
    with suppress(*UNREADABLE):
        return getattr(dataset.get_item(tag), "value", None)
    return None


def item_of(dataset: Any, key: str | int) -> Any:
    """The first item of a sequence; None if it has none."""
    return next(iter(value_of(dataset, key) or ()), None)


@lru_cache(maxsize=1024)
def tag_of(key: str | int) -> Any:
    """pydicom's tag of a keyword or number."""
    return Tag(key)
