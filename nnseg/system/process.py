"""`ChildProcess`: a Python process that runs `main` of a module of nnseg and exchanges lines of JSON with its parent.

Child processes are started here and by `nnseg.system.parallel.map_items`, nowhere else. They use pipes, without the queues, shared
memory and pickles of `multiprocessing`, so they also work in daemons, small containers and on read-only disks. An engine that runs
them on other machines would replace `launch`: it returns an object with the members of `subprocess.Popen` used here.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import psutil

from nnseg.core.processors import library_environment
from nnseg.system.machine import oom_kills

if TYPE_CHECKING:
    from pydantic import BaseModel

    Received = TypeVar("Received", bound=BaseModel)

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 0.5
"""Seconds to wait for the exit of a process that has closed its output."""

KILL_TIMEOUT = 5.0
"""Seconds to wait for a killed process; a dead disk or driver can keep it."""

STACK_SIGNAL = getattr(signal, "SIGUSR1", None)
"""Makes a child write the stack of each of its threads to stderr; None on Windows."""

PR_SET_PDEATHSIG = 1
"""Source: Linux, sys/prctl.h."""

PARENT_DEATH_SIGNAL = sys.platform == "linux"
"""Whether the system sends a process a signal when its parent ends."""

PARENT_INTERVAL = 0.3
"""Seconds between two looks of a process whether its parent lives, where the system does not tell."""

CRASH_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")
"""Signals that a process gets for a fault of its own code, or of a library."""


NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""On Windows what a new session is elsewhere."""

UTF8 = {"PYTHONIOENCODING": "utf-8"}
"""Environment of a child whose log is read through a pipe, which has another encoding on Windows."""

EndSignal = Literal["SIGKILL", "SIGTERM"]


def own_process(module: str, end_signal: EndSignal) -> list[str]:
    """The command that calls ``main`` of a module in a new Python, which imports nothing from the current folder."""
    home = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.append({home!r}); from {__name__} import run_child; run_child(*sys.argv[1:])"
    return [sys.executable, "-P", "-c", code, module, end_signal]


def launch(module: str, *, threads: int | None = None, end_signal: EndSignal = "SIGKILL") -> subprocess.Popen[bytes]:
    """A new process that runs ``main`` of a module, with pipes for stdin, stdout and stderr.

    Args:
        module: for example "nnseg.serving.worker".
        threads: for its numerical libraries; None for their default.
        end_signal: that it gets when the thread that called this function ends, on Linux.
    """
    return subprocess.Popen(
        own_process(module, end_signal),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=library_environment() | os.environ | UTF8 | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
        creationflags=NEW_GROUP,
    )


class ChildProcess:
    """A process started by `launch`. Its stderr goes to our log. Within ``with``, it is killed at the end.

    Args:
        process: just started.
        receive: called with each line of its stdout and finally with None, in a thread; by default lines are logged.
        level: at which its stderr is logged.

    Attributes:
        last_line: the last line it wrote to stderr that is not empty.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        receive: Callable[[bytes | None], None] | None = None,
        *,
        level: int = logging.INFO,
    ) -> None:
        self.process, self.last_line = process, ""
        self._receive, self._level = receive or self._log, level
        self._outbox: SimpleQueue[BaseModel | None] = SimpleQueue()
        self._oom_kills = oom_kills()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read, self._relay)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def send(self, message: BaseModel) -> None:
        """Write a message to its stdin, without waiting for it to be read."""
        self._outbox.put(message)

    def close_input(self) -> None:
        """Close its stdin after the messages sent so far."""
        self._outbox.put(None)

    def wait(self, timeout: float) -> int | None:
        """The exit code, negative for a signal; None if it still runs after so many seconds."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        for thread in self._threads[1:]:
            thread.join(EXIT_TIMEOUT)
        return code

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        if self.wait(KILL_TIMEOUT) is None:
            log.warning("process %d cannot be killed; it is left to the system", self.process.pid)
        self.close_input()

    def explain_end(self) -> str:
        """How it ended: "failed: " with the last line of its stderr, or "was killed" with the signal and whether memory ran out."""
        code = self.wait(EXIT_TIMEOUT)
        if code is None:
            return "closed its output"
        return explain_exit(code, oom_kills_before=self._oom_kills, last_line=self.last_line)

    def _write(self) -> None:
        """Send the messages; in a thread, since a process that hangs reads none."""
        assert self.process.stdin is not None
        with suppress(OSError), self.process.stdin as stream:  # it has ended
            while (message := self._outbox.get()) is not None:
                stream.write(message.model_dump_json().encode() + b"\n")
                stream.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(OSError), self.process.stdout as stream:
            for line in stream:
                self._receive(line)
        self._receive(None)
        self.close_input()

    def _relay(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError, OSError), self.process.stderr as stream:
            for line in stream:
                self.last_line = line.decode(errors="replace").rstrip() or self.last_line
                self._log(line)

    def _log(self, line: bytes | None) -> None:
        if line is not None:
            log.log(self._level, "%s", line.decode(errors="replace").rstrip())


