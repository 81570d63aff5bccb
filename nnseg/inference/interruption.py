"""A check that runs between the tiles of a prediction, so that one which nobody waits for any more can be ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CHECK: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Within it, predictions of this thread call a function between tiles; what it raises ends them."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def check_between_tiles() -> None:
    """Call the function that was given to `checked`, if any."""
    if check := _CHECK.get():
        check()
