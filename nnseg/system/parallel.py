"""`map_items`: one function over many items, on all cores, failures kept apart. The only process pool in the house."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from nnseg.core.errors import NnsegError

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the reason why there is none.

    Args:
        item: as it was handed in.
        result: what the function returned; None if it failed.
        reason: why it failed, in one line; None if it did not.
        details: the traceback of an unexpected failure.
    """

    item: Item
    result: Result | None = None
    reason: str | None = None
    details: str | None = None


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 1, label: str = ""
) -> Iterator[Outcome[Item, Result]]:
    """Apply a function to every item and yield outcomes as they finish.

    An item that raises, or whose worker process dies, becomes an outcome with a reason; all others go on. Results do not depend on
    the number of workers.

    Args:
        function: a pure function of one item; with several workers it and the item must be picklable.
        items: what to work on.
        workers: processes; 1 works in this one.
        label: shown beside the progress bar; no bar if empty.
    """
    yield from progress(_outcomes(function, items, workers), total=len(items), label=label)


def progress(steps: Iterable[Result], *, total: int, label: str, unit: str = "case", lines: bool = True) -> Iterator[Result]:
    """Pass ``steps`` through under a tqdm bar on a terminal, or with a line in the log every 20 seconds.

    Args:
        steps: what to pass through.
        total: how many there will be.
        label: shown beside the bar; no bar if empty.
        unit: of the rate.
        lines: False where the steps make log lines of their own.
    """
    terminal = sys.stderr.isatty()
    if not label or not (terminal or lines):
        yield from steps
    elif terminal:
        yield from tqdm(steps, total=total, desc=label, unit=unit, delay=1.0, leave=False, dynamic_ncols=True)
    else:
        start = last = time.monotonic()
        for done, step in enumerate(steps, 1):
            yield step
            now = time.monotonic()
            if now - last > 20 and done < total:
                last = now
                log.info("%s: %d of %d, %.0f s left", label, done, total, (now - start) / done * (total - done))


def _outcomes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Outcome[Item, Result]]:
    """Work here at first; call in the pool, whose processes take seconds to start, only when the rest will take longer."""
    start = time.monotonic()
    for done, item in enumerate(items):
        seconds = time.monotonic() - start
        if workers > 1 and done and seconds / done * (len(items) - done) > WORTH_A_POOL:
            yield from _in_pool(function, items[done:], workers)
            return
        yield _attempt(function, item)


WORTH_A_POOL = 12.0
"""Seconds of work left above which starting worker processes pays."""


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item=item, result=function(item))
    except NnsegError as error:
        return Outcome(item=item, reason=str(error))
    except Exception as error:  # one bad item must not cost the others; the traceback travels with the outcome
        return Outcome(item=item, reason=f"{type(error).__name__}: {error}", details=traceback.format_exc())


def _in_pool(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Outcome[Item, Result]]:
    """Work in a pool; when a worker dies the pool is lost, so what it still owed is done again, each item in a pool of its own."""
    left = dict(enumerate(items))
    with _pool(min(workers, len(items))) as pool:
        futures: dict[Future[Outcome[Item, Result]], int] = {pool.submit(_attempt, function, item): i for i, item in left.items()}
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except BrokenProcessPool:
                break
            del left[futures[future]]
            yield outcome
    for item in left.values():
        yield _alone(function, item)


def _alone(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    with _pool(1) as pool:
        try:
            return pool.submit(_attempt, function, item).result()
        except BrokenProcessPool:
            return Outcome(item=item, reason="the worker process died, twice; most often it ran out of memory (try --workers 1)")


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    """Keep a worker's numerical libraries to one thread: the processes already fill the cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ[name] = "1"
