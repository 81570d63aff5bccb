"""`prefetched`: batches drawn before they are needed, in threads, and yet the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from nnseg.training.patches import Batch, Patches


def prefetched(patches: Patches, first: int, *, ahead: int) -> Generator[Batch, None, None]:
    """The batches of steps ``first``, ``first + 1``, ... without end, bit for bit as `Patches.batch` gives them.

    An error in drawing a batch is raised when that batch's turn comes. Close the iterator when done with it: drawings not begun are
    dropped, those under way are waited for, and no thread is left.

    Args:
        patches: to draw from.
        first: step.
        ahead: batches drawn, each in a thread of its own, while the caller is busy with an earlier one; 0 for none.
    """
    if not ahead:
        yield from map(patches.batch, count(first))
    with ThreadPoolExecutor(ahead, thread_name_prefix="patches") as threads:
        try:
            drawn = deque(threads.submit(patches.batch, first + n) for n in range(ahead))
            for step in count(first + ahead):
                batch = drawn.popleft().result()
                drawn.append(threads.submit(patches.batch, step))
                yield batch
        finally:
            threads.shutdown(cancel_futures=True)
