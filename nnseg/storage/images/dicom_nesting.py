"""How deeply the sequences of a DICOM file are nested, found without recursion before pydicom, which recurses, reads it.

Source: DICOM PS3.5, 7.1 (elements, with and without value representation), 7.5 (sequences and items), A.4 (fragments of pixels),
A.5 (deflated data sets).
"""

from __future__ import annotations

import re
import struct
from mmap import mmap
from pathlib import Path
from typing import Final

from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit, limit

UNDEFINED: Final = 0xFFFFFFFF
META: Final = 0x0002
PIXELS: Final = 0x7FE0
ITEMS, ITEM = 0xFFFE, 0xE000
LONG: Final = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length takes four bytes, after two reserved ones."""

SYNTAX: Final = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]+)", re.DOTALL)
BIG_ENDIAN, DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
ADVICE: Final = ("export the series again, or remove the file", "NS-S037")

_HEADS: Final = {big: struct.Struct(">HH2sH" if big else "<HH2sH") for big in (False, True)}
_LENGTHS: Final = {big: struct.Struct(">I" if big else "<I") for big in (False, True)}


def check_nesting(path: Path, data: bytes | mmap) -> int | None:
    """Where a deflated data set begins, in which nothing was looked at; None for one that is not deflated.

    Args:
        path: that messages name.
        data: a file; of one that is mapped, only the pages of its header are read.

    Raises:
        ScanError: sequences are nested too deeply, or there are too many elements.
    """
    start = bytes(data[:4096])
    found = SYNTAX.search(start)
    syntax, at, size = found[1] if found else b"", 132 if start[128:132] == b"DICM" else 0, len(data)
    is_big = syntax == BIG_ENDIAN or (not syntax and start[:1] == b"\0")
    opened: list[tuple[float, bool]] = []  # where sequences and items end, and whether their items are fragments of pixels
    for _ in range(limit("dicom_elements")):
        while opened and at >= opened[-1][0]:
            opened.pop()
        if at + 8 > size:
            return None
        big = is_big and data[at : at + 2] != b"\2\0"
        group, element, kind, _ = _HEADS[big].unpack_from(data, at)
        if not opened and group == PIXELS:
            return None
        if not opened and group != META and syntax == DEFLATED:
            return at
        at, length, begun = _value(data, at, group, element, kind, big=big)
        in_fragments = bool(opened) and opened[-1][1]
        if begun and not (in_fragments and group == ITEMS):
            opened.append((float("inf") if length == UNDEFINED else at + length, begun == "fragments" or in_fragments))
            depth = len(opened) // 2  # of each, the sequence and an item
            check_limit("nested_sequences", depth, path, "its sequences are nested {} deep or more", ScanError, *ADVICE)
        elif group == ITEMS and element != ITEM:
            del opened[-1:]
        else:
            at += length
    check_limit("dicom_elements", limit("dicom_elements") + 1, path, "its header has {:,} elements or more", ScanError, *ADVICE)
    return None


def _value(data: bytes | mmap, at: int, group: int, element: int, kind: bytes, *, big: bool) -> tuple[int, int, str]:
    """Where the value of an element begins, its length, and "sequence" or "fragments" if it is one of these, or an item."""
    if group == ITEMS:
        return at + 8, _LENGTHS[big].unpack_from(data, at + 4)[0], "sequence" if element == ITEM else ""
    if not (kind.isalpha() and kind.isupper()):  # without value representation
        length = _LENGTHS[big].unpack_from(data, at + 4)[0]
        items = length == UNDEFINED or data[at + 8 : at + 12] == b"\xfe\xff\0\xe0"
        return at + 8, length, "sequence" if items else ""
    if kind not in LONG:
        return at + 8, _HEADS[big].unpack_from(data, at)[3], ""
    if at + 12 > len(data):
        return at + 12, 0, ""
    length = _LENGTHS[big].unpack_from(data, at + 8)[0]
    if kind == b"SQ" or (kind == b"UN" and length == UNDEFINED):
        return at + 12, length, "sequence"
    return at + 12, length, "fragments" if length == UNDEFINED else ""
