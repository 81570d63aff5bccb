"""Worker processes forked off the test process: they start in milliseconds, since everything is loaded already."""

import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from nnseg.system.process import bind_to_parent


class Forked:
    """A child that runs a function with pipes for stdin, stdout and stderr, as a `subprocess.Popen` would run a program."""

    def __init__(self, main: Callable[[], None]) -> None:
        pipes = [os.pipe() for _ in range(3)]
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run(main, parent, [pipes[0][0], pipes[1][1], pipes[2][1]])
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(pipes[0][1], "wb"),
            os.fdopen(pipes[1][0], "rb"),
            os.fdopen(pipes[2][0], "rb"),
        )
        for end in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(end)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = 10.0) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.002)
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def exit_after(main: Callable[[], object]) -> NoReturn:
    """End this process after a function, with the exit code that it asks for, or 1 and a traceback for an error."""
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(main: Callable[[], None], parent: int, streams: list[int]) -> NoReturn:
    def work() -> None:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 4096)  # else the pipes of others would stay open for as long as this process lives
        sys.stdin, sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(n, mode, buffering=0 if mode == "wb" else -1), write_through=True)
            for n, mode in enumerate(("rb", "wb", "wb"))
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        bind_to_parent(parent)
        main()

    exit_after(work)
