"""`outcomes_of_children`: a function applied to many items in child processes, so that no item can crash or stop its caller.

A child that crashes, is killed for lack of memory or hangs costs its item, and another child takes its place. Children are forked
on Linux, which takes milliseconds, and end with their parent. They use a pipe each, and neither semaphores nor shared memory.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from nnseg.core.errors import NnsegError, WriteError, is_fault
from nnseg.system.activity import HANG_TIMEOUT, TIMEOUT_VARIABLE, Activity, time_limit
from nnseg.system.log_format import format_warnings
from nnseg.system.machine import oom_kills
from nnseg.system.process import KILL_TIMEOUT, bind_to_parent, explain_exit, is_lack_of_memory
from nnseg.system.stale import tried_again
from nnseg.system.stop import SIGNALS

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two checks whether a child hangs."""

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Elsewhere system libraries do not bear a fork."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Result]):
    """The result for one item, or the reason why there is none.

    Args:
        item: as it was passed in.
        result: of the function; None if it failed.
        reason: of a failure, in one line; None without one.
        details: traceback of an unexpected failure.
        is_fault: True if the system could not read what is there, so that nothing is known of the item.
    """

    item: Item
    result: Result | None = None
    reason: str | None = None
    details: str | None = None
    is_fault: bool = False


def outcome_of(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """The outcome for one item, computed here.

    Raises:
        WriteError: a file cannot be written, which is no fault of the item.
    """
    try:
        return Outcome(item=item, result=tried_again(lambda: function(item)))
    except WriteError:
        raise
    except NnsegError as error:
        return Outcome(item=item, reason=error.coded, is_fault=error.is_fault)
    except Exception as error:  # one bad item must not stop the others; the traceback travels with the outcome
        return Outcome(
            item=item, reason=f"{type(error).__name__}: {error}", details=traceback.format_exc(), is_fault=is_fault(error)
        )


def outcome_within(function: Callable[[Item], Result], item: Item, seconds: float) -> Outcome[Item, Result]:
    """The outcome for one item, computed in a child process that is ended after so many seconds."""
    [outcome] = outcomes_of_children(function, [item], 1, seconds)
    return outcome


def outcomes_of_children(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, seconds: float | None = None
) -> Iterator[Outcome[Item, Result]]:
    """The outcomes in the order in which they finish. Items whose process was killed for lack of memory are tried again, alone.

    Args:
        function: of one item; must be picklable but on Linux, as items and results must be.
        workers: number of child processes.
        seconds: that an item may take; by default as long as `time_limit` says.

    Raises:
        WriteError: in a child, a file could not be written.
    """
    again: dict[int, str] = {}
    with _Children(function, items, workers, seconds) as children:
        for index, outcome in children.outcomes(range(len(items))):
            if isinstance(outcome, _Death) and outcome.lacked_memory:
                again[index] = outcome.reason
            else:
                yield _reported(items[index], outcome)
    for index, reason in again.items():
        log.info("an item is tried again, alone: %s", reason)
        with _Children(function, items, 1, seconds) as children:
            for _, outcome in children.outcomes([index]):
                yield _reported(items[index], outcome, " (twice, the second time alone)")


@dataclass(frozen=True, kw_only=True)
class _Death:
    """How a child ended that had an item.

    Args:
        reason: in one line.
        lacked_memory: it was killed as processes are for whom memory runs out.
    """

    reason: str
    lacked_memory: bool = False


def _reported(item: Item, outcome: Outcome[Item, Result] | _Death, attempts: str = "") -> Outcome[Item, Result]:
    return Outcome(item=item, reason=outcome.reason + attempts) if isinstance(outcome, _Death) else outcome


class _Child(Generic[Item, Result]):
    """A process that applies the function to one item at a time.

    Raises:
        OSError: the system has no process, or no file handle, left.
    """

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        context = multiprocessing.get_context(START_METHOD)
        self.connection, theirs = context.Pipe()
        self.index: int | None = None
        self.process = context.Process(target=_serve, args=(theirs, os.getpid(), function, items), daemon=True)  # type: ignore[attr-defined]
        try:
            self.process.start()
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def assign(self, index: int) -> None:
        """Let it begin an item."""
        self.index, self._started, self._oom_kills = index, time.monotonic(), oom_kills()
        self._activity = Activity(self.process.pid)
        with suppress(OSError):  # it has died, which is noticed where its answer is read
            self.connection.send(index)

    def receive(self) -> Outcome[Item, Result] | BaseException | _Death:
        """What it has sent: an outcome, or an error that ends all; or how it has ended."""
        try:
            received: Outcome[Item, Result] | BaseException = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            code = self.process.exitcode
            reason = f"the process that worked on it {explain_exit(code, oom_kills_before=self._oom_kills)}"
            return _Death(reason=reason, lacked_memory=is_lack_of_memory(code))
        return received

    def overdue(self, limit: float) -> _Death | None:
        """How it was ended, if it has hung or worked for too long."""
        idle, seconds = self._activity.idle_seconds(), time.monotonic() - self._started
        if idle < min(HANG_TIMEOUT, limit) and seconds < limit:
            return None
        self.end()
        what = f"hung for {idle:.0f} s" if idle >= min(HANG_TIMEOUT, limit) else f"was not done after {seconds:.0f} s"
        return _Death(reason=f"the process that worked on it {what} and was ended ({TIMEOUT_VARIABLE} sets the time)")

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.connection.close()
        self.process.kill()
        self.process.join(KILL_TIMEOUT)
        if self.process.exitcode is None:
            log.warning("process %d cannot be killed; it is left to the system", self.process.pid)
            multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]  # else our end would wait for it


