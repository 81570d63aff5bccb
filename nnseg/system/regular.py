"""Regular files only: what reads a pipe or a device may wait or read for ever; and paths whose links may lead in rings."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open` that refuses links; none on Windows, where few users may make any."""

_IRREGULAR: Final = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_regular(path: Path) -> None:
    """Raise OSError for a pipe, a socket or a device, or a link to one: reading it may never end."""
    kind = _IRREGULAR.get(stat.S_IFMT(path.stat().st_mode))
    if kind:
        raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))


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
    check_regular(path)
    return io.BufferedReader(_NamedFile(str(path)))


def resolved(path: Path) -> Path:
    """The absolute path without links and ".."; one whose links lead in a ring is as it is, where `Path.resolve` fails."""
    return Path(os.path.realpath(path))
