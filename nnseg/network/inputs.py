"""The input that a plan's network takes."""

from __future__ import annotations

import torch
from torch import Tensor

from nnseg.core.plan import Plan


def network_input(image: Tensor, plan: Plan) -> Tensor:
    """A batch for the plan's network: unchanged, except in a cascade.

    There the last channel has the label indices of the previous stage's segmentation; it becomes one channel of zeros and ones for
    each label but the background, because the values of indices have no meaning.

    Args:
        image: float32 (B, C, *space) of preprocessed cases, padded with zeros, the background.
        plan: of the network.

    Returns:
        float32 (B, ``plan.input_channels``, *space).
    """
    if plan.previous is None:
        return image
    foreground = torch.arange(1, len(plan.labels.values), device=image.device).view(-1, *[1] * (image.ndim - 2))
    return torch.cat([image[:, :-1], (image[:, -1:] == foreground).to(image.dtype)], dim=1)
