"""The live line: what is being done, how far it is and how long it will take; in a log file a plain line now and then."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nnseg.core.names import printable

Result = TypeVar("Result")

log = logging.getLogger(__name__)

REPAINT_SECONDS = 0.5
"""Between two updates of the line."""

LOG_SECONDS, MOST_LOG_SECONDS, LOG_SHARE = 20.0, 300.0, 0.05
"""Between two plain lines: this share of the time so far, within these limits."""

WORTH_NOTING = 2.0
"""Seconds of a stage from which on a line of its end stays on the terminal."""

SETTLED = 4
"""Parts of the work after the first one from which on only their time counts: the first one also starts everything."""

BASE_SHARE = 0.2
"""Of the usual work of a case, the share that does not grow with its size."""

BAR, NARROWEST = 12, 40
"""Columns of the bar, and of the narrowest terminal that lines are fitted to."""


def clock(seconds: float) -> str:
    """A duration as on a clock: "0:48", "12:03", "1:02:03"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def columns() -> int:
    """Columns of the terminal: those of COLUMNS, else of the terminal of stderr or stdout, else 80."""
    for stream in (sys.__stderr__, sys.__stdout__):
        try:
            found = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            continue
        if found > 0:
            return max(NARROWEST, found)
    return shutil.get_terminal_size().columns


class TimeLeft:
    """An estimate of the seconds that some work still takes, by when its parts were finished.

    The first part often takes longer, since processes and models are loaded for it: nothing is told by it alone, and once some
    others are finished, only they count.

    Args:
        total: of the weights of all parts.
        start: time when the work began.
    """

    def __init__(self, total: float, start: float) -> None:
        self.total, self.done = total, 0.0
        self._start, self._first, self._last, self._parts = start, (start, 0.0), start, 0

    def finish(self, weight: float, now: float) -> None:
        """Count a part as finished."""
        self.done, self._last, self._parts = self.done + weight, now, self._parts + 1
        if self._parts == 1:
            self._first = now, self.done

    def seconds(self, now: float) -> float | None:
        """Seconds left; None until two parts are finished."""
        then, before = self._first
        if self._parts < 2 or self.done <= before:
            return None
        pace = later = (self._last - then) / (self.done - before)
        if self._parts <= SETTLED:
            pace = math.sqrt(later * (self._last - self._start) / self.done)
        usual = pace * self.done / self._parts
        return max(0.0, pace * (self.total - self.done) - min(now - self._last, usual))


class Stage:
    """Work that is shown by a line.

    Args:
        label: what is done.
        total: sum of the weights of all parts; 0 if that is not known.
        count: number of the parts.

    Attributes:
        text: makes the line for so many columns, where the label and the count do not do; called from another thread.
        detail: after the count.
    """

    def __init__(self, label: str, total: float = 0.0, count: int = 0) -> None:
        self.label, self.count, self.finished, self.detail = label, count, 0, ""
        self.text: Callable[[int], str] | None = None
        self.began = self._told = time.monotonic()
        self.left = TimeLeft(total, self.began)

    def advance(self, weight: float = 1.0) -> None:
        """Count a part as finished."""
        with _LOCK:
            self.finished += 1
            self.left.finish(weight, time.monotonic())
        if self.finished < self.count:
            self.tell(self._words)

    def tell(self, words: Callable[[], str]) -> None:
        """Where no line is shown, write the words to the log, if it was long ago that something was."""
        now = time.monotonic()
        pause = min(MOST_LOG_SECONDS, max(LOG_SECONDS, LOG_SHARE * (now - self.began)))
        if now - self._told > pause and not is_shown():
            self._told = now
            log.info("%s", words())

    def line(self, width: int, *, bar: bool = True) -> str:
        """The line, in at most so many columns, with a bar of text if wanted."""
        if self.text:
            return fit([self.text(width)], width)
        known, spent = self._left(), clock(time.monotonic() - self.began)
        share = self.left.done / self.left.total if self.left.total else 0.0
        drawn = f"[{'=' * int(BAR * share):{BAR}}]  " if self.left.total and bar else ""
        count = f"{self.finished} of {self.count}  " if self.count else ""
        ends = [f"  {self.detail}", ""] if self.detail else [""]
        lines = [f"{self.label}  {part}{count}{spent}{known}{end}" for end in ends for part in (drawn, "")]
        return fit(lines, width)

    def _left(self) -> str:
        seconds = self.left.seconds(time.monotonic()) if self.left.total else None
        return "" if seconds is None else f", {clock(seconds)} left"

    def _words(self) -> str:
        return f"{self.label}: {self.finished} of {self.count}{self._left()}"


def fit(lines: Sequence[str], width: int) -> str:
    """The first of some lines, the richest first, that fits into so many columns; or the last one, cut at its end."""
    from tqdm.utils import disp_len, disp_trim  # noqa: PLC0415 (only where a line is shown)

    shown = [printable(line) for line in lines]
    return next((line for line in shown if disp_len(line) <= width), disp_trim(shown[-1], width))


