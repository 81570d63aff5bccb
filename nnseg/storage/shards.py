"""`Shards`: lines in a folder of files of many, each written once, for records that are too many to rewrite one file for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nnseg.core.errors import RunError
from nnseg.storage.bounded import read_text_bytes
from nnseg.storage.files import write_text

MOST_LINES, MOST_SECONDS = 1000, 5.0
"""In a file, and between two of them: what a killed command has done and not written is done again."""

_NUMBER = re.compile("[0-9]{1,9}")


class Shards:
    """Lines in ``FOLDER/000001.jsonl`` and further files, each complete as soon as it is there.

    Args:
        folder: made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lines, self._due = folder, list[str](), time.monotonic() + MOST_SECONDS
        numbered = [path for path in folder.glob("*.jsonl") if _NUMBER.fullmatch(path.stem)] if folder.is_dir() else []
        self._files = sorted(numbered, key=lambda path: int(path.stem))

    def __bool__(self) -> bool:
        """True if there are any."""
        return bool(self._files or self._lines)

    def read(self) -> Iterator[bytes]:
        """The lines of all files, in the order in which they were written.

        Raises:
            RunError: a file cannot be read.
        """
        for path in self._files:
            try:
                yield from read_text_bytes(path, "run").splitlines()
            except OSError as error:
                raise RunError(f"cannot read {path}: {error.strerror or error}; check its permissions and the disk") from error

    def put(self, line: str) -> None:
        """Keep a line, and write a file once these are many, or some time has passed."""
        self._lines.append(line)
        if len(self._lines) >= MOST_LINES or time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write the lines that are kept, if any, into a new file."""
        if self._lines:
            number = int(self._files[-1].stem) + 1 if self._files else 1
            path = self._folder / f"{number:06}.jsonl"
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(f"{line}\n" for line in self._lines))
            self._files.append(path)
            self._lines = []
        self._due = time.monotonic() + MOST_SECONDS

    def remove(self) -> None:
        """Remove all files, whose lines are elsewhere by now."""
        for path in self._files:
            path.unlink(missing_ok=True)
        if self._files:
            with suppress(OSError):  # it has files of others, or is a link
                self._folder.rmdir()
        self._files, self._lines = [], []
