"""A process that predicts, watched from outside: whether it lives, what it is at, and how much memory it holds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Protocol

from pydantic import BaseModel

from nnseg.serving.messages import MESSAGE, Alive, Finished, Message, PredictionOrder, PredictionTask, Ready, StageReached
from nnseg.system.machine import ProcessUsage, free_ram_gb, process_usage
from nnseg.system.parallel import own_process

log = logging.getLogger(__name__)

STILL = 4.0
"""Seconds without any sign of life after which a process is said to hang."""

PATIENCE = 120.0
"""Seconds after which one that hangs is ended: a network disk may need some."""

DUMP = 0.5
"""Seconds that it gets to say where it hangs."""

SIGN_CPU_SECONDS, SIGN_IO_BYTES = 0.05, 2**16
"""What a process must have computed, or read and written, to count as alive: a little is done even by one that only waits."""

LAST_BREATH = 0.5
"""Seconds that a process may take to end after it has closed its output."""

BURIAL = 5.0
"""Seconds after which one that was ended is given up, though it will not go: a dead disk or driver can keep it."""


class Process(Protocol):
    """What is needed of a `subprocess.Popen`."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = ...) -> int:
        """The exit code."""

    def kill(self) -> None:
        """End it at once."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""


def start_process(threads: int | None) -> Process:
    """A process that predicts, not yet told what.

    Args:
        threads: to compute with; None for as many as torch thinks best.
    """
    return subprocess.Popen(
        own_process("nnseg.serving.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        start_new_session=True,  # so that Ctrl-C reaches its parent alone, which ends it
    )


class WorkerProcess:
    """A process at work for an order. What it says, and at last None, is put into the inbox.

    Args:
        process: just started.
        order: what it is to do.
        inbox: of the one who watches.

    Attributes:
        ready: what it said when it had loaded the models.
        tasks: that it was given and has not finished, by case.
    """

    def __init__(self, process: Process, order: PredictionOrder, inbox: SimpleQueue[tuple[WorkerProcess, Message | None]]) -> None:
        self.process, self.order = process, order
        self.ready: Ready | None = None
        self.tasks: dict[str, PredictionTask] = {}
        self._stages: dict[str, StageReached] = {}
        self._peaks: dict[str, float] = {}
        self._inbox, self._outbox = inbox, SimpleQueue[BaseModel | None]()
        self._last_words = self._given_up = ""
        self._buried = False
        self._beat = ProcessUsage(cpu_seconds=0.0)
        self._signed, self._signed_at, self._hangs = self._beat, time.monotonic(), False
        self._outbox.put(order)
        for work in (self._tell, self._hear, self._relay):
            threading.Thread(target=work, daemon=True).start()

    @property
    def begun(self) -> list[str]:
        """The cases it is at; the next one if it has begun with none."""
        return [name for name in self.tasks if name in self._stages] or list(self.tasks)[:1]

    def give(self, task: PredictionTask) -> None:
        """Let it predict a case."""
        self.tasks[task.case.name] = task
        self._outbox.put(task)

    def note(self, message: Message) -> None:
        """Take notice of what it said."""
        if isinstance(message, Alive):
            self._beat = ProcessUsage(cpu_seconds=message.cpu_seconds)
            return
        self._signed_at = time.monotonic()
        if isinstance(message, Ready):
            self.ready = message
        elif isinstance(message, StageReached):
            self._stages[message.case] = message

    def finished(self, message: Finished) -> tuple[PredictionTask, float]:
        """The task that is finished, and the most RAM that was held meanwhile, in GB."""
        self._stages.pop(message.case, None)
        return self.tasks.pop(message.case), self.peak_gb(message.case)

    def peak_gb(self, case: str) -> float:
        """The most RAM that the process was seen to hold for itself while it was at a case."""
        return round(self._peaks.get(case, 0.0), 3)

    def look(self) -> None:
        """See how much memory it holds and whether it does anything; end it if it has hung for long."""
        now, seen = time.monotonic(), process_usage(self.process.pid)
        if seen:
            self._peaks = {name: max(self._peaks.get(name, 0.0), seen.own_gb) for name in self._stages}
        seen = seen or self._beat
        computed, moved = seen.cpu_seconds - self._signed.cpu_seconds, seen.io_bytes - self._signed.io_bytes
        if computed > SIGN_CPU_SECONDS or moved > SIGN_IO_BYTES or (self.ready and not self.tasks):
            self._signed, self._signed_at = seen, now
        self._judge(now - self._signed_at)

    def end(self) -> None:
        """End it; what it was at is lost, what it finished is not."""
        self.process.kill()
        try:
            self.process.wait(BURIAL)
        except subprocess.TimeoutExpired:
            log.warning("process %d cannot be ended; it is left to the system", self.process.pid)
        self._outbox.put(None)

    def cause(self, oom_kills: int) -> str:
        """Why it has ended, in one line.

        Args:
            oom_kills: how many processes were killed since for want of memory.
        """
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_BREATH)
        code = self.process.poll()
        if self._given_up:
            return f"{self} {self._given_up}"
        if code is None:
            return f"{self} closed its output"
        if code >= 0:
            return f"{self} failed: {self._last_words or f'exit code {code}'}"
        return f"{self} was killed ({signal.Signals(-code).name}); {self._memory()}" + (
            "; memory had run out on the machine or in its control group: give less with --memory" if oom_kills > 0 else ""
        )

    def __str__(self) -> str:
        doing = ", ".join(f"{stage.case} ({stage.stage})" for stage in self._stages.values()) or "waiting"
        return f"the process on {self.order.device} ({doing if self.ready else 'loading the model'})"

    def _memory(self) -> str:
        held, needed = max(self._peaks.values(), default=0.0), sum(stage.needed_gb for stage in self._stages.values())
        return (
            f"it held {held:.2f} GB of RAM, its cases were to need {needed:.2f} beyond an idle process, "
            f"{self.order.room_gb:.2f} were allowed, {free_ram_gb():.2f} are free now"
        )

    def _judge(self, still: float) -> None:
        """Say that it hangs, or no longer does; end it after so many seconds that patience is over."""
        hangs = still >= STILL
        if hangs and not self._hangs:
            log.warning("%s hangs: it has not computed, read or written anything for %.0f s", self, still)
        elif self._hangs and not hangs:
            log.info("%s goes on", self)
        self._hangs = hangs
        if still >= PATIENCE and not self._given_up:
            self._given_up = f"hung for {still:.0f} s and was ended"
            if hasattr(signal, "SIGUSR1"):  # lets it say where it hangs
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(DUMP)
            self.process.kill()
        if still >= PATIENCE + BURIAL and not self._buried:
            self._buried = True
            self._inbox.put((self, None))

    def _tell(self) -> None:
        """Send it its messages; in a thread, since one that hangs takes none."""
        assert self.process.stdin is not None
        with suppress(OSError), self.process.stdin as stream:  # it has died
            while message := self._outbox.get():
                stream.write(message.model_dump_json().encode() + b"\n")
                stream.flush()

    def _hear(self) -> None:
        """Pass on what it says, and at last that it has ended."""
        assert self.process.stdout is not None
        with suppress(OSError), self.process.stdout as stream:
            for line in stream:
                try:
                    self._inbox.put((self, MESSAGE.validate_json(line)))
                except ValueError:  # half a line of one that died, or what some library prints as it is loaded
                    log.info("%s", line.decode(errors="replace").rstrip())
        self._inbox.put((self, None))

    def _relay(self) -> None:
        """Log what it has to say to people."""
        assert self.process.stderr is not None
        with suppress(ValueError, OSError), self.process.stderr as stream:
            for line in stream:
                self._last_words = line.decode(errors="replace").rstrip() or self._last_words
                log.info("%s", line.decode(errors="replace").rstrip())
