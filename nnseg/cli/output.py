"""Log lines, findings and exit codes of the command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nnseg.core.dataset import Finding


class BesideBars(logging.Handler):
    """Log lines on stderr that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def log_to_terminal(verbose: bool = False) -> None:
    """Write nnseg's log to stderr; with ``verbose``, debug messages too."""
    handler: logging.Handler = BesideBars() if sys.stderr.isatty() else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("nnseg")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def exit_for_errors(findings: Iterable[Finding]) -> None:
    """Print all findings, one a line; exit with code 1 if one is an error."""
    failed = False
    for finding in findings:
        print(f"{finding.level:8}{finding}")
        failed |= finding.level == "error"
    if failed:
        raise typer.Exit(1)


def exit_for_failed(problems: Iterable[Finding], *, code: int = 1, count: int | None = None) -> None:
    """If there are problems, print them to stderr and exit with the code.

    Args:
        count: of what failed, if that is more than the problems.
    """
    failed = list(problems)
    if failed:
        print(f"\n{count or len(failed)} failed, all others are done:", file=sys.stderr)
        for problem in failed:
            print(f"  {problem}", file=sys.stderr)
        raise typer.Exit(code)
