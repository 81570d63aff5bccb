"""`map_items`: one function applied to many items, on all cores, each failure kept to its item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from nnseg.system.isolation import Outcome, outcome_of, outcomes_of_children
from nnseg.system.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

Engine = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Outcome[Any, Any]]]

__all__ = ["Engine", "Outcome", "computed_by", "map_items"]

_engines = list[Engine]()
"""In use, the innermost last."""


@contextmanager
def computed_by(engine: Engine) -> Iterator[None]:
    """Let `map_items` hand its items to another engine than child processes of this one, see `nnseg.system.cluster`."""
    _engines.append(engine)
    try:
        yield
    finally:
        _engines.remove(engine)


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 0,
    label: str = "",
    weigh: Callable[[Item], float] = lambda item: 1.0,
) -> Iterator[Outcome[Item, Result]]:
    """Apply a function to each item and yield the outcomes in the order in which they finish.

    An item that raises, or whose process dies or hangs, yields an outcome with a reason; the others are not affected. Results do
    not depend on the number of workers.

    Besides `nnseg.system.process.launch`, Python processes are started by `outcomes_of_children` alone, or by the engine that
    `computed_by` has put in its place; few items, which the workers here finish at once, are not handed to it.

    Args:
        function: of one item, without side effects on other items; with workers both must be picklable.
        workers: number of child processes; 0 works in this process, which an item can then crash.
        label: of the line that shows how far it is; none if empty.
        weigh: how much of the work an item is, for the time left.

    Raises:
        WriteError: a file cannot be written, which is no fault of the item.

    Example:
        >>> [outcome.result for outcome in map_items(abs, [-1, 2])]
        [1, 2]
    """
    here = (outcome_of(function, item) for item in items)
    if _engines and 0 < workers < len(items):
        outcomes = _engines[-1](function, items)
    else:
        outcomes = outcomes_of_children(function, items, workers) if workers else here
    of_all = sum(map(weigh, items)) if label else 0.0
    yield from progress(outcomes, total=len(items), label=label, weigh=lambda outcome: weigh(outcome.item), of_all=of_all)
