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

MOST_LINES = 10
"""Findings that differ in names or numbers only are printed one by one if they are not more."""

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
    """Print all findings, alike ones in one line, unless they are shown already; exit with code 1 if one is an error."""
    found = list(findings)
    if found and not shown:
        show(*(f"{alike[0].level:8}{line}" for alike in _by_kind(found) for line in _lines(alike)))
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(1)


def exit_for_failed(problems: Iterable[Finding], *, code: int = 1) -> None:
    """If there are problems, print them to stderr and exit with the code; where many cases have the same one, in one line."""
    failed = list(problems)
    if failed:
        show("", f"{len(failed)} failed, {'all others are' if code == 1 else 'none is'} done:", error=True)
        show(*(f"  {line}" for alike in _by_kind(failed) for line in _lines(alike)), error=True)
        raise typer.Exit(code)


def _by_kind(findings: Iterable[Finding]) -> Iterable[list[Finding]]:
    """Findings whose reasons differ in names and numbers at most; those of no case or file are alike only if they are equal."""
    found: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        about = "case" if one.case else "file" if one.file else ""
        reason = VARYING.sub("#", PLACE.sub("", one.message)) if about else str(one)
        found.setdefault((one.level, about, reason), []).append(one)
    return found.values()


def _lines(alike: Sequence[Finding]) -> list[str]:
    """Findings of one kind, in one line if their reasons are the same, or if they are many; each of them with ``--verbose``."""
    same, about = len({PLACE.sub("", one.message) for one in alike}) == 1, alike[0].case or alike[0].file
    if not about or len(alike) <= (1 if same else MOST_LINES) or logging.getLogger("nnseg").isEnabledFor(logging.DEBUG):
        return [*dict.fromkeys(map(str, alike))]
    return [_together(alike)]


def _together(alike: Sequence[Finding]) -> str:
    """Findings of one kind in one line: the cases or files, and the reason, of the first where they differ in names or numbers."""
    from nnseg.core.dataset import listed
    from nnseg.core.errors import coded

    reasons = [PLACE.sub("", one.message) for one in alike]
    which = "" if len(set(reasons)) == 1 else "the first: "
    noun, names = ("case", [one.case for one in alike]) if alike[0].case else ("file", [one.file for one in alike])
    named = listed(names, MOST_LINES if len(names) <= MOST_LINES else 5, noun=noun)
    return coded(f"{named}: {which}{reasons[0]}", alike[0].code if len({one.code for one in alike}) == 1 else "")
