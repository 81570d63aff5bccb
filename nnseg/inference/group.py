"""Which of a model's networks are shown the same tiles, and how these are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nnseg.core.plan import Plan
from nnseg.core.sides import swapped_heads
from nnseg.inference.voter import Voter
from nnseg.inference.window import Window, batch_for
from nnseg.network.bundle import Member
from nnseg.network.device import autocast_dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Networks that are shown the same tiles.

    Args:
        key: of how their scans are preprocessed.
        plan: of one of them; all preprocess alike.
        voters: the networks.
        window: how the tiles are cut.
        weight: what each of them counts beside those of other groups.
    """

    key: str
    plan: Plan
    voters: tuple[Voter, ...]
    window: Window
    weight: float


def grouped(voters: Sequence[Voter], windows: Sequence[Window], *, by_plan: bool) -> tuple[Group, ...]:
    """The networks divided by the tiles that they are shown, by names and weights, and by their plans if asked for; in order of
    appearance.
    """
    found: dict[tuple[str, Window, float, str], list[Voter]] = {}
    for voter, window in zip(voters, windows, strict=True):
        plan, weight = voter.member.plan, voter.member.weight
        of = plan.key() if by_plan else plan.name
        found.setdefault((plan.key("preprocessing", "previous"), window, weight, of), []).append(voter)
    return tuple(
        Group(key=key, plan=voters[0].member.plan, voters=tuple(voters), window=window, weight=weight)
        for (key, window, weight, _), voters in found.items()
    )


def window_of(
    member: Member, device: torch.device, *, step: float | None = None, mirror: bool = True, classic: bool = False
) -> Window:
    """How a member's tiles are cut and sent through its network on a device."""
    plan = member.plan
    return Window(
        patch=plan.patch,
        heads=len(plan.labels.heads),
        step=plan.inference.step if step is None else step,
        mirror_axes=plan.inference.mirror_axes if mirror else (),
        sigmoid=bool(plan.labels.regions),
        logits=classic,
        swap_axis=plan.training.augmentation.swap_axis,
        swaps=swapped_heads(plan.labels, plan.training.augmentation.swapped_labels) or (),
        previous_swaps=plan.training.augmentation.swapped_labels if plan.previous else (),
        batch=batch_for(plan.patch, max(plan.network.features[0], len(plan.labels.heads)), device),
        dtype=torch.float32 if classic else autocast_dtype(device, plan.training.precision),
    )
