"""How a volume is cut into tiles, and how much each voxel of a tile counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from nnseg.core.labels import Pairs, permutation
from nnseg.core.plan import Steps

Flips = tuple[int, ...]
"""Axes of a tile (C, z, y, x) that are reversed in a mirrored copy."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a volume is cut into tiles, and what becomes of a network's answers to them.

    Args:
        patch: shape of a tile in voxels: two values for networks that see slices, along axis 0 of the volume; or three.
        heads: channels of the network's answer.
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes of the patch mirrored in all combinations.
        sigmoid: heads are regions, each with a probability of its own; otherwise they share one (softmax).
        logits: the answer is the mean of all networks' logits, as nnU-Net's is; otherwise that of their probabilities.
        swap_axis: axis of the patch from one side of the body to the other; None where no heads are swapped.
        swaps: pairs of heads that change places in copies mirrored along ``swap_axis``: left and right.
        previous_swaps: pairs of label indices that do in the image's last channel, if that is the previous answer of a cascade.
        batch: tiles, or mirrored copies of them, that go through the network together; changes speed and memory only.
        dtype: of autocast; float32 for none.
    """

    patch: Steps
    heads: int
    step: float = 0.5
    mirror_axes: Steps = ()
    sigmoid: bool = False
    logits: bool = False
    swap_axis: int | None = None
    swaps: Pairs = ()
    previous_swaps: Pairs = ()
    batch: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def tile(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of a tile, one slice thick for networks that see slices."""
        z, y, x = (1, *self.patch) if len(self.patch) == 2 else self.patch
        return z, y, x

    @property
    def steps(self) -> tuple[float, float, float]:
        """Distance of neighbouring tiles along (z, y, x) as a share of the tile; slices are all seen."""
        return (1.0 if len(self.patch) == 2 else self.step, self.step, self.step)

    @property
    def flips(self) -> tuple[Flips, ...]:
        """The axes of a tile (C, z, y, x) to reverse for each mirrored copy, the unmirrored first."""
        axes = [a + 4 - len(self.patch) for a in self.mirror_axes]
        return tuple(chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n))

    def mirrored(self, tile: Tensor, flips: Flips) -> Tensor:
        """A copy of a tile (C, z, y, x) as training shows mirrored patches."""
        tile = tile.flip(flips)
        if self.previous_swaps and self._crosses(flips):
            before = tile[-1].clone()
            for left, right in self.previous_swaps:
                tile[-1].masked_fill_(before == left, right).masked_fill_(before == right, left)
        return tile

    def mirrored_back(self, answer: Tensor, flips: Flips) -> Tensor:
        """The answer (K, z, y, x) to a mirrored copy, turned as the tile is."""
        return (answer[list(permutation(self.swaps, self.heads))] if self._crosses(flips) else answer).flip(flips)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (..., K, z, y, x)."""
        return torch.sigmoid(logits) if self.sigmoid else torch.softmax(logits, -4)

    def _crosses(self, flips: Flips) -> bool:
        """True for copies in which left is right."""
        return self.swap_axis is not None and self.swap_axis + 4 - len(self.patch) in flips


def importance(patch: Steps) -> Tensor:
    """The weight of each voxel of a tile, float32: a Gaussian around its centre with sigma patch/8, one at most and never zero."""
    weight = torch.ones((), dtype=torch.float64)
    for length in patch:
        distance = torch.arange(length, dtype=torch.float64) - length // 2
        weight = weight[..., None] * torch.exp(-0.5 * (distance / (length / 8)) ** 2)
    weight = weight.to(torch.float32)
    return weight.clamp(min=float(weight[weight > 0].min()))


def batch_for(patch: Steps, features: int, device: torch.device) -> int:
    """How many tiles to send through the network together.

    A CPU's caches want few values at a time. Measured in bfloat16 on one core: eight 40 x 56 x 40 tiles through a U-Net that starts
    with 16 features took 0.22 s one or two at once and 0.28 s all together; slices of 256 x 256 with 32 features are fastest
    alone, of 64 x 64 eight at once. A GPU wants to be filled; its numbers are an estimate, not measured.

    Args:
        patch: shape of a tile in voxels.
        features: channels of the network's finest stage, or its heads if those are more.
        device: where it computes.
    """
    values, most = (3_000_000, 8) if device.type == "cpu" else (100_000_000, 32)
    return max(1, min(most, values // (features * math.prod(patch))))
