"""How much RAM a prediction takes, computed from the scan's grid before a voxel is read."""

from __future__ import annotations

import math

from nnseg.core.geometry import Grid
from nnseg.core.plan import Plan
from nnseg.inference.sliding_window import SLAB_VALUES, Tiling
from nnseg.inference.window import Window

READING = 12.0
"""Bytes a voxel and channel: as stored (up to float32), as float32, and a copy in canonical orientation."""

RESAMPLING = 32.0
"""Bytes a voxel, of the larger grid and of one channel: a spline's coefficients and its result in float64, and their copies."""

WRITING = 12.0
"""Bytes a voxel: the label map, turned back, and as the file's format holds it."""

ACTIVATIONS = 6.0
"""Feature maps as large as the finest stage's that a network holds at once."""


def needed(plan: Plan, window: Window, grid: Grid, *, networks: int, on_cpu: bool) -> float:
    """GB that a scan on a grid takes at most, beyond the idle process.

    Args:
        plan: that it is predicted by.
        window: how its tiles are cut.
        grid: of the scan, all of which is taken to show something.
        networks: that answer together.
        on_cpu: the networks compute in the same memory.
    """
    voxels, channels = math.prod(grid.shape), len(plan.channels)
    made = plan.grid(grid.shape, grid.spacing)
    image = 4.0 * math.prod(made.shape) * plan.inputs
    held = 4.0 * voxels * channels  # the scan, until it is written
    reading = READING * voxels * channels
    preprocessing = held * 2 + image + RESAMPLING * max(voxels, math.prod(made.shape))
    tiling = Tiling.of(made.shape, window)
    slab = math.prod((tiling.depth(window.tile[0]), *tiling.padded[1:]))
    channels_held = window.heads * (1 if window.logits else networks) + 2
    plane = math.prod(tiling.padded[1:]) * channels_held
    sums = 4.0 * (slab * channels_held + 3 * min(slab * channels_held, max(SLAB_VALUES, plane)))
    tiles = 4.0 * window.batch * math.prod(window.tile) * (ACTIVATIONS * plan.network.features[0] + 4 * window.heads)
    network = held + 2 * image + sums + tiles * on_cpu + WRITING * voxels
    return max(reading, preprocessing, network) / 1e9
