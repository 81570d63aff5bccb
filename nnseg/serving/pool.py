"""`WorkerPool`: worker processes that predict, one for each device; the failure of one does not stop the prediction of a folder.

A process that dies or hangs is reported with its cases and replaced; the cases it had begun are tried once more, each alone. On a
cluster, where processes also die with their machines, they are tried twice more. No torch is loaded here.
"""

from __future__ import annotations

import logging
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from nnseg.core.errors import NnsegError, RunError, Stopped
from nnseg.core.processors import default_workers
from nnseg.serving.messages import Finished, Message, PredictionOrder, PredictionTask, Ready, Refused
from nnseg.serving.worker_process import WorkerProcess
from nnseg.storage.predictions import ScanRecord
from nnseg.system.cluster import LOST, MAX_ATTEMPTS, Cluster, Share
from nnseg.system.machine import free_ram_gb
from nnseg.system.process import launch
from nnseg.system.stop import StopRequest

log = logging.getLogger(__name__)

POLL_INTERVAL = 0.2
"""Seconds between two checks of the processes."""

MAX_ASSIGNED = 5
"""Cases assigned to a process at a time: those in its pipeline, and the next."""

MAX_LOAD_FAILURES = 3
"""Processes in a row that may die while they load the models."""

ORDINALS = {2: "second", 3: "third"}
"""For messages."""

FREE_RAM_SHARE = 0.8
"""Share of the free RAM that may be used by default."""