def explain_exit(code: int | None, *, oom_kills_before: int, last_line: str = "") -> str:
    """How a process ended, by its exit code: "failed: " with its last line, or "was killed" with the signal and the likely cause.

    Args:
        code: negative for a signal.
        oom_kills_before: the kernel's count when the process began.
        last_line: of its stderr.
    """
    if code is None or code >= 0:
        return f"failed: {last_line or f'exit code {code}'}"
    name = signal.Signals(-code).name
    if name in CRASH_SIGNALS:
        cause = "; most likely a file was cut, or its disk failed, while it was read" if name == "SIGBUS" else ""
        return f"crashed ({name}){cause}"
    if not is_lack_of_memory(code):
        return f"was killed ({name})"
    counted = oom_kills() > oom_kills_before
    memory = "memory had run out on the machine or in its control group" if counted else "most likely memory ran out"
    return f"was killed ({name}); {memory}"


def is_lack_of_memory(code: int | None) -> bool:
    """True for the exit codes of signals that end a process for lack of memory."""
    return code is not None and code < 0 and signal.Signals(-code).name in ("SIGKILL", "SIGABRT")


def run_child(module: str, end_signal: str) -> None:
    """Run ``main`` of a module in the process that `launch` started."""
    bind_to_parent(os.getppid(), end_signal)  # not the number of the launching process: Python may be started by a wrapper
    if _parent_has_closed():  # it ended before this process was bound to it
        os._exit(0)
    importlib.import_module(module).main()


def _parent_has_closed() -> bool:
    """True if the other end of stdin is closed."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def bind_to_parent(parent: int, end_signal: str = "SIGKILL") -> None:
    """End this process with its parent. One that is simply killed is also the first victim when memory runs out."""
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, file=2, all_threads=True)
    if end_signal == "SIGKILL":  # its work is repeated; a training is not sacrificed for other programs
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if PARENT_DEATH_SIGNAL:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, getattr(signal, end_signal))
    else:
        threading.Thread(target=end_with, args=(parent, end_signal), daemon=True, name="parent").start()
    if has_ended(parent):
        os._exit(0)


def has_ended(parent: int) -> bool:
    """True if the process that started this one has ended."""
    return not psutil.pid_exists(parent) if sys.platform == "win32" else os.getppid() != parent


def end_with(parent: int, end_signal: str) -> None:
    """Send this process a signal when its parent has ended."""
    while not has_ended(parent):
        time.sleep(PARENT_INTERVAL)
    os.kill(os.getpid(), getattr(signal, end_signal, signal.SIGTERM))  # Windows ends a process by any


class ParentConnection:
    """The child's end of the pipes, for all of its threads: messages come on stdin and go to stdout.

    From now on, what libraries print to stdout goes to stderr.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def receive(self, kind: type[Received]) -> Received:
        """The next message."""
        return kind.model_validate_json(sys.stdin.buffer.readline())

    def receive_all(self, kind: type[Received]) -> Iterator[Received]:
        """All further messages, until the parent has closed the pipe or ended."""
        for line in sys.stdin.buffer:
            yield kind.model_validate_json(line)

    def send(self, message: BaseModel) -> None:
        """Send a message; nothing happens if the parent has ended."""
        with self._lock, suppress(BrokenPipeError):
            self._stream.write(message.model_dump_json().encode() + b"\n")
