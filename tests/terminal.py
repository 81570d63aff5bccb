"""The command line on a terminal of so many columns, and what is on its screen afterwards."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from dataclasses import dataclass, field
from functools import partial

import pyte
from warm import started

ROWS = 300


@dataclass
class Session:
    """What a command wrote.

    Attributes:
        text: all of it, with what steers the terminal.
        seen: the last line of the screen, each time that something was written.
        silences: seconds between two writes.
        code: exit code.
    """

    columns: int
    text: str = ""
    seen: list[str] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    code: int | None = None

    def __post_init__(self) -> None:
        self._screen = pyte.Screen(self.columns, ROWS)
        self._stream = pyte.Stream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen that are not empty."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def words(self) -> str:
        """All that is on the screen, as one line."""
        return " ".join(" ".join(self.lines).split())

    def write(self, text: str) -> None:
        self.text += text
        self._stream.feed(text)
        self.seen.append(self._screen.display[self._screen.cursor.y].rstrip())


def run_in_terminal(*arguments: object, columns: int = 80, code: int | None = 0, colour: bool = True) -> Session:
    """Run ``nnseg`` on a terminal to its end.

    Args:
        code: the expected exit code; None for any.
        colour: False sets NO_COLOR.
    """
    session = Session(columns)
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = started(*arguments, inside=partial(_attach, os.ttyname(other), colour))
    last = time.monotonic()
    while True:
        ended = not process.is_alive()
        ready, _, _ = select.select([main], [], [], 0.0 if ended else 0.1)
        if ready:
            session.write(os.read(main, 1 << 16).decode(errors="replace"))
            session.silences.append(time.monotonic() - last)
            last = time.monotonic()
        elif ended:
            break
    os.close(main)
    os.close(other)
    session.code = process.exitcode
    assert code is None or session.code == code, session.words
    return session


def _attach(name: str, colour: bool) -> None:
    """Let this process write to a terminal, whose own size counts."""
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        os.dup2(terminal, number)
    os.environ |= {"TERM": "xterm"}
    for variable in ("COLUMNS", "NO_COLOR"):
        os.environ.pop(variable, None)
    if not colour:
        os.environ["NO_COLOR"] = "1"
