"""Texts and archives, read within the limits of `nnseg.core.limits`."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from nnseg.core.limits import limit, raise_by
from nnseg.system.regular import open_regular

TextKind = Literal["text", "plan", "run"]
"""Of texts with limits of their own: what other tools wrote, plans and recipes, and what nnseg wrote into a run."""

_SEPARATORS: Final[dict[TextKind, bytes]] = {"text": b",;\t\n", "plan": b",\n", "run": b","}
"""Characters of which there is one for each entry of a list or table, at most."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")

_KEY = rb"""(?<![\w."'-])(?:[\w"'-]++[ \t]*\.[ \t]*)"""


def read_text_bytes(path: Path, kind: TextKind = "text") -> bytes:
    """The bytes of a text file, within the limits of `nnseg.core.limits`.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes, entries or parts of a dotted key than allowed.
    """
    most = limit(f"{kind}_bytes")
    with open_regular(path) as file:
        raw = file.read(most + 1)
    entries = sum(raw.count(separator) for separator in _SEPARATORS[kind])
    for name, found in ((f"{kind}_bytes", len(raw)), (f"{kind}_entries", entries)):
        if found > limit(name):
            more = max(found, path.stat().st_size) if name.endswith("bytes") else found
            what = name.rpartition("_")[2]
            raise OSError(errno.EFBIG, f"has {more:,} {what}, at most {limit(name):,} are read; {raise_by(name)}", str(path))
    if kind == "plan" and re.search(_KEY + rb"{%d}" % limit("key_parts"), raw):
        raise OSError(errno.EFBIG, f"has a key of more than {limit('key_parts')} parts", str(path))
    return raw


def read_text(path: Path, kind: TextKind = "text") -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors write, within the limits of `nnseg.core.limits`.

    Raises:
        OSError: as `read_text_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_text_bytes(path, kind).decode("utf-8-sig")


def parse_json(text: str) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: it is no JSON, or has halves of characters (such as ``\\ud800``), which no file can hold.
        RecursionError: it is nested too deeply.
    """
    content = json.loads(text)
    if _HALF.search(text):
        json.dumps(content, ensure_ascii=False).encode()
    return content


@contextmanager
def open_archive(path: Path, entries: int) -> Iterator[zipfile.ZipFile]:
    """A zip file, opened for reading; BadZipFile for one with more entries than that, which are counted before they are listed."""
    with open_regular(path) as file:
        check_archive(file, entries)
        try:
            archive = zipfile.ZipFile(file)
        except (OSError, ValueError) as error:  # places before the beginning, names that are no text
            raise zipfile.BadZipFile(f"its list of entries is damaged ({error})") from error
        with archive:
            yield archive


def check_archive(file: BinaryIO, entries: int) -> None:
    """Raise BadZipFile for an archive with more entries than that, before they are listed.

    Source: PKWARE APPNOTE 4.3.12: an entry of the directory at the end has at least 46 bytes, and names are short.
    """
    end: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("File is not a zip file")
    if end[zipfile._ECD_ENTRIES_TOTAL] > entries or end[zipfile._ECD_SIZE] > 460 * (entries + 1):  # type: ignore[attr-defined]
        raise zipfile.BadZipFile(f"it has over {entries} entries")
    file.seek(0)
