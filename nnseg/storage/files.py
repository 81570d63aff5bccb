"""JSON, TOML and text files: read strictly, written so that a file under its final name is complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from nnseg.core.errors import NewerVersionError, PlanError, RunError, WriteError
from nnseg.storage.bounded import TextKind, read_text_bytes
from nnseg.storage.temporary import temporary_beside
from nnseg.system.regular import NO_LINK, open_regular
from nnseg.system.stale import tried_again

Content = TypeVar("Content")

UMASK = os.umask(0)
os.umask(UMASK)

WINDOWS = sys.platform == "win32"


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with the end of its name: flushed and renamed to it on success, removed on failure.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    aside = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _flush(aside, mode=0o666 & ~UMASK)  # some writers make private files, whatever the umask
        record_file(path, aside)
        aside.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise WriteError(_why_not_written(path, aside, error)) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _why_not_written(path: Path, aside: Path, error: OSError) -> str:
    """What prevented that a file was written, and what to do."""
    reason = f"cannot write {path}: {error.strerror or error}"
    if error.errno not in FULL:
        return f"{reason}; check the folder's permissions and free space"
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        needed = free + (aside.stat().st_size if aside.exists() else 0)
        reason += f" ({free / 1e6:.1f} MB are free, more than {needed / 1e6:.1f} MB are needed)"
    return f"{reason}; free some space, and repeat the command: what is finished is kept"


MANIFEST = "manifest.jsonl"
"""In the folder of a run, see `nnseg.storage.manifest`: a line for each file that is written into it or below."""

DEEPEST = 6
"""Folders above a file among which the manifest is looked for."""


def has_manifest(folder: Path) -> bool:
    """True if there is a manifest of a run, which has a lock beside it; other programs have files of this name too.

    A link, or a file with a second name elsewhere, is none: what is appended would change a file outside of the run.
    """
    with suppress(OSError):
        state = (folder / MANIFEST).lstat()
        return stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and (folder / ".lock").exists()
    return False


def record_file(path: Path, aside: Path) -> None:
    """Append size and hash of a file, which is about to get its final name, to the manifest of its run, if it is in one.

    Several processes may append at once: a line is one write to the end of the file. It begins anew after one that was cut.
    """
    folders = [folder for folder in path.parents[:DEEPEST] if has_manifest(folder)]
    if not folders or path.name == MANIFEST:
        return
    entry = {"path": path.relative_to(folders[0]).as_posix(), "bytes": aside.stat().st_size, "hash": file_hash(aside)}
    flags = os.O_WRONLY | os.O_APPEND | NO_LINK
    with open(os.open(folders[0] / MANIFEST, flags), "ab", buffering=0) as file:  # noqa: PTH123
        file.write(b"\n" + json.dumps(entry).encode() + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; readers see the old content or the new, never a part."""
    with write_aside(path) as aside:
        aside.write_bytes(text.encode())  # not as text: Windows would end lines by two characters, and hashes differ


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk, and of a quota that is used up."""


def file_hash(path: Path) -> str:
    """The BLAKE2b hash (32 hexadecimal digits) of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def text_hash(text: str) -> str:
    """What `file_hash` gives for a file of this text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _flush(path: Path, mode: int | None = None) -> None:
    """Write a folder to the disk, or a file with the given permissions, which must be no link."""
    if WINDOWS and mode is None:
        return  # it opens no folders, and keeps their entries by its journal
    handle = os.open(path, (os.O_RDWR if WINDOWS else os.O_RDONLY) | (0 if mode is None else NO_LINK))
    try:
        if mode is not None and not WINDOWS:
            os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


_LONG_NUMBER = re.compile(rb"0[xob][0-9a-fA-F_]{1000}")
"""A number in TOML that Python reads, but does not write."""


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, not yet validated.

    Raises:
        PlanError: the file cannot be read; names the line.
    """
    try:
        raw = tried_again(partial(read_text_bytes, path, "plan"))
        if _LONG_NUMBER.search(raw):
            raise ValueError
        return tomllib.loads(raw.decode("utf-8-sig"))  # some editors write a byte order mark
    except FileNotFoundError:
        raise PlanError(f"there is no file {path}") from None
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PlanError(f"{path} is not UTF-8 text: line {line} holds byte {raw[error.start]:#04x}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError):  # Python's own limits
        raise PlanError(f"{path} holds a number of thousands of digits, or lists nested too deeply") from None


def read_json(path: Path, kind: type[Content], limits: TextKind = "run") -> Content:
    """The content of a JSON file.

    Args:
        limits: of its bytes and entries.

    Raises:
        RunError: the file is missing or cannot be read, or its content is not of this kind.
        NewerVersionError: its ``format`` is later than that of the kind.
    """
    try:
        return TypeAdapter(kind).validate_json(tried_again(partial(read_text_bytes, path, limits)))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is missing; run the command that makes it, or nnseg run") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; check its permissions and the disk") from error
    except ValidationError as error:
        for found in error.errors():
            known = str(found.get("ctx", {}).get("expected"))
            if (
                found["loc"] == ("format",)
                and isinstance(found["input"], int)
                and known.isdecimal()
                and found["input"] > int(known)
            ):
                raise NewerVersionError.of(path, found["input"], int(known)) from None
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        wrong = f"{path} is damaged, or of another version of nnseg ({f'{place}: ' if place else ''}{first['msg']})"
        raise RunError(f"{wrong}; delete it, and nnseg run makes it anew") from None


