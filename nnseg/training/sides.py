"""Left and right in training patches: labels change places where a patch was flipped across the midline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnseg.core.plan import Plan
from nnseg.core.sides import permutation
from nnseg.training.pose import Pose


def swap_labels(labels: Tensor, poses: Sequence[Pose], plan: Plan) -> None:
    """Change, in place, left into right and right into left in the patches whose poses mirror them.

    Args:
        labels: (B, Z, Y, X), label indices of any type, -1 where ignored.
        poses: of each patch.
        plan: its augmentation says which labels, and along which axis.
    """
    crossed = _crossed(poses, plan)
    if crossed:
        table = torch.tensor([*_order(plan), -1], dtype=labels.dtype).to(labels.device, non_blocking=True)
        for patch in crossed:
            labels[patch] = table[labels[patch].long()]  # the last entry is also that of -1


def swap_known(known: Tensor, poses: Sequence[Pose], plan: Plan) -> Tensor:
    """Which labels were annotated, bool (B, labels), after left and right changed places in the patches that mirror them."""
    known = known.clone()
    for patch in _crossed(poses, plan):
        known[patch] = known[patch][list(_order(plan))]
    return known


def _crossed(poses: Sequence[Pose], plan: Plan) -> list[int]:
    axis = plan.training.augmentation.swap_axis
    return [] if axis is None else [n for n, pose in enumerate(poses) if axis + 3 - plan.dimensions in pose.mirrored]


def _order(plan: Plan) -> tuple[int, ...]:
    return permutation(plan.training.augmentation.swapped_labels, len(plan.labels.values))
