"""How deeply the sequences of a DICOM file are nested, found without recursion before pydicom, which recurses, reads it.

Source: DICOM PS3.5, 7.1 (elements, with and without value representation), 7.5 (sequences and items), A.4 (fragments of pixels),
A.5 (deflated data sets).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from mmap import mmap
from typing import Final

Limit = Callable[[str], int]

UNDEFINED: Final = 0xFFFFFFFF
META: Final = 0x0002
PIXELS: Final = 0x7FE0
ITEMS, ITEM = 0xFFFE, 0xE000
LONG: Final = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length takes four bytes, after two reserved ones."""

RAW, GZIP = -15, 31
"""Of zlib: a stream without header, and one in gzip."""

PART = 2**20
"""Bytes that are unpacked at a time."""

SYNTAX: Final = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]+)", re.DOTALL)
BIG_ENDIAN, DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"


_HEADS: Final = {big: struct.Struct(">HH2sH" if big else "<HH2sH") for big in (False, True)}
_LENGTHS: Final = {big: struct.Struct(">I" if big else "<I") for big in (False, True)}


def check_nesting(data: bytes | mmap, limit: Limit) -> None:
    """Raise ValueError for sequences nested too deeply, too many elements, or a deflated data set that is too large.

    Args:
        data: a file; of one that is mapped, only the pages of its header are read.
        limit: that of `nnseg.core.limits`.
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
            return
        big = is_big and data[at : at + 2] != b"\2\0"
        group, element, kind, _ = _HEADS[big].unpack_from(data, at)
        if not opened and group == PIXELS:
            return
        if not opened and group != META and syntax == DEFLATED:
            check_nesting(joined(inflated(bytes(data[at:]), RAW), limit), limit)
            return
        at, length, begun = _value(data, at, group, element, kind, big=big)
        in_fragments = bool(opened) and opened[-1][1]
        if begun and not (in_fragments and group == ITEMS):
            opened.append((float("inf") if length == UNDEFINED else at + length, begun == "fragments" or in_fragments))
            if len(opened) > 2 * limit("nested_sequences"):  # of each, the sequence and an item
                raise ValueError(
                    f"its sequences are nested over {limit('nested_sequences')} deep; see nested_sequences in docs/limits.md"
                )
        elif group == ITEMS and element != ITEM:
            del opened[-1:]
        else:
            at += length
    raise ValueError(f"its header has over {limit('dicom_elements'):,} elements; see dicom_elements in docs/limits.md")


def joined(parts: Iterable[bytes], limit: Limit) -> bytes:
    """The parts of what a data set unpacks to; ValueError if it is too large."""
    whole, most = io.BytesIO(), limit("packed_dicom_bytes")
    for part in parts:
        whole.write(part)
        if whole.tell() > most:
            raise ValueError(f"it unpacks to over {most:,} bytes; see packed_dicom_bytes in docs/limits.md")
    return whole.getvalue()


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


def inflated(data: bytes, wbits: int) -> Iterator[bytes]:
    """What a deflated data set (wbits -15) or a file in gzip (31) unpacks to, in parts.

    Raises:
        EOFError, zlib.error: it ends early, or is damaged.
    """
    while data:
        stream = zlib.decompressobj(wbits)
        while data and not stream.eof:
            yield stream.decompress(data, PART)
            data = stream.unconsumed_tail
        if not stream.eof:
            raise EOFError("its compressed stream ends early")
        data = stream.unused_data.lstrip(b"\0") if wbits == GZIP else b""
