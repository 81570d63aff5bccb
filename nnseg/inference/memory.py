"""How much RAM a prediction takes, computed from the scan's grid before a voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.geometry import Grid
from nnseg.core.plan import Plan
from nnseg.inference.sliding_window import SLAB_VALUES, Tiling
from nnseg.inference.tiles import Window

READING = 12.0
"""Bytes a voxel and channel: as stored (up to float32), as float32, and a copy in canonical orientation."""

RESAMPLING = 12.0
"""Bytes a voxel, of the larger grid and of one channel: what is normalized and resampled, one axis after the other."""

WRITING = 12.0
"""Bytes a voxel: the label map, turned back, and as the file's format holds it."""

ACTIVATIONS = 6.0
"""Feature maps as large as the finest stage's that a network holds at once."""

HANDED = 3.0
"""Copies of the slices that are handed over at a time."""


@dataclass(frozen=True, kw_only=True)
class NetworkShare:
    """Networks that are shown the same tiles.

    Args:
        plan: of one of them.
        window: how tiles are cut.
        networks: how many they are.
        on_cpu: they compute in the machine's own memory.
    """

    plan: Plan
    window: Window
    networks: int
    on_cpu: bool

    def image_bytes(self, grid: Grid) -> float:
        """Of the preprocessed scan, all of which is taken to show something."""
        return 4.0 * math.prod(self._made(grid).shape) * self.plan.stored

    def preparing_bytes(self, grid: Grid) -> float:
        """While the scan is resampled, beside its result."""
        return RESAMPLING * max(math.prod(grid.shape), math.prod(self._made(grid).shape))

    def answering_bytes(self, grid: Grid) -> float:
        """Of sums over tiles, of what is handed over of them, and of the answer to a blank tile."""
        tiling = Tiling.of(self._made(grid).shape, self.window)
        channels = self.window.heads * (1 if self.window.logits else self.networks) + 2
        plane = math.prod(tiling.padded[1:]) * channels
        slab = plane * tiling.depth(self.window.tile[0])
        return 4.0 * (slab + HANDED * min(slab, max(SLAB_VALUES, plane)) + math.prod(self.window.tile) * channels)

    def tile_bytes(self) -> float:
        """Of tiles in the network."""
        values = ACTIVATIONS * self.plan.network.features[0] + self.plan.inputs + 4 * self.window.heads
        return 4.0 * self.window.batch * math.prod(self.window.tile) * values * self.on_cpu

    def _made(self, grid: Grid) -> Grid:
        return self.plan.grid(grid.shape, grid.spacing)


def needed_gb(shares: Sequence[NetworkShare], grid: Grid, *, uncertainty: bool = False) -> float:
    """RAM, beyond the idle process, that a scan on a grid takes at most from reading to writing.

    Args:
        shares: all networks that answer together.
        grid: of the scan.
        uncertainty: is asked for too.
    """
    voxels = math.prod(grid.shape)
    scan = 4.0 * voxels * len(shares[0].plan.channels)
    images = sum(share.image_bytes(grid) for share in shares)
    reading = scan * READING / 4.0
    preparing = 3 * scan + images + max(share.preparing_bytes(grid) for share in shares)
    sums = sum(share.answering_bytes(grid) for share in shares)
    answering = scan + 2 * images + sums + max(share.tile_bytes() for share in shares) + (WRITING + 8 * uncertainty) * voxels
    return max(reading, preparing, answering) / 1e9
