"""`StopRequest`: Ctrl-C, SIGTERM or a file that stops long work, which checks for it between two steps."""

from __future__ import annotations

import _thread
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from nnseg.system.process import has_ended

log = logging.getLogger(__name__)

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a process to end: Ctrl-C, the system or a cluster, a terminal that is closed."""

POLL_INTERVAL = 0.5
"""Seconds between two checks for the file."""

StopSource = Literal["", "signal", "file"]


REPEATING_SIGNAL = getattr(signal, "SIGALRM", None)
"""Repeats an interrupt that was lost; None on Windows, where none is repeated."""

REPEAT_DELAY = 0.02
"""Seconds between the loss of an interrupt and its repetition: time to leave the place that lost it."""


class _Interrupt(KeyboardInterrupt):
    """Raised by a signal.

    Args:
        gone: called when nothing raises, handles or keeps it any more.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        super().__init__()
        self._gone = gone

    def __del__(self) -> None:
        self._gone()


@contextmanager
def interrupting_signals() -> Iterator[list[signal.Signals]]:
    """A context in which each of the `SIGNALS` interrupts as Ctrl-C does, so that files and processes are left in order.

    An exception is lost where C calls Python and cannot pass it on: in destructors, callbacks of weak references and of ctypes,
    functions called at a fork. Then it is raised again, until it leaves the context.

    Yields:
        the signals received so far; after the first, another ends the process at once.
    """
    received: list[signal.Signals] = []
    inside = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for other in previous:
            signal.signal(other, signal.SIG_DFL)
        if REPEATING_SIGNAL is not None:
            previous[REPEATING_SIGNAL] = signal.signal(REPEATING_SIGNAL, interrupt_again)
        interrupt_again(number, frame)

    def interrupt_again(number: int, frame: FrameType | None) -> None:
        if inside:
            raise _Interrupt(repeat)

    def repeat() -> None:
        if inside and REPEATING_SIGNAL is not None:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_DELAY)

    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as inherited, the system would not tell how child processes have ended
    previous, show_unraisable = _handle_by(interrupt), sys.unraisablehook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, _Interrupt) else show_unraisable(lost)
    try:
        yield received
    finally:
        inside = False
        sys.unraisablehook = show_unraisable
        for number, handler in previous.items():
            signal.signal(number, handler)


def _handle_by(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle the `SIGNALS` by a function, but for those that are ignored (nohup); returns the handlers until now.

    Only the main thread may handle signals; in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in numbers}


class StopRequest:
    """Whether the work should stop. Within ``with``, a first of the `SIGNALS` is only recorded; a second ends it at once.

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
        self._previous_handlers = _handle_by(self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore_handlers()

    @property
    def source(self) -> StopSource:
        """What stops the work: a "signal" until the command is repeated, the "file" for good; "" if nothing does."""
        if self._signal is not None or (self._parent is not None and has_ended(self._parent)):
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
            signal.raise_signal(number)
            return
        self._signal = number
        # in a thread, since a handler may not write to a stream in whose writing it has interrupted this one
        _thread.start_new_thread(log.warning, ("stopping after this step, nothing is lost; a second signal stops at once",))

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
