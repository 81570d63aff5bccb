"""Log lines, findings and exit codes of the command line."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nnseg.core.dataset import Finding

MOST_FAILED = 10
"""Cases that failed for one reason are printed one by one if they are not more."""

PLACE = re.compile(r"^(/[^:]*|[^\s:]*\.[^\s:]*): ")
"""The file at the beginning of a reason, which differs between cases."""


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


def exit_for_failed(problems: Iterable[Finding], *, code: int = 1) -> None:
    """If there are problems, print them to stderr and exit with the code; where many cases have the same one, in one line."""
    from nnseg.core.dataset import listed

    failed = list(problems)
    by_reason: dict[str, list[Finding]] = {}
    for problem in failed:
        by_reason.setdefault(PLACE.sub("", problem.message) if problem.case else str(problem), []).append(problem)
    if failed:
        print(f"\n{len(failed)} failed, all others are done:", file=sys.stderr)
        for reason, alike in by_reason.items():
            shown = [f"{listed([one.case for one in alike])}: {reason}"] if len(alike) > MOST_FAILED else alike
            print(*(f"  {one}" for one in shown), sep="\n", file=sys.stderr)
        raise typer.Exit(code)
