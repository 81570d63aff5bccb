"""Memory of processes and of a device while a piece of work runs, sampled at regular times.

RAM is the proportional set size of a process and its descendants (Linux): what several share is divided among them. Elsewhere
resident sets are added up, which counts shared pages once a process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nnseg.system.machine import GIGABYTE, free_device_gb, used_device_gb

INTERVAL = 0.1
"""Seconds between two samples. Source: the evaluation of FLARE (github.com/JunMa11/FLARE)."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is held at a time.

    Args:
        seconds: since the beginning.
        ram_gb: of the process and its descendants.
        device_gb: of the device, by all programs, above what was held at the beginning.
    """

    seconds: float
    ram_gb: float
    device_gb: float = 0.0


@dataclass
class SampledUsage:
    """Samples, complete when the block has ended.

    Args:
        seconds: that the block took.
        samples: in order.
    """

    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def sampled_usage(device: str = "cpu", *, interval: float = INTERVAL) -> Iterator[SampledUsage]:
    """Sample memory while a block runs: that of this process and its descendants, and that of a device.

    Args:
        device: "cpu" for none; "auto", "cuda" or "cuda:1" are asked through the driver, which may take longer than the interval.
        interval: seconds between two samples.
    """
    usage, over, start, before = SampledUsage(), threading.Event(), time.perf_counter(), used_device_gb(device)
    latest = [0.0]

    def sample() -> None:
        ram = tree_memory(os.getpid()) / GIGABYTE
        usage.samples.append(Sample(seconds=time.perf_counter() - start, ram_gb=ram, device_gb=latest[0]))

    def ask_device() -> None:
        latest[0] = max(0.0, used_device_gb(device) - before)

    loops = [_repeat(sample, interval, over, "memory")]
    if free_device_gb(device):
        loops.append(_repeat(ask_device, interval, over, "device memory"))
    try:
        yield usage
    finally:
        over.set()
        for loop in loops:
            loop.join()
        usage.seconds = time.perf_counter() - start


def _repeat(work: Callable[[], None], interval: float, over: threading.Event, name: str) -> threading.Thread:
    """A thread that calls a function at regular times, at once for the first time; the time of a slow call is not made up for."""

    def loop() -> None:
        due = time.perf_counter()
        while True:
            work()
            due = max(due + interval, time.perf_counter())
            if over.wait(due - time.perf_counter()):
                return

    thread = threading.Thread(target=loop, daemon=True, name=name)
    thread.start()
    return thread


def area(times: Sequence[float], values: Sequence[float]) -> float:
    """The area under values by time: each counts until the next, the last until nothing.

    Example:
        ``area([0.0, 1.0, 3.0], [2.0, 5.0, 7.0]) == 12.0``
    """
    return sum(value * (after - now) for value, now, after in zip(values, times, times[1:], strict=False))


def tree_memory(pid: int) -> int:
    """Bytes held by a process and its descendants, with shared pages divided among those that share them."""
    held = 0
    with suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error):  # it has just ended
                held += _proportional(process.pid, int(process.memory_info().rss))
    return held


def _proportional(pid: int, resident: int) -> int:
    """The proportional set size of a process; its resident set where that is not told."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        return resident
