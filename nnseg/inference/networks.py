"""The networks of a model, each from tiles of preprocessed cases to logits, grouped by the plan they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnseg.core.labels import swapped_heads
from nnseg.core.plan import Plan
from nnseg.inference.tiles import Window, batch_for
from nnseg.network.build import network_input
from nnseg.network.bundle import Member, build
from nnseg.network.device import autocast_dtype


class MemberNetwork:
    """A member's network on a device.

    What a cascade is shown takes room only tile by tile.

    Args:
        member: whose network it is.
        network: takes tiles (B, C, *space) to logits (B, K, *space), or a list of them, finest first.
        device: where it computes.
        own: made the network from the plan, if it is one of one's own.
    """

    def __init__(
        self, member: Member, network: nn.Module, device: torch.device, own: Callable[[Plan], nn.Module] | None = None
    ) -> None:
        self.member, self.network, self.device, self._own = member, network, device, own

    @classmethod
    def of(cls, member: Member, device: torch.device, own: Callable[[Plan], nn.Module] | None = None) -> MemberNetwork:
        """A member made ready.

        Args:
            own: makes the network from the plan, if it is one of one's own.

        Raises:
            ModelError: the weights are not those of the network that the plan describes.
        """
        return cls(member, build(member, device, own), device, own)

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast on its device."""
        return autocast_dtype(self.device, self.member.plan.training.precision)

    def on(self, device: torch.device) -> MemberNetwork:
        """The same network on another device; this one stays where it is, and nothing more is held there."""
        return MemberNetwork.of(self.member, device, self._own)

    def __call__(self, tiles: Tensor, window: Window) -> Tensor:
        """Logits (B, K, z, y, x), float32, of tiles (B, C, z, y, x)."""
        tiles = network_input(tiles.to(self.device), self.member.plan)
        with torch.autocast(self.device.type, dtype=window.dtype, enabled=window.dtype != torch.float32):
            outputs = self.network(tiles.squeeze(2) if len(window.patch) == 2 else tiles)
        logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return (logits.unsqueeze(2) if len(window.patch) == 2 else logits).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkGroup:
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
    voters: tuple[MemberNetwork, ...]
    window: Window
    weight: float


def grouped(voters: Sequence[MemberNetwork], windows: Sequence[Window], *, by_plan: bool) -> tuple[NetworkGroup, ...]:
    """The networks divided by the tiles that they are shown, by names and weights, and by their plans if asked for; in order of
    appearance.
    """
    found: dict[tuple[str, Window, float, str], list[MemberNetwork]] = {}
    for voter, window in zip(voters, windows, strict=True):
        plan, weight = voter.member.plan, voter.member.weight
        of = plan.key() if by_plan else plan.name
        found.setdefault((plan.key("preprocessing", "previous"), window, weight, of), []).append(voter)
    return tuple(
        NetworkGroup(key=key, plan=voters[0].member.plan, voters=tuple(voters), window=window, weight=weight)
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
