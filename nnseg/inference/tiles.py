"""How a volume is cut into tiles, and the weight of each voxel of a tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from nnseg.core.geometry import count_tiles, in_space, tile_starts
from nnseg.core.labels import Pairs, swap_order
from nnseg.core.plan import Steps

Box = tuple[slice, slice, slice]
Flips = tuple[int, ...]
"""Axes of a tile (C, z, y, x) that are reversed in a mirrored copy."""

SLAB_VALUES = 32_000_000
"""Values, over all channels, of the finished slices that are passed on at a time."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a volume is cut into tiles, and how the logits of the tiles are combined.

    Args:
        patch: shape of a tile in voxels: three values, or two for 2D networks, which see slices along axis 0 of the volume.
        heads: output channels of the network.
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes of the patch mirrored in all combinations.
        sigmoid: heads are regions with independent probabilities (sigmoid); otherwise exclusive labels (softmax).
        logits: networks are combined by the mean of their logits, as in nnU-Net; otherwise by that of their probabilities.
        swap_axis: left-right axis of the patch; None where no heads are swapped.
        swaps: pairs of heads (left and right) that are exchanged in copies mirrored along ``swap_axis``.
        previous_swaps: pairs of label indices that are exchanged in the image's last channel, the previous stage of a cascade.
        batch: tiles, or mirrored copies of them, in one forward pass; changes speed and memory only.
        dtype: of autocast; float32 for none.
        slices: of the volume that a 2D network sees at once, as channels.
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
    slices: int = 1

    @property
    def tile(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of a tile, one slice thick for 2D networks."""
        return in_space(self.patch)

    @property
    def steps(self) -> tuple[float, float, float]:
        """Distance of neighbouring tiles along (z, y, x) as a share of the tile; 2D networks see every slice."""
        return (1.0 if len(self.patch) == 2 else self.step, self.step, self.step)

    @property
    def flips(self) -> tuple[Flips, ...]:
        """The axes of a tile (C, z, y, x) to reverse for each mirrored copy, the unmirrored first."""
        axes = [a + 4 - len(self.patch) for a in self.mirror_axes]
        return tuple(chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n))

    def mirrored(self, tile: Tensor, flips: Flips) -> Tensor:
        """A mirrored copy of a tile (C, z, y, x), as in training."""
        tile = tile.flip(flips)
        if self.previous_swaps and self._swaps_sides(flips):
            before = tile[-1].clone()
            for left, right in self.previous_swaps:
                tile[-1].masked_fill_(before == left, right).masked_fill_(before == right, left)
        return tile

    def mirrored_back(self, logits: Tensor, flips: Flips) -> Tensor:
        """The logits (K, z, y, x) of a mirrored copy, in the tile's orientation."""
        return (logits[self.head_order(flips)] if self._swaps_sides(flips) else logits).flip(flips)

    def head_order(self, flips: Flips) -> list[int]:
        """The heads of a mirrored copy that are those of the tile, in its order: left and right may be exchanged."""
        return list(swap_order(self.swaps if self._swaps_sides(flips) else (), self.heads))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (..., K, z, y, x) of logits of that shape."""
        return torch.sigmoid(logits) if self.sigmoid else torch.softmax(logits, -4)

    def _swaps_sides(self, flips: Flips) -> bool:
        """True for copies in which left and right are exchanged."""
        return self.swap_axis is not None and self.swap_axis + 4 - len(self.patch) in flips


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Positions of the tiles of a volume.

    Args:
        layers: first slices of the tiles that are summed up together.
        corners: first row and column of each tile of a layer.
        before: slices, rows and columns of padding before a volume that is smaller than a tile.
        padded: shape (z, y, x) of the volume with its padding.
    """

    layers: tuple[tuple[int, ...], ...]
    corners: tuple[tuple[int, int], ...]
    before: tuple[int, int, int]
    padded: tuple[int, int, int]

    @classmethod
    def of(cls, shape: Sequence[int], window: Window) -> Tiling:
        """The tiling of a volume of ``shape`` (z, y, x)."""
        missing = [max(t - n, 0) for t, n in zip(window.tile, shape, strict=True)]
        z, y, x = (n + m for n, m in zip(shape, missing, strict=True))
        depths, rows, columns = (tile_starts(n, t, s) for n, t, s in zip((z, y, x), window.tile, window.steps, strict=True))
        together = _layers_together(window, len(rows) * len(columns))
        return cls(
            layers=tuple(depths[i : i + together] for i in range(0, len(depths), together)),
            corners=tuple(product(rows, columns)),
            before=(missing[0] // 2, missing[1] // 2, missing[2] // 2),
            padded=(z, y, x),
        )

    def boxes(self, layer: Sequence[int], tile: Sequence[int]) -> list[Box]:
        """The tiles of a layer, for tiles of this shape (z, y, x)."""
        d, h, w = tile
        return [(slice(z, z + d), slice(y, y + h), slice(x, x + w)) for z in layer for y, x in self.corners]

    def depth(self, tile: int) -> int:
        """Number of slices that are held at once, for tiles of this depth."""
        return max(layer[-1] - layer[0] for layer in self.layers) + tile


def held_slices(shape: Sequence[int], window: Window) -> tuple[tuple[int, int, int], int]:
    """Padded shape of a volume, and the number of slices that are held at once, as of its `Tiling`, without listing the tiles."""
    z, y, x = (max(t, n) for t, n in zip(window.tile, shape, strict=True))
    depths, rows, columns = (count_tiles(n, t, s) for n, t, s in zip((z, y, x), window.tile, window.steps, strict=True))
    room, together = z - window.tile[0], _layers_together(window, rows * columns)
    between = math.ceil((together - 1) * room / max(depths - 1, 1))
    return (z, y, x), min(between, room) + window.tile[0]


def _layers_together(window: Window, corners: int) -> int:
    """Layers of tiles that are summed up together: a few small slices do not fill a batch."""
    return max(1, window.batch // (corners * len(window.flips))) if window.tile[0] == 1 else 1


def importance(patch: Steps) -> Tensor:
    """The weight of each voxel of a tile, float32: a Gaussian around its centre, sigma an eighth of the patch, in (0, 1]."""
    weight = torch.ones((), dtype=torch.float64)
    for length in patch:
        weight = weight[..., None] * gaussian(length)
    weight = weight.to(torch.float32)
    return weight.clamp(min=float(weight[weight > 0].min()))


def gaussian(length: int) -> Tensor:
    """A Gaussian around the middle of an axis, float64, sigma an eighth of its length, 1 in the middle."""
    distance = torch.arange(length, dtype=torch.float64) - length // 2
    return torch.exp(-0.5 * (distance / (length / 8)) ** 2)


def batch_for(patch: Steps, features: int, device: torch.device) -> int:
    """The number of tiles in one forward pass.

    Few values at a time suit a CPU's caches. Measured in bfloat16 on one core: eight 40 x 56 x 40 tiles through a U-Net with 16
    features took 0.22 s one or two at once and 0.28 s all together; slices of 256 x 256 with 32 features are fastest alone, of
    64 x 64 eight at once. The numbers for a GPU are an estimate, not measured.

    Args:
        patch: shape of a tile in voxels.
        features: channels of the network's finest stage, or its heads if those are more.
        device: where it computes.
    """
    values, most = (3_000_000, 8) if device.type == "cpu" else (100_000_000, 32)
    return max(1, min(most, values // (features * math.prod(patch))))
