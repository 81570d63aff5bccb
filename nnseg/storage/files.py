"""Writing files so that a file under its final name is complete."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnseg.core.errors import RunError

UMASK = os.umask(0)
os.umask(UMASK)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffixes: flushed and renamed to it on success, removed on failure.

    Raises:
        RunError: the folder cannot be written to, or the disk is full.
    """
    aside = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.chmod(0o666 & ~UMASK)  # some writers make private files, whatever the user's mask says
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; check the folder's permissions and free space") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_text(path: Path, text: str) -> None:
    """Write text to a file that is never seen half-written."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove what writing left aside when its process was killed; nobody else may be writing in the folder."""
    for path in folder.rglob(".*"):
        if re.match(r"\.[0-9a-f]{8}\.", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