class _Children(Generic[Item, Result]):
    """Child processes of one function and its items. A context: at its end all are killed."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item], workers: int, seconds: float | None) -> None:
        self._function, self._items, self._workers = function, items, min(workers, len(items))
        self._children: list[_Child[Item, Result]] = []
        self._limit = time_limit() if seconds is None else seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children:
            child.end()

    def outcomes(self, indices: Sequence[int]) -> Iterator[tuple[int, Outcome[Item, Result] | _Death]]:
        """The outcome of each item of some indices, or how its process ended, as they finish."""
        waiting = deque(indices)
        while waiting or any(child.index is not None for child in self._children):
            self._assign(waiting)
            if not self._children:  # not one process can be started
                index = waiting.popleft()
                yield index, outcome_of(self._function, self._items[index])
            ended = list(self._ended())
            self._assign(waiting)  # before the caller works on the outcomes
            yield from ended

    def _assign(self, waiting: deque[int]) -> None:
        """Give each idle child an item, and start children while there are too few."""
        while len(self._children) < min(self._workers, len(waiting) + sum(c.index is not None for c in self._children)):
            try:
                self._children.append(_Child(self._function, self._items))
            except OSError as error:  # the system's limit of processes or files
                self._workers = len(self._children)
                log.warning("only %d processes can be started: %s", self._workers, error.strerror)
        for child in self._children:
            if waiting and child.index is None:
                child.assign(waiting.popleft())

    def _ended(self) -> Iterator[tuple[int, Outcome[Item, Result] | _Death]]:
        """The items that have just ended, in any way."""
        busy = [child for child in self._children if child.index is not None]
        ready = wait([child.connection for child in busy], timeout=POLL_INTERVAL)
        for child in busy:
            received = child.receive() if child.connection in ready else child.overdue(self._limit)
            if isinstance(received, BaseException):
                raise received
            if received is not None:
                assert child.index is not None
                yield child.index, received
                child.index = None
            if isinstance(received, _Death):
                self._children.remove(child)


def _serve(connection: Connection, parent: int, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    """Apply the function to the items whose indices come, until the connection or the parent ends."""
    bind_to_parent(parent)
    format_warnings()
    for number in SIGNALS:  # Ctrl-C reaches all processes of a terminal; the parent ends this one
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    if START_METHOD == "fork":
        faulthandler.disable()  # at a crash it would read what is left of the parent's threads, and crash in another way
        gc.freeze()
        _let_go_of_files({connection.fileno(), int(multiprocessing.parent_process().sentinel)})  # type: ignore[union-attr]
    use_one_thread()  # the processes fill the cores
    with suppress(EOFError, OSError):
        while True:
            item = items[connection.recv()]
            try:
                answer: Outcome[Any, Any] | BaseException = outcome_of(function, item)
            except WriteError as error:
                answer = error
            connection.send(answer)


def use_one_thread() -> None:
    """Let numerical libraries that this process loads from now on compute in one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ[name] = "1"


def _let_go_of_files(kept: set[int]) -> None:
    """Put /dev/null in the place of files and pipes of the parent, so that its locks and other children end with it alone."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in kept:
            with suppress(OSError):  # the listing's own
                os.dup2(null, number, inheritable=False)
