"""The errors nnseg raises on purpose. Anything else that escapes is a bug of ours and keeps its traceback.

::

    NnsegError            one to catch them all
    ├── DatasetError      the dataset as a whole cannot be used
    ├── ScanError         one file cannot be read, or its content is not allowed
    │   └── DamagedCaseError   a preprocessed case must be made again
    ├── PlanError         a plan or recipe is invalid, or does not fit the data
    ├── ModelError        a model or checkpoint is damaged, or does not fit the scan
    ├── RunError          a run folder is missing something, is in use, or cannot be written
    │   ├── WriteError    a file cannot be written, for instance because the disk is full
    │   └── NewerVersionError  a file of a later version, which is left as it is (a ModelError, too)
    ├── EvaluationError   predictions and references cannot be compared
    └── Stopped           work was stopped on request, with nothing lost

A message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

LONGEST_MESSAGE = 5000
"""Letters of the message of an error."""

_NO_FAULTS = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG)

_ENDING = re.compile(r" \[(NS-[A-Z]\d{3})\]$")


def coded(text: str, code: str) -> str:
    """Text that ends in a code; as it is without one, or if it ends in one already."""
    return f"{text} [{code}]" if code and not _ENDING.search(text) else text


def split_code(text: str) -> tuple[str, str]:
    """Text and the code in which it ended; "" without one."""
    match = _ENDING.search(text)
    return (text[: match.start()], match[1]) if match else (text, "")


def is_fault(error: BaseException | None) -> bool:
    """True if the system could not read or write what is there, so that nothing is known of it.

    What is missing is no fault, nor what nnseg does not read: folders in the place of files, pipes, and files beyond its limits.
    """
    return isinstance(error, OSError) and error.errno not in _NO_FAULTS


class NnsegError(Exception):
    """Base of every error that the user can correct.

    Attributes:
        kind: code of the kind of problem, an entry of `nnseg.core.codes.CODES`; by default that of the class.
        findings: the other problems that were found, instances of `nnseg.core.dataset.Finding`.
    """

    kind: str = ""
    findings: tuple[Any, ...] = ()

    def __init__(self, message: str = "") -> None:
        whole = str(message)
        long = len(whole) > LONGEST_MESSAGE  # what is quoted of a file may be long
        super().__init__(f"{whole[: LONGEST_MESSAGE - 1000]} ... {whole[-900:]}" if long else whole)

    @classmethod
    def at(cls, place: str | Path, found: str, expected: str, advice: str, kind: str = "") -> Self:
        """The error that names a file or folder, what is wrong with it, what was expected and what to do, in one line."""
        error = cls(" ".join(f"{place}: {found}; expected {expected}; {advice}".split()))
        error.kind = kind or cls.kind
        return error

    @property
    def is_fault(self) -> bool:
        """True if its cause is a fault of the system: it could not read or write what is there."""
        return is_fault(self.__cause__)

    @property
    def coded(self) -> str:
        """The message, with its code at the end if that says more than the class."""
        return coded(str(self), self.kind) if self.kind != type(self).kind else str(self)


@contextmanager
def suppress_unless_fault(*kinds: type[NnsegError]) -> Iterator[None]:
    """Go on after an error of these kinds, but not after a fault: what could not be read is neither missing nor damaged."""
    try:
        yield
    except kinds as error:
        if error.is_fault:
            raise


class DatasetError(NnsegError):
    """The dataset as a whole cannot be used."""

    kind = "NS-D001"


class ScanError(NnsegError):
    """One file cannot be read, or its content is not allowed."""

    kind = "NS-S001"


class DamagedCaseError(ScanError):
    """A preprocessed case is missing or damaged; it can be made again from its scan."""


class PlanError(NnsegError):
    """A plan or recipe is invalid, or does not fit the data."""

    kind = "NS-P001"


class ModelError(NnsegError):
    """A model or checkpoint is damaged, or does not fit the scan."""

    kind = "NS-M001"


class RunError(NnsegError):
    """A run folder is missing something, is in use, or cannot be written."""

    kind = "NS-R001"


class WriteError(RunError):
    """A file cannot be written: no fault of the data, so that nothing goes on without what was to be written."""


class NewerVersionError(ModelError, RunError):
    """A file was written by a later version of nnseg: it is neither used, removed nor replaced."""

    @classmethod
    def of(cls, path: Path, found: int, known: int) -> Self:
        """The error of a file of format ``found``, where ``known`` is the latest that this version reads."""
        advice = "install that version, or choose another folder"
        return cls.at(path, f"has format {found}: a later nnseg wrote it", f"at most {known}", advice)


class EvaluationError(NnsegError):
    """Predictions and references cannot be compared."""

    kind = "NS-E001"


class Stopped(NnsegError):  # noqa: N818 (nothing went wrong)
    """Work was stopped on request, with nothing lost; the same command continues it.

    Args:
        code: exit code by the shells' convention: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
