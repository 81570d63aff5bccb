"""What a machine has free, and what a process takes of it: read from Linux's /proc, elsewhere from the standard library.

A process holds memory of its own and maps files. Its own memory cannot be taken away; mapped files can, and are read again when
needed. Of them only libraries are counted here, since nothing runs without those; cases that training reads in place are not.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIGABYTE = 1e9
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

NAMES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of a control group's limit, its use, and the files in it that can be dropped; version 2 and version 1."""


@dataclass
class PeakMemory:
    """The most RAM that was held; known when its block has ended."""

    gb: float = 0.0


def free_ram_gb(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """RAM that this process may still take: what the machine has, or what its control group (a container, a job) leaves."""
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+)", (proc / "meminfo").read_text())
        if found:
            return min(int(found[1]) * 1024, _group_room(proc, cgroups)) / GIGABYTE
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGABYTE
    except (AttributeError, ValueError, OSError):  # Windows
        return float("inf")


def free_device_gb(device: str) -> float:
    """Memory free on "cuda", "cuda:1" or, for "auto", on the first GPU, as its driver says; 0 where there is none."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or shutil.which("nvidia-smi") is None:
        return 0.0
    asked = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={number or 0}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except subprocess.TimeoutExpired:  # a driver that hangs
        return 0.0
    return int(answer) * 2**20 / GIGABYTE if answer.isdigit() else 0.0


def free_disk_gb(folder: Path) -> float:
    """Free on the disk of a folder, which need not exist yet."""
    existing = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    return shutil.disk_usage(existing).free / GIGABYTE


def held_gb(*, children: bool = False) -> float:
    """RAM that this process holds now, its libraries included, and its children's own if asked for; 0 where it cannot be told."""
    return (_own_bytes(os.getpid(), children=children) + _library_bytes()) / GIGABYTE


def give_back() -> None:
    """Hand back to the system freed memory that the C library (Linux's) keeps for later."""
    with suppress(OSError, AttributeError, TypeError):  # another C library; Windows knows no library without a name
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def kept_memory() -> Iterator[None]:
    """A context in which the C library (Linux's) keeps freed memory for the next use.

    It would else hand every block above 32 MB back to the system, and the system fill each new one with zeros, page by page: in a
    training step on a CPU, where nearly all tensors are as large, that was measured to be a third of the time. Costs up to a tenth
    more RAM. What is kept is handed back at the end.
    """
    with suppress(OSError, AttributeError, TypeError):
        _set_malloc(KEEPING)
    try:
        yield
    finally:
        with suppress(OSError, AttributeError, TypeError):
            _set_malloc(DEFAULTS)
        give_back()


def _set_malloc(settings: Mapping[int, int]) -> None:
    library = ctypes.CDLL(None)
    for parameter, value in settings.items():
        library.mallopt(parameter, value)


TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 256 * 2**20}
DEFAULTS = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 1024, TOP_PAD: 128 * 1024}
"""Settings of mallopt, by its parameters' numbers. Source: glibc, malloc.h and the manual of mallopt."""


@contextmanager
def peak_ram(*, every: float = 0.2, children: bool = True) -> Iterator[PeakMemory]:
    """Watch the RAM of this process, and of its children, while in the block.

    A look takes about 0.02 ms, with children 0.3 ms. A peak shorter than ``every`` can be missed.

    Args:
        every: seconds between two looks.
        children: count them in.
    """
    peak, over, most = PeakMemory(), threading.Event(), [0]

    def look() -> None:
        most[0] = max(most[0], _own_bytes(os.getpid(), children=children))

    def watch() -> None:
        while not over.wait(every):
            look()

    look()
    watcher = threading.Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        look()
        peak.gb = (most[0] + _library_bytes()) / GIGABYTE if most[0] else _greatest_ever() / GIGABYTE


def _group_room(proc: Path, cgroups: Path) -> float:
    """Bytes left in the tightest control group of this process, or in the one it sees as the topmost; infinite without a limit."""
    lines = (line.strip().split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines())
    inside = [(("memory", path) if "memory" in names else ("", path)) for _, names, path in lines if names in ("", "memory")]
    rooms = [float("inf")]
    for hierarchy, path in inside:
        top = cgroups / hierarchy
        below = top / path.lstrip("/")
        rooms += [_room_of(f) for f in (below, *below.parents) if f == top or top in f.parents]
    return min(rooms)


def _room_of(folder: Path) -> float:
    for limit, usage, droppable in NAMES:
        with suppress(OSError, ValueError):  # not of this version, or "max": no limit
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            found = re.search(rf"^{droppable} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
            return max(0, most - used + (int(found[1]) if found else 0))
    return float("inf")


def _own_bytes(pid: int, *, children: bool) -> int:
    """Memory that a process, and if asked its descendants, made for themselves; 0 if it has ended or there is no /proc."""
    folder = PROC / str(pid)
    try:
        resident, shared = (folder / "statm").read_text().split()[1:3]
        below = [int(c) for f in folder.glob("task/*/children") for c in f.read_text().split()] if children else []
    except OSError:
        return 0
    own = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return own + sum(_own_bytes(child, children=True) for child in below)


def _library_bytes() -> int:
    """Resident bytes of the program and the libraries that are mapped into this process."""
    total, counts = 0, False
    with suppress(OSError), (PROC / "self/smaps").open() as lines:
        for line in lines:
            if line[0] in "0123456789abcdef":
                counts = bool(re.search(r"\.so(\.|$)|/python[\d.]*$", line.rstrip()))
            elif counts and line.startswith(("Shared_", "Private_Clean")):
                total += int(line.split()[1]) * 1024
    return total


def _greatest_ever() -> int:
    """Bytes this process ever held, where nothing better is known; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 (not on Windows)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """What a process has done so far.

    Args:
        cpu_seconds: it has computed.
        io_bytes: it has read and written, network drives and pages of mapped files included.
        own_gb: memory that it holds for itself now.
    """

    cpu_seconds: float
    io_bytes: int = 0
    own_gb: float = 0.0


def process_usage(pid: int, *, proc: Path = PROC) -> ProcessUsage | None:
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
    return ProcessUsage(
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


PACKAGES = ("nnseg", "torch", "numpy", "scipy", "SimpleITK", "nibabel", "scikit-image", "batchgenerators", "blosc2", "safetensors")
"""Packages whose version can change a result."""


@cache
def versions() -> dict[str, str]:
    """Installed versions of the `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
