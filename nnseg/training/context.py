"""What a training is given besides its data: plan, device, precision, and its place among several processes."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nnseg.core.plan import Plan

PATIENCE = timedelta(hours=12)
"""How long ranks wait for one another: for as long as rank 0 may preprocess. A rank that dies is noticed at once, by torchrun."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of the processes this is; by default the only one.

    Args:
        rank: number of this process, from 0, which alone writes and decides.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, batch_size: int) -> range:
        """The numbers, within a batch, of this rank's patches; the first ranks have one more where it does not come out even."""
        each, more = divmod(batch_size, self.size)
        first = self.rank * each + min(self.rank, more)
        return range(first, first + each + (self.rank < more))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over all ranks, the same on each.

        Its gradient flows into this rank's part alone, times the number of ranks: averaged over the ranks, as
        `DistributedDataParallel` does, gradients are those of the sum.
        """
        if self.size == 1:
            return value
        everyone = value.detach().clone()
        dist.all_reduce(everyone)
        own = value * self.size
        return own + (everyone - own.detach())

    def agreed(self, value: Value) -> Value:
        """What rank 0 says, on every rank; all must ask at the same point."""
        if self.size == 1:
            return value
        told: list[Value] = [value]
        dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        return told[0]

    def wait(self) -> None:
        """Return when every rank is here."""
        if self.size > 1:
            self.agreed(None)


ALONE = Ranks()
"""A training in one process."""


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """The ranks that torchrun started, and this one's device; a single rank if it did not.

    Args:
        device: "auto", "cpu", "cuda": each rank of a machine takes one of its GPUs, by its local number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's way to tell
    if size == 1 or not dist.is_torchelastic_launched():
        yield ALONE, device
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # true of channels-last weights, and of no matter
    if dist.get_rank() > 0:
        logging.getLogger("nnseg").setLevel(logging.ERROR)
    ranks = Ranks(rank=dist.get_rank(), size=size)
    try:
        yield ranks, device
        ranks.wait()  # leave together: a rank whose connections end while others still work may abort
    finally:
        gc.collect()  # networks hold on to the group
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a training is given besides its data.

    Args:
        plan: the decisions.
        fold: which fold, for the random draws.
        device: to train on.
        dtype: of the arithmetic under autocast.
        ranks: the processes that share the training.
    """

    plan: Plan
    fold: int
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the network computes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
