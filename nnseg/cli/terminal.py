"""Text on a terminal: in lines of whole words, coloured, with paths as the user wrote them, and no warning many times."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TextIO

from nnseg.core.names import printable
from nnseg.system.log_format import ShownFormatter
from nnseg.system.progress import columns
from nnseg.system.regular import resolved

RED, YELLOW, BOLD, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"

INDENT = 9
"""Columns of the time of day at the beginning of log lines."""

MOST_ALIKE = 3
"""Warnings of one kind that are written; the others are counted."""

VARYING = re.compile(r"\d+|\S*/\S*")
"""What differs between warnings of one kind: numbers and paths."""


def is_coloured(stream: TextIO) -> bool:
    """True for a terminal, unless NO_COLOR is set (source: no-color.org); not for an old one of Windows, which shows the codes."""
    knows_codes = sys.platform != "win32" or "WT_SESSION" in os.environ or "TERM" in os.environ
    return stream.isatty() and knows_codes and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Text in a colour, where the stream shows colours."""
    return f"{colour}{text}{PLAIN}" if colour and text and is_coloured(stream) else text


def wrapped(text: str, stream: TextIO, *, indent: int = 2) -> str:
    """Text in lines of whole words, on a terminal; the lines after the first are indented.

    Args:
        text: perhaps of several lines, each of which is wrapped.
        stream: that it is written to.
        indent: spaces, besides those that the line begins with.
    """
    if not stream.isatty():
        return text
    return "\n".join(_wrap(line, indent) for line in text.split("\n"))


def _wrap(line: str, indent: int) -> str:
    width, begin = columns() - 1, len(line) - len(line.lstrip())
    if len(line) <= width:
        return line
    later = " " * (begin + indent)
    how = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False, "drop_whitespace": True}
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=later, **how)) or line  # type: ignore[arg-type]


def with_paths_as_given(text: str) -> str:
    """Text with the paths of relative arguments, and those in the current folder, as the user wrote them."""
    try:
        return _paths_as_given(tuple(sys.argv[1:]), str(Path.cwd())).sub(text)
    except OSError:  # the current folder is gone
        return text


class _Paths:
    """Replaces absolute paths.

    Args:
        shown: what is written in the place of each.
    """

    def __init__(self, shown: dict[str, str]) -> None:
        self._shown = shown
        known = "|".join(re.escape(path) for path in sorted(shown, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w./-])({known})(?=[/\s:,;)\"']|\.?$|\.\s)") if known else None

    def sub(self, text: str) -> str:
        """The text with the paths replaced."""
        return self._pattern.sub(lambda found: self._shown[found[0]], text) if self._pattern and os.sep in text else text


@cache
def _paths_as_given(arguments: tuple[str, ...], here: str) -> _Paths:
    values = [argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments]
    relative = {value.rstrip("/") for value in values if value.strip(".") and not Path(value).is_absolute()}
    shown = {str(path): value for value in relative for path in (resolved(Path(value)), Path(value).absolute())}
    if not any(value.startswith(here) for value in values):
        shown.setdefault(here, ".")
    return _Paths({path: value for path, value in shown.items() if path.count("/") > 1})


class TerminalFormatter(ShownFormatter):
    """Formats log lines for a stream: wrapped, and coloured by how serious they are."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._stream = stream

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback if there is one."""
        colour = RED if record.levelno >= logging.ERROR else YELLOW if record.levelno >= logging.WARNING else ""
        text = with_paths_as_given(super().format(record))
        return coloured(wrapped(text, self._stream, indent=INDENT), colour, self._stream)


class FewOfEach(logging.Filter):
    """Lets the first few warnings and errors of each kind pass, and counts the others."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the line is to be written."""
        if record.levelno < logging.WARNING:
            return True
        text = printable(record.getMessage(), lines=True)
        of_case = isinstance(record.args, tuple) and record.args and str(record.msg).startswith("case %s")
        kind = VARYING.sub("#", text.replace(str(record.args[0]), "", 1) if of_case else text)  # type: ignore[index]
        self._seen[kind] += 1
        self._last[kind] = text
        return self._seen[kind] <= MOST_ALIKE

    def left_out(self) -> list[str]:
        """A line for each kind that has warnings which were not written; they are forgotten."""
        more = {kind: count - MOST_ALIKE for kind, count in self._seen.items() if count > MOST_ALIKE}
        lines = [f"{count} more like this (all of them: --verbose): {self._last[kind]}" for kind, count in more.items()]
        self._seen.clear()
        return lines
