"""Names of temporary files, which tell whose they are, and removal of those that killed processes left."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from nnseg.system.regular import files_below

TEMPORARY = re.compile(r"\.nnseg-([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{8}\..+")
"""Names of temporary files: with the machine and the process that writes."""

LONGEST_TAIL = 54
"""Characters of a file's name that its temporary name ends in: names may have 255 bytes, and a character four."""


def temporary_beside(path: Path) -> Path:
    """A path beside another that no other process uses, with the end of its name."""
    return path.with_name(f".nnseg-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{path.name[-LONGEST_TAIL:]}")


def sweep(folder: Path, *, inside: bool = True) -> None:
    """Remove temporary files of killed processes; no other process may be writing in the folder or, with ``inside``, below it."""
    for path in files_below(folder) if inside else folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sweep_ended(folder: Path) -> None:
    """Remove temporary files in a folder whose processes were of this machine and have ended; others may be in use."""
    with suppress(OSError):  # no folder, or one of another user
        for path in folder.glob(".nnseg-*"):
            found = TEMPORARY.fullmatch(path.name)
            if found and found[1] == _machine() and not psutil.pid_exists(int(found[2])) and path.is_file():
                path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """This machine, or container: numbers of processes are its own."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(f"{platform.node()} {space}".encode(), digest_size=4).hexdigest()
