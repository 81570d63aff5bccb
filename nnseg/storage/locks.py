"""`locked`: one process at a time works in a folder."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from nnseg.core.errors import RunError
from nnseg.system.regular import NO_LINK, open_regular
from nnseg.system.stale import tried_again


@contextmanager
def locked(folder: Path, *, busy: str, wait: bool = False) -> Iterator[None]:
    """Keep every other process out of a folder, which is made if missing; the lock is released when its owner dies.

    Args:
        folder: keeps the lock as its file ``.lock``, in which its owner is named; and as ``.lock.only`` on disks without locks.
        busy: message if another process holds the lock, with {} for the folder.
        wait: until another process has released it.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written.
    """
    file = folder / ".lock"
    try:
        lock = tried_again(lambda: _acquired(file, -1 if wait else 0))
    except Timeout as held:
        more = "" if held.lock_file == str(file) else f"; if that has ended without a trace, delete {held.lock_file}"
        raise RunError(busy.format(folder) + _owner(file) + more) from None
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; choose a folder you may write to") from error
    with suppress(OSError):
        _name_owner(file)
    try:
        yield
    finally:
        lock.release()


NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Numbers of the errors of disks on which no file can be locked, such as some network drives."""


def _acquired(file: Path, seconds: float) -> BaseFileLock:
    """A lock that this process holds; by a file's existence where the disk has no locks, which is void once its owner has died.

    Args:
        seconds: to wait for another process at most; for ever if negative.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink():  # of a run kept by DataLad, or meant to lead elsewhere: no process locks through a link
        file.unlink()
    lock: BaseFileLock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
            raise
        lock = SoftFileLock(file.with_name(f"{file.name}.only"), timeout=seconds)
        lock.acquire()
    return lock


def _name_owner(file: Path) -> None:
    """Write who holds a lock into its file, unless that is a link, or has a second name elsewhere."""
    text = f"process {os.getpid()} on {platform.node()}, since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"
    with open(os.open(file, os.O_WRONLY | NO_LINK), "wb") as opened:  # noqa: PTH123
        if os.fstat(opened.fileno()).st_nlink == 1:
            opened.truncate()
            opened.write(text.encode())


def _owner(file: Path) -> str:
    """Who holds a lock, in parentheses; "" if that is not written."""
    with suppress(OSError, ValueError):
        with open_regular(file) as opened:
            text = opened.read(200).decode(errors="replace").strip()
        if text:
            return f" ({text})"
    return ""
