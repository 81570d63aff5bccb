"""`StopRequest`: Ctrl-C, SIGTERM or a file, heard while training, obeyed between two steps."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GLANCE = 0.5
"""Seconds between two looks for the file."""

Asked = Literal["", "signal", "file"]


class StopRequest:
    """Whether somebody wants the work to end. Within ``with``, a first Ctrl-C or SIGTERM is only noted; a second ends it at once.

    Args:
        file: that asks for an end by being there; None for no such file. One from an earlier time is removed first.
        clears: whether to remove it; not if others are to see it too.
        parent: the process that started this one; that it is gone is taken for a signal.
    """

    def __init__(self, file: Path | None = None, *, clears: bool = True, parent: int | None = None) -> None:
        self.file, self._clears = file, clears
        self._parent = parent
        self._signal: int | None = None
        self._looked = -GLANCE
        self._found = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.obeyed()
        if threading.current_thread() is threading.main_thread():  # others may not handle signals
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> Asked:
        """What asks for an end: a signal means "go on another time", the file "let this be all"."""
        if self._signal is not None or self._parent not in (None, os.getppid()):
            return "signal"
        now = time.monotonic()
        if self.file and not self._found and now - self._looked >= GLANCE:
            self._looked, self._found = now, self.file.exists()
        return "file" if self._found else ""

    @property
    def code(self) -> int:
        """The exit code by the shells' convention."""
        return 128 + (self._signal or signal.SIGINT)

    def obeyed(self) -> None:
        """Remove the file, so that the next training is not ended by it."""
        if self.file and self._clears:
            with suppress(FileNotFoundError):
                self.file.unlink()
        self._found = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            for handled, handler in self._before.items():
                signal.signal(handled, handler)
            raise KeyboardInterrupt
        self._signal = number
        log.warning("ending after this step, nothing is lost; once more to end at once")
