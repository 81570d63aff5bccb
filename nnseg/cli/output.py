"""What the command line prints, with nothing in it that would steer a terminal: text, log lines, findings; and exit codes."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from nnseg.cli.terminal import BOLD, RED, VARYING, FewOfEach, TerminalFormatter, coloured, with_paths_as_given, wrapped
from nnseg.core.names import printable
from nnseg.system.log_format import format_warnings
from nnseg.system.progress import be_quiet, beside_line, stage

if TYPE_CHECKING:
    from nnseg.core.dataset import Finding

MOST_FAILED = 10
"""Cases that failed for reasons that differ in names or numbers only are printed one by one if they are not more."""

PLACE = re.compile(r"^(/[^:]*|[^\s:]*\.[^\s:]*): ")
"""The file at the beginning of a reason, which differs between cases."""


def show(*lines: str, block: bool = False, error: bool = False, title: bool = False) -> None:
    """Print lines; what would steer a terminal, in names of files say, is written as in Python.

    Args:
        block: each may consist of several lines, and is printed as it is.
        error: print to stderr, in red.
        title: print in bold.
    """
    stream = sys.stderr if error else sys.stdout
    with beside_line():
        for line in lines or ("",):
            text = printable(line, lines=block)
            if not block:
                text = wrapped(with_paths_as_given(text), stream)
            print(coloured(text, RED if error else BOLD if title else "", stream), file=stream)


class BesideLine(logging.StreamHandler[Any]):
    """Log lines on stderr that do not break the live line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with beside_line():
            super().emit(record)


def loading() -> AbstractContextManager[Any]:
    """A context in which libraries are loaded, which can take seconds."""
    return stage("loading libraries")


def log_to_terminal(verbose: bool = False, *, quiet: bool = False) -> None:
    """Write nnseg's log to stderr; with ``verbose`` debug messages too, with ``quiet`` warnings alone and no live line."""
    be_quiet(quiet)
    handler = BesideLine()
    handler.setFormatter(TerminalFormatter(sys.stderr))
    if not verbose:
        handler.addFilter(FewOfEach())
    logger = logging.getLogger("nnseg")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    format_warnings()


@contextmanager
def counted_warnings() -> Iterator[None]:
    """A context at whose end a line says how many warnings were left out of the log, since others of their kind were written."""
    try:
        yield
    finally:
        _end_log()


def _end_log() -> None:
    filters = [found for handler in logging.getLogger("nnseg").handlers for found in handler.filters]
    lines = [line for found in filters if isinstance(found, FewOfEach) for line in found.left_out()]
    if lines:
        show(*lines, error=True)


def exit_for_errors(findings: Iterable[Finding], *, shown: bool = False) -> None:
    """Print all findings, one a line, unless they are shown already; exit with code 1 if one is an error."""
    failed = False
    for finding in findings:
        if not shown:
            show(f"{finding.level:8}{finding}")
        failed |= finding.level == "error"
    if failed:
        raise typer.Exit(1)


def exit_for_failed(problems: Iterable[Finding], *, code: int = 1) -> None:
    """If there are problems, print them to stderr and exit with the code; where many cases have the same one, in one line."""
    all_of_them = logging.getLogger("nnseg").isEnabledFor(logging.DEBUG)
    failed = list(problems)
    by_reason: dict[str, list[Finding]] = {}
    for problem in failed:
        kind = VARYING.sub("#", PLACE.sub("", problem.message)) if problem.case else str(problem)
        by_reason.setdefault(kind, []).append(problem)
    if failed:
        show("", f"{len(failed)} failed, {'all others are' if code == 1 else 'none is'} done:", error=True)
        for alike in by_reason.values():
            same = len({PLACE.sub("", one.message) for one in alike}) == 1
            together = len(alike) > (1 if same else MOST_FAILED) and not all_of_them
            named = [_together(alike)] if together else alike
            show(*(f"  {one}" for one in named), error=True)
        raise typer.Exit(code)


def _together(alike: Sequence[Finding]) -> str:
    """Problems of one kind in one line: the cases, and the reason, of the first where they differ in names or numbers."""
    from nnseg.core.dataset import listed
    from nnseg.core.errors import coded

    reasons = [PLACE.sub("", one.message) for one in alike]
    which = "" if len(set(reasons)) == 1 else "the first: "
    cases = [one.case for one in alike if one.case]
    named = listed(cases, MOST_FAILED) if len(cases) <= MOST_FAILED else listed(cases)
    return coded(f"{named}: {which}{reasons[0]}", alike[0].code if len({one.code for one in alike}) == 1 else "")
