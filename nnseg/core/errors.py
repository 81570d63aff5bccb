"""The errors nnseg raises on purpose. Anything else that escapes is a bug of ours and keeps its traceback.

::

    NnsegError            one to catch them all
    ├── DatasetError      the dataset as a whole cannot be used
    ├── ScanError         one file cannot be read, or its content is not allowed
    │   └── DamagedCaseError   a preprocessed case must be made again
    ├── PlanError         a plan or recipe is invalid, or does not fit the data
    ├── ModelError        a model or checkpoint is damaged, or does not fit the scan
    ├── RunError          a run folder is missing something, is in use, or cannot be written
    │   └── WriteError    a file cannot be written, for instance because the disk is full
    ├── EvaluationError   predictions and references cannot be compared
    └── Stopped           work was stopped on request, with nothing lost

A message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self


class NnsegError(Exception):
    """Base of every error that the user can correct."""

    @classmethod
    def at(cls, place: str | Path, found: str, expected: str, advice: str) -> Self:
        """The error that names a file or folder, what is wrong with it, what was expected and what to do, in one line."""
        return cls(" ".join(f"{place}: {found}; expected {expected}; {advice}".split()))


class DatasetError(NnsegError):
    """The dataset as a whole cannot be used."""


class ScanError(NnsegError):
    """One file cannot be read, or its content is not allowed."""


class DamagedCaseError(ScanError):
    """A preprocessed case is missing or damaged; it can be made again from its scan."""


class PlanError(NnsegError):
    """A plan or recipe is invalid, or does not fit the data."""


class ModelError(NnsegError):
    """A model or checkpoint is damaged, or does not fit the scan."""


class RunError(NnsegError):
    """A run folder is missing something, is in use, or cannot be written."""


class WriteError(RunError):
    """A file cannot be written: no fault of the data, so that nothing goes on without what was to be written."""


class EvaluationError(NnsegError):
    """Predictions and references cannot be compared."""


class Stopped(NnsegError):  # noqa: N818 (nothing went wrong)
    """Work was stopped on request, with nothing lost; the same command continues it.

    Args:
        code: exit code by the shells' convention: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