def write_json(path: Path, content: Any) -> None:
    """Write a dataclass or pydantic model as indented JSON."""
    write_text(path, TypeAdapter(type(content)).dump_json(content, indent=1).decode() + "\n")


class _HasPath(Protocol):
    @property
    def path(self) -> Path: ...


class PathIn:
    """The path of a file or folder of a fixed name, as an attribute of the object that represents its folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: _HasPath, owner: type) -> Path:
        return folder.path / self.name


class StoredFile(Generic[Content]):
    """The content of a file of a fixed name, as an attribute of the object that represents its folder.

    It is read when first needed, and again only after the file has changed. Assigning to the attribute writes the file, assigning
    None removes it. As an attribute of the class it is this description of the file.
    """

    def __init__(self, name: str, read: Callable[[Path], Content], write: Callable[[Path, Content], None] = write_json) -> None:
        self.name, self._read, self._write = name, read, write

    @overload
    def __get__(self, folder: None, owner: type) -> Self: ...
    @overload
    def __get__(self, folder: _HasPath, owner: type) -> Content: ...
    def __get__(self, folder: _HasPath | None, owner: type) -> Self | Content:
        return self if folder is None else self.of(folder)

    def __set__(self, folder: _HasPath, content: Content) -> None:
        if content is None:
            self.path(folder).unlink(missing_ok=True)
        else:
            self._write(self.path(folder), content)

    def of(self, folder: _HasPath) -> Content:
        """The content of the file in a folder."""
        path, key = self.path(folder), f"content of {self.name}"
        with suppress(FileNotFoundError, NotADirectoryError):
            state = path.stat()
            version = (state.st_ino, state.st_mtime_ns, state.st_size)
            known: tuple[object, Content] | None = folder.__dict__.get(key)
            if known is None or known[0] != version:
                known = folder.__dict__[key] = (version, self._read(path))
            return known[1]
        return self._read(path)

    def path(self, folder: _HasPath) -> Path:
        """Where the file is in a folder."""
        return folder.path / self.name


def json_file(name: str, kind: type[Content]) -> StoredFile[Content]:
    """A JSON file that must exist where its content is used."""
    return StoredFile(name, lambda path: read_json(path, kind))


def optional_json_file(name: str, kind: type[Content]) -> StoredFile[Content | None]:
    """A JSON file that need not exist; its content is None then."""
    return StoredFile(name, lambda path: read_json(path, kind) if path.exists() else None)
