"""What a machine has free, and what a process uses of it.

A process holds memory of its own and maps files. Its own memory cannot be taken away; mapped files can, and are read again when
needed. Of them only libraries are counted here, since nothing runs without those; cases that training reads in place are not.

psutil provides the figures, except for limits and kills of control groups and settings of malloc. Child processes are listed by
Linux's ``/proc/PID/task/*/children``, because psutil reads the table of all processes for them (2 ms with 86, instead of 0.2).
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from nnseg.core.limits import limit

GIGABYTE = 1e9
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

PACKAGES = ("nnseg", "torch", "numpy", "scipy", "SimpleITK", "nibabel", "scikit-image", "batchgenerators", "blosc2", "safetensors")
"""Packages whose version can change a result."""

CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group's limit and use, and its entry in memory.stat for file pages that can be dropped; versions 2 and 1."""


@dataclass
class PeakMemory:
    """The most RAM that was held, set when the block has ended."""

    gb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """What a process has used since it started.

    Args:
        cpu_seconds: computing time.
        io_bytes: read and written, network drives and pages of mapped files included; 0 where they are not counted or not shown.
        own_gb: memory of its own that it holds now.
    """

    cpu_seconds: float
    io_bytes: int = 0
    own_gb: float = 0.0


def free_ram_gb(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """RAM that this process may still take: what the machine has, or what its control group (a container, a job) leaves."""
    in_groups = (_free_in_group(folder) for folder in _memory_groups(proc, cgroups))
    return min([psutil.virtual_memory().available, *in_groups]) / GIGABYTE


@cache
def total_ram_gb(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """RAM of the machine, or what this process's control group may take at most."""
    limits = [psutil.virtual_memory().total]
    for folder in _memory_groups(proc, cgroups):
        for name, _, _ in CGROUP_FILES:
            with suppress(OSError, ValueError):  # another version, or "max": no limit
                limits.append(int((folder / name).read_text()))
    return min(limits) / GIGABYTE


def allowed_ram_gb() -> float:
    """RAM that one image may take: the share of the machine's that `nnseg.core.limits` allows."""
    return total_ram_gb() * limit("memory_percent") / 100


def free_device_gb(device: str) -> float:
    """Memory free on "cuda", "cuda:1" or, for "auto", on the first GPU, by its driver; 0 where there is none."""
    return _device_gb(device, "free")


def used_device_gb(device: str) -> float:
    """Memory that all programs together hold on a device, as for `free_device_gb`."""
    return _device_gb(device, "used")


def _device_gb(device: str, what: str) -> float:
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or shutil.which("nvidia-smi") is None:
        return 0.0
    command = ["nvidia-smi", f"--query-gpu=memory.{what}", "--format=csv,noheader,nounits", f"--id={number or 0}"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except subprocess.TimeoutExpired:  # a driver that hangs
        return 0.0
    return int(output) * 2**20 / GIGABYTE if output.isdigit() else 0.0


def free_disk_gb(folder: Path) -> float:
    """Free space on the disk of a folder, which need not exist yet."""
    existing = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    return shutil.disk_usage(existing).free / GIGABYTE


def held_gb() -> float:
    """RAM that this process holds now, its libraries included."""
    return (_own_bytes(psutil.Process()) + _library_bytes()) / GIGABYTE


@contextmanager
def peak_ram(*, every: float = 0.2, children: bool = True) -> Iterator[PeakMemory]:
    """Measure the most RAM that this process, and its children, hold in the block.

    A measurement takes about 0.03 ms, with children 0.3 ms. A peak shorter than ``every`` can be missed.

    Args:
        every: seconds between two measurements.
        children: count them in.
    """
    peak, over, most, process = PeakMemory(), threading.Event(), [0], psutil.Process()

    def measure() -> None:
        most[0] = max(most[0], _own_bytes(process) + (_children_bytes(process.pid) if children else 0))

    def measure_regularly() -> None:
        while not over.wait(every):
            measure()

    measure()
    thread = threading.Thread(target=measure_regularly, daemon=True, name="memory")
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        measure()
        peak.gb = (most[0] + _library_bytes()) / GIGABYTE


def process_usage(pid: int) -> ProcessUsage | None:
    """What a process has used since it started; None if it has ended or may not be inspected."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            seconds, own_gb = times.user + times.system, _own_bytes(process) / GIGABYTE
            return ProcessUsage(cpu_seconds=seconds, io_bytes=_io_bytes(process), own_gb=own_gb)
    except psutil.Error:
        return None


def oom_kills(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Number of processes killed because memory ran out, in this one's control group or else on the machine; 0 if unknown."""
    for path in (*(folder / "memory.events" for folder in _memory_groups(proc, cgroups)[:1]), proc / "vmstat"):
        with suppress(OSError):
            found = re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)
            if found:
                return int(found[1])
    return 0


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


def trim_memory() -> None:
    """Return to the system freed memory that the C library (Linux's) keeps for later."""
    with suppress(OSError, AttributeError, TypeError):  # another C library; Windows has no library without a name
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """A context in which the C library (Linux's) keeps freed memory for the next use; at its end it is returned to the system.

    Otherwise every block above 32 MB goes back to the system, which fills each new one with zeros, page by page: a third
    of the time of a training step on a CPU, where nearly all tensors are as large. Costs up to a tenth more RAM.
    """
    _set_malloc(KEEP_FREED)
    try:
        yield
    finally:
        _set_malloc(MALLOC_DEFAULTS)
        trim_memory()


TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
KEEP_FREED = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 256 * 2**20}
MALLOC_DEFAULTS = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 1024, TOP_PAD: 128 * 1024}
"""Settings of mallopt, by its parameters' numbers. Source: glibc, malloc.h and the manual of mallopt."""


