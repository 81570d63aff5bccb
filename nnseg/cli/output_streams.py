"""`surviving_output`: output that is closed, or on a full disk, costs no work; the exit code tells that some was lost."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from nnseg.cli.output import show

OUTPUT_LOST = 74
"""Exit code if the work is done and output could not be written. Source: BSD's sysexits.h, EX_IOERR."""


class _Output(io.FileIO):
    """Standard output or error; nothing is written any more after a first failure.

    Attributes:
        failure: why it could not be written; "" if it could.
        unread: since the program that read it has ended, as `head` does on purpose.
    """

    failure = ""
    unread = False

    def write(self, content: Any, /) -> int:
        """Write bytes, or nothing where that is impossible."""
        try:
            return super().write(content) or 0
        except OSError as error:
            self.failure, self.unread = error.strerror or type(error).__name__, error.errno == errno.EPIPE
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # also for libraries and child processes
            os.close(null)
            return memoryview(content).nbytes


@contextmanager
def surviving_output() -> Iterator[None]:
    """A context in which standard output and error may fail.

    Raises:
        SystemExit: at its end, with `OUTPUT_LOST` if output was lost and nothing else went wrong.
    """
    _open_closed()
    before, outputs = (sys.stdout, sys.stderr), [_Output(number, "w", closefd=False) for number in (1, 2)]
    try:
        for stream in before:
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        outputs[0].failure = "it was closed"
    sys.stdout, sys.stderr = (_text(raw, like, number) for number, (raw, like) in enumerate(zip(outputs, before, strict=True), 1))
    code: str | int | None = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        lost = [output for output in outputs if output.failure]
        if failure := next((output.failure for output in lost if not output.unread), ""):
            show(f"nnseg: some output could not be written ({failure}); the work went on without", error=True)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
    sys.exit(code or (OUTPUT_LOST if lost else 0))


def _open_closed() -> None:
    """Open /dev/null in the place of standard streams that are closed: files that are opened later would get their numbers."""
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:
        null = os.dup(null)
    os.close(null)


def _text(raw: _Output, like: TextIO | None, number: int) -> io.TextIOWrapper:
    """Text output to a stream, encoded as another one; what its encoding lacks, as many do on Windows, is written as in Python."""
    encoding, errors = getattr(like, "encoding", None) or "utf-8", getattr(like, "errors", None)
    errors = "backslashreplace" if errors in (None, "strict") else errors
    at_once = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=at_once)
