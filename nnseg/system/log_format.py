"""How log lines and warnings are written, in every process that writes to the terminal."""

from __future__ import annotations

import logging
from typing import TextIO

from nnseg.core.names import printable


class ShownFormatter(logging.Formatter):
    """Formats log lines so that nothing in them, such as the name of a file, steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback if there is one."""
        return printable(super().format(record), lines=True)


def format_warnings() -> None:
    """Write what libraries log and warn of as `ShownFormatter` does, where no handler takes it: to stderr."""
    logging.captureWarnings(True)
    if logging.lastResort:
        logging.lastResort.setFormatter(ShownFormatter())


def log_lines(level: int = logging.INFO, *, stream: TextIO | None = None) -> None:
    """Write nnseg's log from ``level`` on as plain lines, of other packages only warnings.

    Args:
        stream: stderr by default.
    """
    logging.basicConfig(format="%(message)s", stream=stream)
    for name in ("nnseg", "__main__"):  # the second is that of a module started by itself
        logging.getLogger(name).setLevel(level)
