"""Writing files so that a file under its final name is complete."""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnseg.core.errors import PlanError, RunError

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


def sweep(folder: Path, *, inside: bool = True) -> None:
    """Remove what writing left aside when its process was killed; nobody else may be writing in the folder, nor in those inside."""
    for path in folder.rglob(".*") if inside else folder.glob(".*"):
        if re.match(r"\.[0-9a-f]{8}\.", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds, not yet validated.

    Raises:
        PlanError: it cannot be read, naming the line.
    """
    try:
        raw = path.read_bytes()
        return tomllib.loads(raw.decode("utf-8-sig"))  # some editors begin UTF-8 with a mark of their own
    except FileNotFoundError:
        raise PlanError(f"there is no file {path}") from None
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PlanError(f"{path} is not UTF-8 text: line {line} holds byte {raw[error.start]:#04x}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError):  # Python's own limits
        raise PlanError(f"{path} holds a number of thousands of digits, or lists nested too deeply") from None
