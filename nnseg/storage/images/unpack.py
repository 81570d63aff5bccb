"""Compressed streams (zlib, gzip, bzip2), unpacked to their checksums at the end, and not beyond what a header announces."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nnseg.core.errors import ScanError

GZIP_MAGIC, BZIP2_MAGIC = b"\x1f\x8b", b"BZh"

PART = 2**20
"""Bytes read or unpacked at a time."""

SLACK = 2**20
"""Bytes that may follow those announced: padding, or an extension of the header. They are unpacked for the checksum only."""

AUTOMATIC = zlib.MAX_WBITS + 32
"""zlib or gzip, by the stream's own header. Source: zlib's manual, inflateInit2."""


def unpack(path: Path, file: BinaryIO, announced: int | None = None) -> bytes:
    """The unpacked bytes of a stream from where a file stands to its end, see `unpack_parts`."""
    return b"".join(unpack_parts(path, file, announced))


def check_stream(path: Path, file: BinaryIO, announced: int) -> None:
    """Raise ScanError unless a stream unpacks to the bytes that a header announces; nothing of it is kept."""
    for _ in unpack_parts(path, file, announced):
        pass


def unpack_parts(path: Path, file: BinaryIO, announced: int | None = None) -> Iterator[bytes]:
    """The unpacked bytes of a stream in parts of at most `PART` bytes; at the end all checksums and lengths have been verified.

    gzip and bzip2 files may consist of several streams one after another. Where ``announced`` is given, nothing is read beyond the
    stream that reaches it, and at most `SLACK` bytes more are unpacked.

    Args:
        path: that messages name.
        file: at the first byte of the stream.
        announced: number of unpacked bytes by the header; None if it is not known.

    Raises:
        ScanError: the stream ends early, is damaged, or unpacks to more or to less.
    """
    total, packed = 0, file.read(PART)
    kind = {GZIP_MAGIC: "gzip", BZIP2_MAGIC[:2]: "bzip2"}.get(packed[:2], "zlib")
    try:
        while packed and (announced is None or total < announced or not total):
            unpacker: Any = bz2.BZ2Decompressor() if kind == "bzip2" else zlib.decompressobj(AUTOMATIC)
            while not unpacker.eof:
                part = unpacker.decompress(packed, PART)
                total += len(part)
                if announced is not None and total > announced + SLACK:
                    found = f"unpacks to more than {total} bytes"
                    raise ScanError.at(
                        path, found, f"{announced}, as its header says", "export it again; its header is wrong", "NS-S030"
                    )
                packed = getattr(unpacker, "unconsumed_tail", b"")
                if not packed and not unpacker.eof and getattr(unpacker, "needs_input", True):
                    packed = file.read(PART)
                if not (part or packed or unpacker.eof):
                    raise ScanError.at(
                        path, f"{kind} stream ends early", "a complete file", "copy it again; it is truncated", "NS-S002"
                    )
                yield part
            packed = unpacker.unused_data.lstrip(b"\0") or file.read(PART).lstrip(b"\0")  # zeros may fill a block
    except (OSError, zlib.error) as error:
        raise ScanError.at(path, f"{kind} stream is damaged ({error})", "an intact file", "copy it again", "NS-S030") from error
    if announced is not None and total < announced:
        found = f"{kind} stream unpacks to {total} bytes"
        raise ScanError.at(path, found, f"{announced}, as its header says", "copy or export it again", "NS-S002")
