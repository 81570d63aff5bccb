"""`Setting`: what a training is given besides its data."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from nnseg.core.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a training is given besides its data.

    Args:
        plan: the decisions.
        fold: which fold, for the random draws.
        steps: of the whole schedule.
        device: to train on.
        dtype: of the arithmetic under autocast.
    """

    plan: Plan
    fold: int
    steps: int
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the network computes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
