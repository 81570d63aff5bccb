"""`WorkerProcess`: a process that predicts, with its cases; its memory and activity are monitored."""

from __future__ import annotations

import logging
import subprocess
import time
from queue import SimpleQueue

from nnseg.serving.messages import MESSAGE, Alive, Finished, Message, PredictionOrder, PredictionTask, Ready, StageReached
from nnseg.system.activity import HANG_TIMEOUT, TIMEOUT_VARIABLE, Activity, time_limit
from nnseg.system.machine import ProcessUsage, free_ram_gb
from nnseg.system.process import STACK_SIGNAL, ChildProcess

log = logging.getLogger(__name__)

HANG_SECONDS = 4.0
"""Seconds without any activity after which a process is reported to hang."""

STACK_SECONDS = 0.5
"""Time for a process to write the stacks of its threads before it is killed."""


class WorkerProcess:
    """A process that carries out an order. Its messages, and finally None, are put into the inbox of its pool.

    Args:
        process: just started by `nnseg.system.process.launch`.

    Attributes:
        ready: its message when it had loaded the models.
        tasks: assigned and not finished, by case.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        order: PredictionOrder,
        inbox: SimpleQueue[tuple[WorkerProcess | None, Message | None]],
    ) -> None:
        self.order = order
        self.ready: Ready | None = None
        self.tasks: dict[str, PredictionTask] = {}
        self._stages: dict[str, StageReached] = {}
        self._reading_since: dict[str, float] = {}
        self._limit = time_limit()
        self._peaks: dict[str, float] = {}
        self._inbox = inbox
        self._heartbeat = None if process.pid is None else ProcessUsage(cpu_seconds=0.0)  # none before it has a machine
        self._activity = Activity(process.pid)
        self._hangs, self._timed_out = False, ""
        self.child = ChildProcess(process, self._receive)
        self.child.send(order)

    @property
    def started_cases(self) -> list[str]:
        """The cases in its stages; the next one if there are none."""
        return [name for name in self.tasks if name in self._stages] or list(self.tasks)[:1]

    def assign(self, task: PredictionTask) -> None:
        """Assign a case to it."""
        self.tasks[task.case.name] = task
        self.child.send(task)

    def update(self, message: Message) -> None:
        """Update its state by a message from it."""
        if isinstance(message, Alive):
            self._heartbeat = ProcessUsage(**message.model_dump(exclude={"kind"}))
            return
        self._activity.note()
        if isinstance(message, Ready):
            self.ready = message
        elif isinstance(message, StageReached):
            self._stages[message.case] = message
            self._reading_since.setdefault(message.case, time.monotonic())

    def finish(self, message: Finished) -> tuple[PredictionTask, float]:
        """The task that is finished, and the most RAM that was held meanwhile, in GB."""
        self._stages.pop(message.case, None)
        self._reading_since.pop(message.case, None)
        return self.tasks.pop(message.case), self.peak_gb(message.case)

    def peak_gb(self, case: str) -> float:
        """Peak of the measured RAM of the process, without mapped files, during a case."""
        return round(self._peaks.get(case, 0.0), 3)

    def check(self) -> None:
        """Measure its memory and its activity; kill it if it has hung for too long."""
        if self.ready and not self.tasks:
            self._activity.note()
        idle = self._activity.idle_seconds(self._heartbeat)
        if usage := self._activity.usage or self._heartbeat:
            self._peaks = {name: max(self._peaks.get(name, 0.0), usage.own_gb) for name in self._stages}
        if self._hangs != (idle >= HANG_SECONDS):
            self._hangs = not self._hangs
            if self._hangs:
                log.warning("%s hangs: it has not computed, read or written anything for %.0f s", self, idle)
            else:
                log.info("%s continues", self)
        if idle >= min(HANG_TIMEOUT, self._limit):
            self._time_out(f"hung for {idle:.0f} s and was killed")
        reading = [since for name, since in self._reading_since.items() if self._stages[name].stage == "read"]
        if reading and (seconds := time.monotonic() - min(reading)) > self._limit:
            self._time_out(f"had not read a scan after {seconds:.0f} s and was killed ({TIMEOUT_VARIABLE} sets the time)")

    def _time_out(self, reason: str) -> None:
        if self._timed_out:
            return
        self._timed_out = reason
        if STACK_SIGNAL is not None:
            self.child.process.send_signal(STACK_SIGNAL)
            time.sleep(STACK_SECONDS)
        self.child.kill()
        self._inbox.put((self, None))  # also if it cannot be killed, so that its output stays open

    def explain_end(self) -> str:
        """Why it has ended, in one line."""
        if self._timed_out:
            return f"{self} {self._timed_out}"
        reason = f"{self} {self.child.explain_end()}"
        return reason if (self.child.wait(0) or 0) >= 0 else f"{reason}; {self._memory()}"

    def __str__(self) -> str:
        doing = ", ".join(f"{stage.case} ({stage.stage})" for stage in self._stages.values()) or "waiting"
        return f"the process on {self.order.device} ({doing if self.ready else 'loading the model'})"

    def _memory(self) -> str:
        held, needed = max(self._peaks.values(), default=0.0), sum(stage.needed_gb for stage in self._stages.values())
        return (
            f"it held {held:.2f} GB of RAM; its cases needed {needed:.2f} GB more than an idle process by computation, "
            f"{self.order.memory_gb:.2f} GB were allowed (--memory), {free_ram_gb():.2f} GB are free now"
        )

    def _receive(self, line: bytes | None) -> None:
        try:
            self._inbox.put((self, None if line is None else MESSAGE.validate_json(line)))
        except ValueError:  # half a line of one that died, or what a library printed while it was loaded
            log.info("%s", (line or b"").decode(errors="replace").rstrip())
