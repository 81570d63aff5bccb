"""One network of a model at work: from tiles of preprocessed cases to logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nnseg.core.plan import Plan
from nnseg.inference.window import Window
from nnseg.network.bundle import Member, build
from nnseg.network.device import autocast_dtype
from nnseg.network.inputs import network_input


class Voter:
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
    def of(cls, member: Member, device: torch.device, own: Callable[[Plan], nn.Module] | None = None) -> Voter:
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

    def on(self, device: torch.device) -> Voter:
        """The same network on another device; this one stays where it is, and nothing more is held there."""
        return Voter.of(self.member, device, self._own)

    def __call__(self, tiles: Tensor, window: Window) -> Tensor:
        """Logits (B, K, z, y, x), float32, of tiles (B, C, z, y, x)."""
        tiles = network_input(tiles.to(self.device), self.member.plan)
        with torch.autocast(self.device.type, dtype=window.dtype, enabled=window.dtype != torch.float32):
            outputs = self.network(tiles.squeeze(2) if len(window.patch) == 2 else tiles)
        logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return (logits.unsqueeze(2) if len(window.patch) == 2 else logits).float()
