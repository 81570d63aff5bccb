"""`Setting`: what a training is given besides its data."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from nnseg.core.plan import Plan
from nnseg.training.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Setting:
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
