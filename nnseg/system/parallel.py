"""`map_items`: one function applied to many items, on all cores, each failure kept to its item."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from nnseg.system.isolation import Outcome, outcome_of, outcomes_of_children

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

__all__ = ["Outcome", "map_items", "progress"]


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 0, label: str = ""
) -> Iterator[Outcome[Item, Result]]:
    """Apply a function to each item and yield the outcomes in the order in which they finish.

    An item that raises, or whose process dies or hangs, yields an outcome with a reason; the others are not affected. Results do
    not depend on the number of workers.

    This function and `nnseg.system.process.launch` are the only places where Python processes are started. An engine that computes
    on other machines would replace `outcomes_of_children`.

    Args:
        function: of one item, without side effects on other items; with workers both must be picklable.
        workers: number of child processes; 0 works in this process, which an item can then crash.
        label: shown beside the progress bar; no bar if empty.

    Raises:
        WriteError: a file cannot be written, which is no fault of the item.

    Example:
        >>> [outcome.result for outcome in map_items(abs, [-1, 2])]
        [1, 2]
    """
    here = (outcome_of(function, item) for item in items)
    yield from progress(outcomes_of_children(function, items, workers) if workers else here, total=len(items), label=label)


def progress(steps: Iterable[Result], *, total: int, label: str) -> Iterator[Result]:
    """Pass ``steps`` through under a progress bar on a terminal, otherwise with a line in the log every 20 seconds.

    Args:
        total: number of steps.
        label: shown beside the bar; no bar if empty.
    """
    if not label:
        yield from steps
    elif sys.stderr.isatty():
        yield from tqdm(steps, total=total, desc=label, unit="case", delay=1.0, leave=False, dynamic_ncols=True)
    else:
        start = last = time.monotonic()
        for done, step in enumerate(steps, 1):
            yield step
            now = time.monotonic()
            if now - last > 20 and done < total:
                last = now
                log.info("%s: %d of %d, %.0f s left", label, done, total, (now - start) / done * (total - done))
