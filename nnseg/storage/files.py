"""Writing files so that a file under its final name is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnseg.core.errors import RunError


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with the same suffixes, that is flushed and renamed to it on success and removed on failure.

    Raises:
        RunError: the folder cannot be written to, or the disk is full.
    """
    aside = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _flush(aside)
        os.replace(aside, path)
        _flush(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; check the folder's permissions and free space") from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text to a file that is never seen half-written."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