class WorkerPool:
    """Worker processes, one for each device, started at once. A context: at its end all are killed.

    Args:
        order: for all of them; its device is used only without ``devices``.
        devices: one process each; several share the processor's cores evenly.
        memory_gb: RAM that all together may use, on a machine; by default most of what is free.
        start: starts a process that computes with so many threads; by default `nnseg.serving.worker`.
        cluster: on which the processes run, one for each of its devices.
    """

    def __init__(
        self,
        order: PredictionOrder,
        *,
        devices: Sequence[str] = (),
        memory_gb: float | None = None,
        start: Callable[[int | None], subprocess.Popen[bytes]] | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.order, self.cluster, self._stop, self._start = order, cluster, StopRequest(), start or start_process
        self._threads: int | None = None
        if cluster:
            share = cluster.share(gpus=order.device != "cpu")
            devices, memory = (order.device,) * share.count, _memory_on_cluster(memory_gb, share)
            self._threads, self._start = share.cores, start or (lambda _: cluster.launch("nnseg.serving.worker", share))
        else:
            devices = tuple(devices) or (order.device,)
            memory_gb = FREE_RAM_SHARE * free_ram_gb() if memory_gb is None else memory_gb
            memory = {"memory_gb": memory_gb / len(devices), "exclusive_gb": memory_gb}
            if len(devices) > 1:
                self._threads = max(1, default_workers() // len(devices))
        self._inbox: SimpleQueue[tuple[WorkerProcess | None, Message | None]] = SimpleQueue()
        self._load_failures = 0
        self._retries: dict[str, tuple[PredictionTask, str]] = {}
        self._attempt, self._most_attempts = 1, MAX_ATTEMPTS if cluster else 2
        self._workers = [self._start_worker(order.model_copy(update={"device": device} | memory)) for device in devices]

    def __enter__(self) -> Self:
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        self._stop.__exit__(kind, error, trace)

    def end(self, *, keep: int = 0) -> None:
        """Kill the processes, except for the first ``keep``; cases they had begun are lost, finished ones are not."""
        for worker in self._workers[keep:]:
            worker.child.kill()
        del self._workers[keep:]

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._workers)

    def ready(self) -> Ready:
        """The message of the first process, when all have loaded the models; on a cluster, where they may wait, any of them.

        Raises:
            NnsegError: they cannot.
            Stopped: by a signal.
        """
        enough = any if self.cluster else all
        while not enough(worker.ready for worker in self._workers):
            self._poll()
        return next(worker.ready for worker in self._workers if worker.ready)

    def predict(self, tasks: Iterable[PredictionTask]) -> Iterator[tuple[str, ScanRecord]]:
        """The name and record of each case, as they finish.

        Raises:
            RunError: no process can be started any more.
            Stopped: by a signal.
        """
        yield from self._distribute(deque(tasks))
        yield from self._retry()

    def serve(self, take: Callable[[], Iterable[PredictionTask]]) -> Iterator[tuple[str, ScanRecord]]:
        """The name and record of each case of a stream that does not end, as they finish.

        Args:
            take: the cases that have come since it was last called, or that are withdrawn: these fail, soon if they are being
                predicted. Ends the stream by raising Stopped. It is not called while cases are tried again, each alone.

        Raises:
            RunError: no process can be started any more.
            Stopped: by ``take``, or by a signal.
        """
        orders = tuple(worker.order for worker in self._workers)
        while True:
            yield from self._distribute(deque(), take)
            yield from self._retry()
            self._workers += map(self._start_worker, orders[len(self._workers) :])

    def wake(self) -> None:
        """Have `serve` look for cases now, from any thread, and not only when a process has sent something."""
        self._inbox.put((None, None))

    def _retry(self) -> Iterator[tuple[str, ScanRecord]]:
        """Try cases again that a process had begun when it ended, or that needed more memory, each alone in its process."""
        while self._retries:
            self._attempt += 1
            if not self.cluster:
                self.end(keep=1)
            retries, self._retries = self._retries, {}
            alone = deque(task.model_copy(update={"exclusive": True}) for task, _ in retries.values())
            for name, record in self._distribute(alone, at_once=1):
                before = f"{retries[name][1]}; {ORDINALS[self._attempt]} attempt, alone: "
                reason = f"{before}{record.reason}" if record.status == "failed" else ""
                yield name, record.model_copy(update={"attempts": self._attempt, "reason": reason})
            for name, (task, reason) in self._retries.items():
                self._retries[name] = task, f"{retries[name][1]}; {ORDINALS[self._attempt]} attempt, alone: {reason}"
        self._attempt = 1

    def _distribute(
        self,
        waiting: deque[PredictionTask],
        take: Callable[[], Iterable[PredictionTask]] | None = None,
        *,
        at_once: int = MAX_ASSIGNED,
    ) -> Iterator[tuple[str, ScanRecord]]:
        """Assign tasks to all processes, so many at once, until none is left, and no more are taken as one is tried again."""
        while waiting or any(worker.tasks for worker in self._workers) or (take and not self._retries):
            if take and not self._retries:
                for task in take():
                    self._withdraw(task) if task.withdrawn else waiting.append(task)
            for worker in self._workers:
                while waiting and worker.ready and len(worker.tasks) < at_once:
                    worker.assign(waiting.popleft())
            for worker, message in self._poll():
                if isinstance(message, Finished):
                    yield from self._finish(worker, message)
                elif message is None:
                    yield from self._recover(worker, waiting)

    def _withdraw(self, task: PredictionTask) -> None:
        """Tell the process that has a case; one that none has yet is predicted."""
        for worker in self._workers:
            if task.case.name in worker.tasks:
                worker.child.send(task)

    def _finish(self, worker: WorkerProcess, message: Finished) -> Iterator[tuple[str, ScanRecord]]:
        task, peak_gb = worker.finish(message)
        if message.retry_exclusive:
            log.info("case %s will be predicted again, alone: %s", message.case, message.record.reason)
            self._retries[message.case] = task, message.record.reason
        elif message.record == task.previous:
            yield message.case, message.record
        else:
            yield message.case, message.record.model_copy(update={"peak_gb": peak_gb})

    def _recover(self, worker: WorkerProcess, waiting: deque[PredictionTask]) -> Iterator[tuple[str, ScanRecord]]:
        """Replace a process that has ended; its cases wait again, and those it had begun wait to be tried alone."""
        reason = self._replace(worker)
        for name, task in reversed(worker.tasks.items()):
            if name not in worker.started_cases:
                waiting.appendleft(task)
            elif self._attempt < self._most_attempts:
                self._retries[name] = task, reason
            else:
                yield name, ScanRecord(status="failed", reason=reason, peak_gb=worker.peak_gb(name))

    def _poll(self) -> tuple[tuple[WorkerProcess, Message | None], ...]:
        """A message of a process or, when it has ended, None; nothing if none came within the interval.

        Messages of processes that load the models are handled here.
        """
        if self._stop.source:
            raise Stopped("stopped; finished cases are kept, and the same command continues", self._stop.code)
        for running in self._workers:
            running.check()
        try:
            sender, message = self._inbox.get(timeout=POLL_INTERVAL)
        except Empty:
            return ()
        worker = next((one for one in self._workers if one is sender), None)
        if worker is None:  # from `wake`, or it has been replaced
            return ()
        if not worker.ready:
            self._handle_loading(worker, message)
            return ()
        if message:
            worker.update(message)
        return ((worker, message),)

    def _handle_loading(self, worker: WorkerProcess, message: Message | None) -> None:
        """Handle a message of a process that has not loaded the models yet."""
        if isinstance(message, Refused):
            raise NnsegError(message.reason)
        if message is None:
            self._load_failures += worker.child.wait(0) != LOST  # a lost machine says nothing of the models
            reason = self._replace(worker) if self._load_failures < MAX_LOAD_FAILURES else worker.explain_end()
            if self._load_failures == MAX_LOAD_FAILURES or worker.child.wait(0) == 1:  # an exception, which would come again
                raise RunError(f"{reason}; finished cases are kept, and the same command continues")
            return
        worker.update(message)
        if worker.ready:
            self._load_failures = 0

    def _start_worker(self, order: PredictionOrder) -> WorkerProcess:
        return WorkerProcess(self._start(self._threads), order, self._inbox)

    def _replace(self, worker: WorkerProcess) -> str:
        """Start another process in place of one that has ended; returns why it did."""
        reason = worker.explain_end()
        log.error("%s; another one is started", reason)
        worker.child.kill()
        self._workers[self._workers.index(worker)] = self._start_worker(worker.order)
        return reason


def _memory_on_cluster(memory_gb: float | None, share: Share) -> dict[str, float]:
    """The fields of an order for a process that has its share of a machine, of which all may use so many GB."""
    gb = (memory_gb or 0.0) * share.of_machine
    return {"memory_gb": gb, "exclusive_gb": gb, "ram_share": 0.0 if gb else FREE_RAM_SHARE * share.of_machine}


def start_process(threads: int | None) -> subprocess.Popen[bytes]:
    """A new worker process.

    Args:
        threads: for its numerical libraries; None for their default.
    """
    return launch("nnseg.serving.worker", threads=threads)
