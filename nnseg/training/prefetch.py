"""`prefetched`: batches drawn before they are needed, in threads, and yet the same."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

import torch

from nnseg.training.patches import Batch, Patches

log = logging.getLogger(__name__)


def prefetched(patches: Patches, first: int, *, ahead: int) -> Generator[Batch, None, None]:
    """The batches of steps ``first``, ``first + 1``, ... without end, bit for bit as `Patches.batch` gives them.

    Where the device's memory is too small for several drawings at a time, they are drawn one by one from then on. Any other error
    in drawing a batch is raised when that batch's turn comes. Close the iterator when done with it: drawings not begun are dropped,
    those under way are waited for, and no thread is left.

    Args:
        patches: to draw from.
        first: step.
        ahead: batches drawn, each in a thread of its own, while the caller is busy with an earlier one; 0 for none.
    """
    step = first
    if ahead:
        try:
            with closing(_drawn_ahead(patches, first, ahead)) as batches:
                for batch in batches:
                    yield batch
                    step += 1
        except torch.OutOfMemoryError:
            log.warning("too little memory to draw %d batches ahead; they are drawn one by one from now on", ahead)
            torch.cuda.empty_cache()
    yield from map(patches.batch, count(step))


def _drawn_ahead(patches: Patches, first: int, ahead: int) -> Generator[Batch, None, None]:
    with ThreadPoolExecutor(ahead, thread_name_prefix="patches") as threads:
        try:
            drawn = deque(threads.submit(patches.batch, first + n) for n in range(ahead))
            for step in count(first + ahead):
                batch = drawn.popleft().result()
                drawn.append(threads.submit(patches.batch, step))
                yield batch
        finally:
            threads.shutdown(cancel_futures=True)
