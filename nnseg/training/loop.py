"""The training loop, one step after another, with batches drawn ahead in threads; callers save or stop in their ``for``."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import count

import torch

from nnseg.core.patch_growth import DRAWN_AHEAD, PatchGrowth
from nnseg.core.schedule import Epoch
from nnseg.system.machine import keep_freed_memory
from nnseg.training.learner import Learner
from nnseg.training.patches import Batch, Patches
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)


def prefetched(draw: Callable[[int], Batch], first: int, *, ahead: int) -> Generator[Batch, None, None]:
    """The batches of steps ``first``, ``first + 1``, ... without end, bit for bit as ``draw`` gives them.

    If the device's memory is too small to draw several batches at a time, they are drawn one by one from then on. Any other error
    in drawing a batch is raised when that batch is due. Closing the iterator waits for batches being drawn, and leaves no thread.

    Args:
        draw: returns the batch of a step.
        first: step.
        ahead: batches drawn in advance, each in a thread of its own; 0 for none.
    """
    step = first
    if ahead:
        try:
            with closing(_drawn_ahead(draw, first, ahead)) as batches:
                for batch in batches:
                    yield batch
                    step += 1
        except torch.OutOfMemoryError:
            log.warning("too little memory to draw %d batches ahead; they are drawn one by one from now on", ahead)
            torch.cuda.empty_cache()
    yield from map(draw, count(step))


def _drawn_ahead(draw: Callable[[int], Batch], first: int, ahead: int) -> Generator[Batch, None, None]:
    with ThreadPoolExecutor(ahead, thread_name_prefix="patches") as threads:
        try:
            drawn = deque(threads.submit(draw, first + n) for n in range(ahead))
            for step in count(first + ahead):
                batch = drawn.popleft().result()
                drawn.append(threads.submit(draw, step))
                yield batch
        finally:
            threads.shutdown(cancel_futures=True)


def take_steps(learner: Learner, patches: Patches, validation: Validation) -> Iterator[Epoch | None]:
    """Train to the end of the learner's course, yielding after each step: the epoch it was the last step of, else None.

    Between two steps the learner may be saved or given another course. A later call continues from its step.

    Raises:
        NnsegError: a loss or a gradient is not finite; names the patches.
    """
    context = learner.context
    epoch_steps, ahead = context.plan.training.epoch_steps, 0 if context.device.type == "cpu" else DRAWN_AHEAD
    growth = PatchGrowth(context.plan)

    def draw(step: int) -> Batch:
        return patches.batch(step, growth.size(step, learner.course).patch)

    start = time.perf_counter()
    with closing(prefetched(draw, learner.step, ahead=ahead)) as batches, memory_for(context.device):
        while learner.step < learner.course.steps:
            learner.take_step(next(batches))
            epoch = None
            if learner.step % epoch_steps == 0 or learner.step == learner.course.steps:
                epoch = _epoch(learner, validation, start)
                start = time.perf_counter()
            yield epoch


def memory_for(device: torch.device) -> AbstractContextManager[None]:
    """The context in which the allocator keeps memory between steps, which makes them faster on a CPU."""
    return keep_freed_memory() if device.type == "cpu" else nullcontext()


def _epoch(learner: Learner, validation: Validation, start: float) -> Epoch:
    context, course = learner.context, learner.course
    losses = tuple(float(f"{loss:.5g}") for loss in learner.losses())
    loss = learner.mean_loss()
    assert loss is not None
    return Epoch(
        number=math.ceil(learner.step / context.plan.training.epoch_steps),
        step=learner.step,
        steps=course.steps,
        loss=loss,
        learning_rate=learner.learning_rate(learner.step - 1),
        dice=context.ranks.broadcast(validation.estimate(learner.network, learner.weights()) if context.ranks.rank == 0 else {}),
        seconds=time.perf_counter() - start,
        total_seconds=learner.seconds,
        losses=losses,
        repeated_steps=sum(step >= learner.step - len(losses) for step in learner.repeated_steps),
    )
