"""What a training needs besides its data: plan, device, precision, and its rank among the processes that share it."""

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
"""How long ranks wait for one another: as long as rank 0 may preprocess. torchrun notices at once when a rank dies."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share a training; by default the only one.

    Args:
        rank: number of this process; only 0 writes and decides.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def share(self, batch_size: int) -> range:
        """The numbers, within a batch, of this rank's patches; the first ranks have one more if the division has a remainder."""
        patches, remainder = divmod(batch_size, self.size)
        first = self.rank * patches + min(self.rank, remainder)
        return range(first, first + patches + (self.rank < remainder))

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a value over all ranks, the same on each.

        Its gradient flows into this rank's part alone, times the number of ranks: averaged over the ranks, as
        `DistributedDataParallel` does, gradients are those of the sum.
        """
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        own = value * self.size
        return own + (total - own.detach())

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value on every rank; all ranks must call this at the same point."""
        if self.size == 1:
            return value
        values: list[Value] = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def wait(self) -> None:
        """Return when every rank has called this."""
        self.broadcast(None)


SINGLE_PROCESS = Ranks()


@contextmanager
def join_ranks(device: str) -> Iterator[tuple[Ranks, str]]:
    """The rank of this process and its device, if torchrun started it; else a single rank and the device as it is.

    Args:
        device: "auto", "cpu" or "cuda"; each rank of a machine uses another one of its GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    if size == 1 or not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS, device
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # true of channels-last weights, and harmless
    if dist.get_rank() > 0:
        logging.getLogger("nnseg").setLevel(logging.ERROR)
    ranks = Ranks(rank=dist.get_rank(), size=size)
    try:
        yield ranks, device
        ranks.wait()  # leave together: a rank whose connections end while others still work may abort
    finally:
        gc.collect()  # networks keep references to the group
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Plan, fold, device and precision of a training.

    Args:
        plan: all decisions.
        fold: part of the seed.
        device: to train on.
        dtype: for autocast; float32 means no autocast.
        ranks: the processes that share the training.
    """

    plan: Plan
    fold: int
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = SINGLE_PROCESS

    def autocast(self) -> AbstractContextManager[None]:
        """The context for the network's forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
