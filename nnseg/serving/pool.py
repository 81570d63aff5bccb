"""Processes that predict, and the one that watches them: none of them can bring a folder down.

A process that dies or hangs is noticed, named with its cases, and replaced; the cases it was at are tried once more, each alone.
No torch is loaded here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from nnseg.core.errors import NnsegError, RunError, Stopped
from nnseg.core.options import default_workers
from nnseg.serving.messages import Finished, Message, PredictionOrder, PredictionTask, Ready, Refused
from nnseg.serving.process import Process, WorkerProcess, start_process
from nnseg.storage.predictions import ScanRecord
from nnseg.system.machine import free_ram_gb, oom_kills
from nnseg.system.stop import StopRequest

log = logging.getLogger(__name__)

GLANCE = 0.2
"""Seconds between two looks at the processes."""

AHEAD = 5
"""Cases that a process is given at a time: those on its line, and the next."""

MOST_STARTS = 3
"""How often in a row processes may die while they load the models."""

SHARE_OF_FREE = 0.8
"""Of the RAM that is free: what may be used unless told otherwise."""


class WorkerPool:
    """A process for each device, started at once. Within ``with``; at its end none is left.

    Args:
        order: what they are to do; its device counts only without ``devices``.
        devices: one process each; the processor's cores are divided among several.
        memory_gb: RAM that all together may use; by default most of what is free.
        start: starts a process that computes with so many threads.
    """

    def __init__(
        self,
        order: PredictionOrder,
        *,
        devices: Sequence[str] = (),
        memory_gb: float | None = None,
        start: Callable[[int | None], Process] | None = None,
    ) -> None:
        devices = tuple(devices) or (order.device,)
        memory_gb = SHARE_OF_FREE * free_ram_gb() if memory_gb is None else memory_gb
        shared = {"room_gb": memory_gb / len(devices), "most_gb": memory_gb}
        self.order, self._stop, self._begin = order, StopRequest(), start or start_process
        self._threads = max(1, default_workers() // len(devices)) if len(devices) > 1 else None
        self._inbox: SimpleQueue[tuple[WorkerProcess, Message | None]] = SimpleQueue()
        self._oom_kills, self._starts = oom_kills(), 0
        self._alone: dict[str, tuple[PredictionTask, str]] = {}
        self._crew = [self._started(order.model_copy(update={"device": device, **shared})) for device in devices]

    def __enter__(self) -> Self:
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        self._stop.__exit__(kind, error, trace)

    def end(self) -> None:
        """End all processes; what they were at is lost, what they finished is not."""
        self._dismiss(tuple(self._crew))

    def ready(self) -> Ready:
        """What the first process says when all have loaded the models.

        Raises:
            NnsegError: they cannot.
            Stopped: somebody asked for an end.
        """
        while not all(worker.ready for worker in self._crew):
            self._next()
        assert self._crew[0].ready is not None
        return self._crew[0].ready

    def predict(self, tasks: Iterable[PredictionTask]) -> Iterator[tuple[str, ScanRecord]]:
        """What became of each case, by name, as they finish.

        Raises:
            RunError: no process can be started any more.
            Stopped: somebody asked for an end.
        """
        yield from self._shared(deque(tasks))
        if self._alone:
            self._dismiss(self._crew[1:])
        for task, first_reason in list(self._alone.values()):
            for name, written in self._shared(deque([task.model_copy(update={"alone": True})])):
                yield name, _second(written, first_reason)

    def _shared(self, waiting: deque[PredictionTask]) -> Iterator[tuple[str, ScanRecord]]:
        """Let all processes work on tasks until none is left."""
        while waiting or any(worker.tasks for worker in self._crew):
            for worker in self._crew:
                while waiting and worker.ready and len(worker.tasks) < AHEAD:
                    worker.give(waiting.popleft())
            for worker, message in self._next():
                if isinstance(message, Finished):
                    yield from self._finished(worker, message)
                elif message is None:
                    yield from self._buried(worker, waiting)

    def _finished(self, worker: WorkerProcess, message: Finished) -> Iterator[tuple[str, ScanRecord]]:
        task, peak_gb = worker.finished(message)
        if message.alone:
            log.info("case %s is tried again when it can be alone: %s", message.case, message.written.reason)
            self._alone[message.case] = task, message.written.reason
        elif message.written == task.known:
            yield message.case, message.written
        else:
            yield message.case, message.written.model_copy(update={"peak_gb": peak_gb})

    def _buried(self, worker: WorkerProcess, waiting: deque[PredictionTask]) -> Iterator[tuple[str, ScanRecord]]:
        """Replace a process that has ended; its cases wait again, those that it was at for a time when they are alone."""
        reason = self._replaced(worker)
        for name, task in reversed(worker.tasks.items()):
            if name not in worker.begun:
                waiting.appendleft(task)
            elif not task.alone:
                self._alone[name] = task, reason
            else:
                yield name, ScanRecord(status="failed", reason=reason, peak_gb=worker.peak_gb(name))

    def _next(self) -> tuple[tuple[WorkerProcess, Message | None], ...]:
        """What a process said or, with None, that it has ended; nothing if nothing happened for a glance.

        One that cannot load the models is dealt with here.
        """
        if self._stop.asked:
            raise Stopped("stopped; what is done stays, and the same command goes on", self._stop.code)
        for worker in self._crew:
            worker.look()
        try:
            worker, message = self._inbox.get(timeout=GLANCE)
        except Empty:
            return ()
        if worker not in self._crew:  # the last word of one that was replaced
            return ()
        if not worker.ready:
            self._loading(worker, message)
            return ()
        if message:
            worker.note(message)
        return ((worker, message),)

    def _loading(self, worker: WorkerProcess, message: Message | None) -> None:
        """Take notice of what a process says that has not loaded the models yet."""
        if isinstance(message, Refused):
            raise NnsegError(message.reason)
        if message is None:
            self._starts += 1
            reason = self._replaced(worker) if self._starts < MOST_STARTS else self._cause(worker)
            if self._starts == MOST_STARTS or worker.process.poll() == 1:  # Python's exit code: an error it will meet again
                raise RunError(f"{reason}; what is done stays, and the same command goes on")
            return
        worker.note(message)
        if worker.ready:
            self._starts = 0

    def _started(self, order: PredictionOrder) -> WorkerProcess:
        return WorkerProcess(self._begin(self._threads), order, self._inbox)

    def _replaced(self, worker: WorkerProcess) -> str:
        """Why a process has ended, in whose place there is another one now."""
        reason = self._cause(worker)
        log.error("%s; another one is started", reason)
        worker.end()
        self._crew[self._crew.index(worker)] = self._started(worker.order)
        return reason

    def _cause(self, worker: WorkerProcess) -> str:
        before, self._oom_kills = self._oom_kills, oom_kills()
        return worker.cause(self._oom_kills - before)

    def _dismiss(self, workers: Sequence[WorkerProcess]) -> None:
        for worker in workers:
            self._crew.remove(worker)
            worker.end()


def _second(written: ScanRecord, first: str) -> ScanRecord:
    """What became of a case at its second attempt."""
    reason = f"{first}; alone, a second time: {written.reason}" if written.status == "failed" else ""
    return written.model_copy(update={"attempts": 2, "reason": reason})
