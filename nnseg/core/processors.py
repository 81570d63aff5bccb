"""Processor cores that this process may use, and how numerical libraries are to use them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

_SET_LATE = set[str]()
"""Environment variables that were set when torch was loaded already, which reads them no more."""


def usable_cores() -> int:
    """The number of processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of processor cores whose time this process may use: fewer than `usable_cores` in a container with a limit.

    Args:
        cgroups: where Linux shows the control group of a container, in version 2 or 1.
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = (int(word) for file in files for word in (cgroups / file).read_text().split())  # "max" is no number
            if quota > 0:
                return max(1, min(usable_cores(), round(quota / period)))
    return usable_cores()


def library_environment() -> dict[str, str]:
    """Environment variables of numerical libraries, which read them when they are loaded.

    Threads that wait for one another soon leave their core to other programs: beside one of them on two cores a training step takes
    1.9 instead of 2.9 times as long as alone. They do not leave it at once, since waking up takes longer than most waits: that made
    every step a fifth longer on an idle machine (benchmarks/RESULTS.md). Where a container may use less time than there are cores,
    there are as many threads as this time is enough for; else all of them would be paused together.
    """
    threads = {"OMP_NUM_THREADS": str(default_workers())} if default_workers() < usable_cores() else {}
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    return waiting | threads


def prepare_libraries() -> None:
    """Set the variables of `library_environment` that are not set, for libraries that this process loads from now on."""
    for name, value in library_environment().items():
        if name not in os.environ:
            os.environ[name] = value
            if "torch" in sys.modules:
                _SET_LATE.add(name)


def waits_actively() -> bool:
    """True if torch was loaded before `prepare_libraries` was called, so that its threads keep their cores while they wait."""
    return "OMP_WAIT_POLICY" in _SET_LATE
