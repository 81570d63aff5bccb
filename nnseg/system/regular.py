"""Regular files only: what reads a pipe or a device may wait or read for ever; and paths whose links may lead in rings."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open` that refuses links; none on Windows, where few users may make any."""

_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
"""Flag of `os.open` with which a pipe without a writer is opened at once."""

_IRREGULAR: Final = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}

_UNLISTED: Final = (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Numbers of the errors of what is passed over in a folder: of other users, removed meanwhile, or beyond the longest path."""


def check_regular(path: Path) -> None:
    """Raise OSError for a pipe, a socket, a device or a file of the kernel, or a link to one: reading it may never end.

    Also for a path that the system cannot have, of which Python raises a ValueError.
    """
    try:
        state = path.stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, f"is no path ({error})", str(path)) from error
    _check_kind(path, state)


class _NamedFile(io.FileIO):
    """A file whose errors of reading have its name, as those of opening have."""

    def readinto(self, buffer: Any, /) -> int | None:
        with self._named_errors():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._named_errors():
            return super().readall()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error


def open_regular(path: Path) -> io.BufferedReader:
    """A regular file, opened for reading.

    Raises:
        OSError: it cannot be opened, or is a pipe, a socket or a device. Errors of reading from it have its name, too.
    """
    check_regular(path)  # some devices act when they are opened

    def opened(name: str, flags: int) -> int:
        handle = os.open(name, flags | _NO_WAIT)
        try:
            _check_kind(path, os.fstat(handle))  # another file may have got the name meanwhile
        except OSError:
            os.close(handle)
            raise
        return handle

    return io.BufferedReader(_NamedFile(str(path), "rb", opener=opened))


def _check_kind(path: Path, state: os.stat_result) -> None:
    kind = _IRREGULAR.get(stat.S_IFMT(state.st_mode), "a file of the system's kernel" if state.st_dev in _kernel_disks() else "")
    if kind:
        raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))


@cache
def _kernel_disks() -> frozenset[int]:
    """Numbers of the disks that Linux makes up, whose files it calls regular, though some are waited for, and some have no end."""
    return frozenset(place.stat().st_dev for place in map(Path, ("/proc", "/sys")) if place.is_mount())


def resolved(path: Path) -> Path:
    """The absolute path without links and ".."; one whose links lead in a ring is as it is, where `Path.resolve` fails."""
    return Path(os.path.realpath(path))


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its folders, in no order; links to folders are not followed.

    Unlike `Path.rglob` it does not recurse: Python ends at about a thousand folders within one another.
    """
    return (Path(entry.path) for entry in _entries_below(folder) if _is(entry.is_file))


def folders_below(folder: Path) -> Iterator[Path]:
    """All folders, and links to folders, in a folder and its folders, as `files_below`."""
    return (Path(entry.path) for entry in _entries_below(folder) if _is(entry.is_dir))


def _entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                entries = list(listing)
        except OSError as error:
            if error.errno not in _UNLISTED:
                raise
            continue
        waiting += (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        yield from entries


def _is(kind: Callable[[], bool]) -> bool:
    """What a method of an entry says; False for a link that leads in a ring or to what others may not see."""
    try:
        return kind()
    except OSError as error:
        if error.errno not in _UNLISTED:
            raise
        return False
