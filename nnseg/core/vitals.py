"""Vital signs of another process of ours: whether it is doing anything, and how much memory it holds. Read from Linux's /proc."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.machine import CGROUPS, GIGABYTE, PROC


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a process has done so far.

    Args:
        cpu_seconds: it has computed.
        io_bytes: it has read and written, network drives and pages of mapped files included.
        own_gb: memory that it holds for itself now.
    """

    cpu_seconds: float
    io_bytes: int = 0
    own_gb: float = 0.0


def vitals(pid: int, *, proc: Path = PROC) -> Vitals | None:
    """What a process has done so far; None if it has ended, or where there is no /proc."""
    folder = proc / str(pid)
    try:
        user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        resident, shared = (folder / "statm").read_text().split()[1:3]
    except OSError:
        return None
    io_bytes = 0
    with suppress(OSError):  # not everybody may look
        io_bytes = sum(map(int, re.findall(r"^(?:rchar|wchar|read_bytes|write_bytes): (\d+)", (folder / "io").read_text(), re.M)))
    return Vitals(
        cpu_seconds=(int(user) + int(system)) / os.sysconf("SC_CLK_TCK"),
        io_bytes=io_bytes,
        own_gb=(int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / GIGABYTE,
    )


def oom_kills(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How many processes were killed because memory had run out: in this one's control group, else on the machine; 0 if unknown."""
    for path, name in ((cgroups / _group(proc) / "memory.events", "oom_kill"), (proc / "vmstat", "oom_kill")):
        with suppress(OSError):
            found = re.search(rf"^{name} (\d+)", path.read_text(), re.M)
            if found:
                return int(found[1])
    return 0


def _group(proc: Path) -> str:
    """The control group (version 2) of this process, below the topmost that it sees."""
    with suppress(OSError):
        found = re.search(r"^0::/(.*)$", (proc / "self/cgroup").read_text(), re.M)
        if found:
            return found[1]
    return ""
