"""`StopRequest`: Ctrl-C, SIGTERM or a file that stops long work, which checks for it between two steps."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_INTERVAL = 0.5
"""Seconds between two checks for the file."""

StopSource = Literal["", "signal", "file"]


class StopRequest:
    """Whether the work should stop. Within ``with``, a first Ctrl-C or SIGTERM is only recorded; a second ends it at once.

    Args:
        file: stops the work when it exists; None for no such file. An old one is removed on entry.
        remove_file: whether to remove it; not if other processes must see it too.
        parent: number of the process that started this one; its end counts as a signal.
    """

    def __init__(self, file: Path | None = None, *, remove_file: bool = True, parent: int | None = None) -> None:
        self.file, self._remove_file, self._parent = file, remove_file, parent
        self._signal: int | None = None
        self._checked_at = -POLL_INTERVAL
        self._file_seen = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.clear()
        if threading.current_thread() is threading.main_thread():  # others may not handle signals
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore_handlers()

    @property
    def source(self) -> StopSource:
        """What stops the work: a "signal" until the command is repeated, the "file" for good; "" if nothing does."""
        if self._signal is not None or self._parent not in (None, os.getppid()):
            return "signal"
        now = time.monotonic()
        if self.file and not self._file_seen and now - self._checked_at >= POLL_INTERVAL:
            self._checked_at, self._file_seen = now, self.file.exists()
        return "file" if self._file_seen else ""

    @property
    def code(self) -> int:
        """The exit code by the shells' convention."""
        return 128 + (self._signal or signal.SIGINT)

    def clear(self) -> None:
        """Forget and remove the file, so that it does not end the next training."""
        if self.file and self._remove_file:
            self.file.unlink(missing_ok=True)
        self._file_seen = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            self._restore_handlers()
            raise KeyboardInterrupt
        self._signal = number
        log.warning("stopping after this step, nothing is lost; a second signal stops at once")

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
