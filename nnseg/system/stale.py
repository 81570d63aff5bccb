"""`tried_again`: work on a network disk repeated where its server has replaced a file meanwhile (ESTALE)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

DELAYS = (0.1, 0.5, 2.0)
"""Seconds before each repetition."""


def tried_again(work: Callable[[], Result]) -> Result:
    """The result of a function that may be called several times."""
    for delay in DELAYS:
        try:
            return work()
        except Exception as error:
            if not _is_stale(error):
                raise
        time.sleep(delay)
    return work()


def _is_stale(error: BaseException | None) -> bool:
    """True if an error, or one that it was raised from, says that the handle of a file is stale."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ESTALE:
            return True
        error = error.__cause__ or error.__context__
    return False
