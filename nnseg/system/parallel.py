"""`map_items`: one function applied to many items, on all cores, each failure kept to its item."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from nnseg.core.errors import NnsegError
from nnseg.system.log_format import format_warnings

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Result]):
    """The result for one item, or the reason why there is none.

    Args:
        item: as it was passed in.
        result: of the function; None if it failed.
        reason: of a failure, in one line; None without one.
        details: traceback of an unexpected failure.
    """

    item: Item
    result: Result | None = None
    reason: str | None = None
    details: str | None = None


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 1, label: str = ""
) -> Iterator[Outcome[Item, Result]]:
    """Apply a function to each item and yield the outcomes in the order in which they finish.

    An item that raises, or whose worker process dies, yields an outcome with a reason; the others are not affected. Results do not
    depend on the number of workers. Processes are only started for long work, see `WORTH_A_POOL`.

    This function and `nnseg.system.process.launch` are the only places where Python processes are started. An engine that computes
    on other machines would replace `start_pool`.

    Args:
        function: of one item, without side effects on other items; with several workers both must be picklable.
        workers: number of processes; 1 works in this process.
        label: shown beside the progress bar; no bar if empty.

    Example:
        >>> [outcome.result for outcome in map_items(abs, [-1, 2])]
        [1, 2]
    """
    yield from progress(_outcomes(function, items, workers), total=len(items), label=label)


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


WORTH_A_POOL = 12.0
"""Seconds of work left above which starting worker processes pays."""


def _outcomes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Outcome[Item, Result]]:
    """Work in this process at first, and in a pool, whose processes take seconds to start, once the rest will take longer."""
    start = time.monotonic()
    for done, item in enumerate(items):
        seconds = time.monotonic() - start
        if workers > 1 and done and seconds / done * (len(items) - done) > WORTH_A_POOL:
            yield from _outcomes_of_pool(function, items[done:], workers)
            return
        yield _apply(function, item)


def _apply(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item=item, result=function(item))
    except NnsegError as error:
        return Outcome(item=item, reason=str(error))
    except Exception as error:  # one bad item must not stop the others; the traceback travels with the outcome
        return Outcome(item=item, reason=f"{type(error).__name__}: {error}", details=traceback.format_exc())


def _outcomes_of_pool(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Outcome[Item, Result]]:
    """Work in a pool; a worker that dies breaks it, and each item without an outcome is then done again in a pool of its own."""
    left = dict(enumerate(items))
    with start_pool(min(workers, len(items))) as pool, suppress(BrokenProcessPool):
        futures: dict[Future[Outcome[Item, Result]], int] = {pool.submit(_apply, function, item): i for i, item in left.items()}
        for future in as_completed(futures):
            outcome = future.result()
            del left[futures[future]]
            yield outcome
    for item in left.values():
        with start_pool(1) as pool:
            try:
                yield pool.submit(_apply, function, item).result()
            except BrokenProcessPool:
                reason = "the worker process died twice, most likely because memory ran out; try --workers 1"
                yield Outcome(item=item, reason=reason)


def start_pool(workers: int) -> Executor:
    """An executor that calls functions in so many processes, each with one thread."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker)


def _prepare_worker() -> None:
    """Keep a worker's numerical libraries to one thread, since the processes already fill the cores; and format its warnings."""
    format_warnings()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ[name] = "1"
