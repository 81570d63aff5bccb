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

MOST_STREAMS, LEAST_EACH = 1000, 1024
"""More streams one after another than this unpack to so many bytes each at least, in the mean: to skip empty ones takes long."""

AUTOMATIC, BARE = zlib.MAX_WBITS + 32, -zlib.MAX_WBITS
"""zlib or gzip, by the stream's own header, or deflate without one. Source: zlib's manual, inflateInit2."""


def unpack(path: Path, file: BinaryIO, announced: int | None = None) -> bytes:
    """The unpacked bytes of a stream from where a file stands to its end, see `unpack_parts`."""
    return b"".join(unpack_parts(path, file, announced))


def unpack_parts(
    path: Path, file: BinaryIO, announced: int | None = None, *, most: int | None = None, bare: bool = False
) -> Iterator[bytes]:
    """The unpacked bytes of a stream in parts of at most `PART` bytes; at the end all checksums and lengths have been verified.

    gzip and bzip2 files may consist of several streams one after another. Where ``announced`` is given, nothing is read beyond the
    stream that reaches it, and at most `SLACK` bytes more are unpacked.

    Args:
        path: that messages name.
        file: at the first byte of the stream.
        announced: number of unpacked bytes by the header; None if it is not known.
        most: number of unpacked bytes that it may not exceed; by default ``announced``.
        bare: the stream is deflated without a header of zlib or gzip, so that it has no checksum, and only one.

    Raises:
        ScanError: the stream ends early, is damaged, or unpacks to more or to less.
    """
    total, packed, most, streams = 0, file.read(PART), announced if most is None else most, 0
    kind = "deflate" if bare else {GZIP_MAGIC: "gzip", BZIP2_MAGIC[:2]: "bzip2"}.get(packed[:2], "zlib")
    try:
        while packed and (announced is None or total < announced or not total):
            unpacker: Any = bz2.BZ2Decompressor() if kind == "bzip2" else zlib.decompressobj(BARE if bare else AUTOMATIC)
            while not unpacker.eof:
                part = unpacker.decompress(packed, PART)
                total += len(part)
                if most is not None and total > most + SLACK:
                    found, expected = f"unpacks to more than {total} bytes", f"{most}, as its header says"
                    raise ScanError.at(path, found, expected, "export it again; its header is wrong", "NS-S030")
                packed = getattr(unpacker, "unconsumed_tail", b"")
                if not packed and not unpacker.eof and getattr(unpacker, "needs_input", True):
                    packed = file.read(PART)
                if not (part or packed or unpacker.eof):
                    found = f"{kind} stream ends early"
                    raise ScanError.at(path, found, "a complete file", "copy it again; it is truncated", "NS-S002")
                yield part
            if bare:
                return
            packed = unpacker.unused_data.lstrip(b"\0") or file.read(PART).lstrip(b"\0")  # zeros may fill a block
            if (streams := streams + 1) > MOST_STREAMS and total < LEAST_EACH * streams:
                found = f"consists of over {MOST_STREAMS} {kind} streams of few bytes"
                raise ScanError.at(path, found, "one stream", "export it again")
    except (OSError, zlib.error) as error:
        raise ScanError.at(path, f"{kind} stream is damaged ({error})", "an intact file", "copy it again", "NS-S030") from error
    if announced is not None and total < announced:
        found = f"{kind} stream unpacks to {total} bytes"
        raise ScanError.at(path, found, f"{announced}, as its header says", "copy or export it again", "NS-S002")
