"""The input that a plan's network takes."""

from __future__ import annotations

import torch
from torch import Tensor

from nnseg.core.plan import Plan


def network_input(image: Tensor, plan: Plan) -> Tensor:
    """A batch as the plan's network sees it: unchanged, but in a cascade.

    There the last channel is the previous answer, label indices; it becomes one channel of zeros and ones for each label but the
    background, because a label's number says nothing about it.

    Args:
        image: float32 (B, C, *space) of preprocessed cases, padding included: zero is the background.
        plan: whose network it is for.
    """
    if plan.previous is None:
        return image
    foreground = torch.arange(1, len(plan.labels.values), device=image.device).view(-1, *[1] * (image.ndim - 2))
    return torch.cat([image[:, :-1], (image[:, -1:] == foreground).to(image.dtype)], dim=1)