class _Line:
    """The line of the innermost of the stages that are running, which a thread keeps up to date.

    Attributes:
        quiet: no line is shown, nor are the ends of stages written.
    """

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.quiet = False
        self._bar: Any = None
        self._end = threading.Event()

    def enter(self, stage: Stage) -> None:
        """Show the line of a stage."""
        with _LOCK:
            self.stages.append(stage)
            if self._bar is None and is_shown():
                self._bar, self._end = _new_bar(), threading.Event()
                threading.Thread(target=self._repaint, args=(self._end,), daemon=True, name="progress").start()
            self.paint()

    def leave(self, stage: Stage) -> None:
        """Show the line of the stage around this one, if there is one."""
        with _LOCK:
            self.stages.remove(stage)
            if not self.stages and self._bar is not None:
                self._end.set()
                self._bar.n, self._bar.total = 0, None  # else a notebook would leave a red bar of work that was not finished
                self._bar.close()
                self._bar = None
            self.paint()

    def paint(self) -> None:
        """Write the line anew."""
        with _LOCK:
            if self._bar is not None and self.stages:
                stage = self.stages[-1]
                self._bar.n, self._bar.total = stage.left.done, stage.left.total or None
                drawn = _widget_of(self._bar)
                if drawn:
                    drawn.max = stage.left.total or 1.0
                self._bar.set_description_str(stage.line(columns() - 1, bar=not drawn))

    def clear(self) -> None:
        """Remove the line until it is painted again."""
        if self._bar is not None:
            self._bar.clear()

    def forget(self) -> None:
        """In a forked process: leave the line to the process that shows it."""
        if self._bar is not None:
            self._bar.disable, self._bar = True, None
        self.stages, self.quiet = [], True
        _LOCK.release()

    def _repaint(self, end: threading.Event) -> None:
        while not end.wait(REPAINT_SECONDS):
            with _LOCK:
                if not end.is_set():
                    self.paint()


_LOCK = threading.RLock()
_line = _Line()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_line.forget)


def be_quiet(quiet: bool = True) -> None:
    """Show no line from now on, or show them again."""
    _line.quiet = quiet


def is_shown() -> bool:
    """True if there is a terminal or a notebook to show a line in."""
    return not _line.quiet and (sys.stderr.isatty() or _in_notebook())


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return bool(shell and getattr(shell.get_ipython(), "kernel", None))


def _widget_of(bar: Any) -> Any:
    """The bar that a notebook draws, if it has widgets."""
    container = getattr(bar, "container", None)
    return container.children[1] if container else None


def _new_bar() -> Any:
    """What draws the line: of tqdm, for a terminal or a notebook."""
    if _in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets the line is text
            from tqdm.auto import tqdm  # noqa: PLC0415 (takes long to load)
    else:
        from tqdm import tqdm  # type: ignore[assignment]  # noqa: PLC0415
    kind = type("Bar", (tqdm,), {"monitor_interval": 0})  # without a thread that would hold locks while processes are forked
    return kind(bar_format="{desc}", leave=False, file=sys.stderr)


@contextmanager
def beside_line() -> Iterator[None]:
    """A context in which something else is written to the terminal, above the line."""
    with _LOCK:
        _line.clear()
        try:
            yield
        finally:
            sys.stdout.flush()
            _line.paint()


@contextmanager
def stage(label: str, *, total: float = 0.0, count: int = 0, noted: bool = False) -> Iterator[Stage]:
    """A stage of work, shown by a line while it runs.

    Args:
        label: what is done, such as "measuring cases"; nothing is shown if empty.
        total: sum of the weights of all parts.
        count: number of the parts.
        noted: write to the log that it begins, or on a terminal how long it took.
    """
    found = Stage(label, total, count)
    if not label:
        yield found
        return
    shown = is_shown()
    if noted and not shown and not _line.quiet:
        log.info("%s", label)
    _line.enter(found)
    try:
        yield found
    finally:
        _line.leave(found)
    seconds = time.monotonic() - found.began
    if noted and shown and seconds >= WORTH_NOTING:
        log.info("%s: done in %s", label, clock(seconds))


def sizes_of(files: Mapping[str, Sequence[Path]]) -> dict[str, float]:
    """How much work each of some cases is, by the bytes of its files; alike for all where something is not a file."""
    sizes: dict[str, float] = {}
    for name, paths in files.items():
        try:
            sizes[name] = float(sum(path.stat().st_size for path in paths))
            regular = all(path.is_file() for path in paths)
        except OSError:
            regular = False
        if not regular:
            return dict.fromkeys(files, 1.0)
    usual = sum(sizes.values()) / max(1, len(sizes))
    return {name: size + BASE_SHARE * usual + 1.0 for name, size in sizes.items()}


def progress(
    steps: Iterable[Result], *, total: int, label: str, weigh: Callable[[Result], float] | None = None, of_all: float = 0.0
) -> Iterator[Result]:
    """Pass ``steps`` through under a line that counts them.

    Args:
        total: number of steps.
        label: of the line; none is shown if empty.
        weigh: how much of the work a step was; all are alike without.
        of_all: sum of that of all steps.
    """
    with stage(label if total else "", total=of_all if weigh else float(total), count=total) as shown:
        for step in steps:
            shown.advance(weigh(step) if weigh else 1.0)
            yield step