def _set_malloc(settings: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for parameter, value in settings.items():
            library.mallopt(parameter, value)


def _memory_groups(proc: Path, cgroups: Path) -> list[Path]:
    """Folders of the control groups that this process belongs to, its own first, of versions 2 and 1 (controller "memory")."""
    found: list[Path] = []
    with suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controller, path = line.strip().split(":", 2)
            if controller in ("", "memory"):
                top = cgroups / controller
                own = top / path.lstrip("/")
                found += [f for f in (own, *own.parents) if f == top or top in f.parents]
    return found


def _free_in_group(folder: Path) -> float:
    """Bytes that a control group may still take; infinite without a limit."""
    for highest, usage, droppable in CGROUP_FILES:
        with suppress(OSError, ValueError):  # another version, or "max": no limit
            most, used = int((folder / highest).read_text()), int((folder / usage).read_text())
            found = re.search(rf"^{droppable} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
            return max(0, most - used + (int(found[1]) if found else 0))
    return float("inf")


def _io_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error, OSError, AttributeError, RuntimeError, ValueError):  # not counted here, or not shown to this user
        moved = process.io_counters()
        return sum(getattr(moved, name, 0) for name in ("read_chars", "write_chars", "read_bytes", "write_bytes"))
    return 0


def _own_bytes(process: psutil.Process) -> int:
    """Resident memory of a process without mapped files; macOS does not separate them."""
    held = process.memory_info()
    return int(held.rss - getattr(held, "shared", 0))


def _children_bytes(pid: int) -> int:
    """Memory of their own that the descendants of a process hold; 0 without /proc."""
    total = 0
    with suppress(OSError):
        for child in (int(c) for f in (PROC / str(pid)).glob("task/*/children") for c in f.read_text().split()):
            with suppress(psutil.Error):  # it has just ended
                total += _own_bytes(psutil.Process(child))
            total += _children_bytes(child)
    return total


def _library_bytes() -> int:
    """Resident bytes of the program and the libraries that are mapped into this process; 0 but on Linux."""
    if sys.platform != "linux":
        return 0
    return _library_bytes_of(psutil.Process().memory_info().shared >> 20)


@lru_cache(maxsize=1)
def _library_bytes_of(shared_mb: int) -> int:
    """Counted anew, which takes 40 ms, when all mapped files together have changed."""
    maps: list[Any] = []
    with suppress(psutil.Error, OSError, AttributeError):  # some sandboxes have no list of them
        maps = psutil.Process().memory_maps()
    libraries = (m for m in maps if re.search(r"\.so(\.|$)|/python[\d.]*$", m.path))
    return sum(m.shared_clean + m.shared_dirty + m.private_clean for m in libraries)
