"""`Activity`: whether a process still computes, reads or writes; and how long it may."""

from __future__ import annotations

import os
import time

from nnseg.core.options import parse_duration
from nnseg.system.machine import ProcessUsage, process_usage

HANG_TIMEOUT = 120.0
"""Seconds without any activity after which a process is killed; long, for the sake of network disks."""

TIME_LIMIT = 3600.0
"""Seconds for reading a case, or for an item of `map_items`, after which its process is killed even if it still computes."""

TIMEOUT_VARIABLE = "NNSEG_TIMEOUT"
"""Environment variable in place of `TIME_LIMIT` and, if it is shorter, of `HANG_TIMEOUT`: 90s, 20m, 1h30m."""

ACTIVE_CPU_SECONDS, ACTIVE_IO_BYTES = 0.05, 2**16
"""Least computing or input and output that counts as activity: even a process that only waits does a little."""


def time_limit() -> float:
    """Seconds for one item: `TIME_LIMIT`, or what the environment says.

    Raises:
        NnsegError: that is not a time.
    """
    written = os.environ.get(TIMEOUT_VARIABLE)
    return parse_duration(written) if written else TIME_LIMIT


class Activity:
    """Whether a process computes, reads or writes.

    Args:
        pid: of the process.

    Attributes:
        usage: what the process had used at the last look; None if it may not be inspected.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid, self.usage = pid, None if pid is None else process_usage(pid)
        self._active_usage, self._active_at = self.usage or ProcessUsage(cpu_seconds=0.0), time.monotonic()

    def note(self, usage: ProcessUsage | None = None) -> None:
        """Count it as active now, for another reason than its usage."""
        self._active_usage, self._active_at = usage or self._active_usage, time.monotonic()

    def idle_seconds(self, heartbeat: ProcessUsage | None = None) -> float:
        """Seconds without activity.

        Args:
            heartbeat: its usage by its own account, for a process that may not be inspected.
        """
        self.usage = None if self._pid is None else process_usage(self._pid)
        usage = self.usage or heartbeat
        if usage is None:
            return 0.0
        computed, moved = usage.cpu_seconds - self._active_usage.cpu_seconds, usage.io_bytes - self._active_usage.io_bytes
        if computed > ACTIVE_CPU_SECONDS or moved > ACTIVE_IO_BYTES:
            self.note(usage)
        return time.monotonic() - self._active_at
