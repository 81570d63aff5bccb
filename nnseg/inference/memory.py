"""RAM that a prediction takes, computed from the scan's grid before a voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnseg.core.geometry import Grid, Shape
from nnseg.inference.networks import NetworkGroup
from nnseg.inference.tiles import SLAB_VALUES, held_slices

READING = 12.0
"""Bytes per voxel and channel: as stored (up to float32), as float32, and a copy in canonical orientation."""

RESAMPLING = 12.0
"""Bytes per voxel of the larger grid: one channel, while it is normalized and resampled one axis after the other."""

WRITING = 12.0
"""Bytes per voxel: the label map, in the scan's own orientation, and as the file format holds it."""

ACTIVATIONS = 6.0
"""Feature maps of the finest stage's size that a network holds at once."""

OBJECTS = 27.0
"""Bytes per voxel: levels of label and interior, seeds, components and objects, and what the watershed holds."""

COMPONENTS = 25.0
"""Bytes per voxel where components of labels are objects: numbers of those of a label and of all, a mask, and what sums take.
The level of each label is one more."""

SLAB_COPIES = 3.0
"""Copies of the slices that are passed on at a time."""


def needed_gb(groups: Sequence[NetworkGroup], grid: Grid, *, uncertainty: bool = False, lesions: int = 0) -> float:
    """RAM in GB, beyond the idle process, that a prediction takes at most, from reading the scan to writing the label map.

    Args:
        groups: all networks of the ensemble.
        grid: of the scan, every voxel of which is assumed to be inside the crop.
        uncertainty: whether the uncertainty map is computed.
        lesions: number of labels whose connected components are objects.
    """
    voxels, shapes = math.prod(grid.shape), [group.plan.grid(grid.shape, grid.spacing).shape for group in groups]
    scan = 4.0 * voxels * len(groups[0].plan.channels)
    images = sum(4.0 * math.prod(shape) * group.plan.stored_channels for group, shape in zip(groups, shapes, strict=True))
    preprocessing = 3 * scan + images + RESAMPLING * max(voxels, *map(math.prod, shapes))
    sums = sum(_window_bytes(group, shape) for group, shape in zip(groups, shapes, strict=True))
    objects = OBJECTS * bool(groups[0].plan.labels.borders) + COMPONENTS * bool(lesions) + lesions
    outputs = (WRITING + 8 * uncertainty + objects) * voxels
    inference = scan + 2 * images + sums + max(_network_bytes(group) for group in groups) + outputs
    return max(scan * READING / 4.0, preprocessing, inference) / 1e9


def _window_bytes(group: NetworkGroup, shape: Shape) -> float:
    """Of the sums over tiles, the slices that are passed on, and the logits of a blank tile."""
    window, (padded, depth) = group.window, held_slices(shape, group.window)
    channels = window.heads * (1 if window.logits else len(group.networks)) + 2
    plane = math.prod(padded[1:]) * channels
    slab = plane * depth
    return 4.0 * (slab + SLAB_COPIES * min(slab, max(SLAB_VALUES, plane)) + math.prod(window.tile) * channels)


def _network_bytes(group: NetworkGroup) -> float:
    """Of tiles and activations in the network, if it computes in RAM."""
    window, plan = group.window, group.plan
    values = ACTIVATIONS * plan.network.features[0] + plan.input_channels + 4 * window.heads
    return 4.0 * window.batch * math.prod(window.tile) * values * (group.networks[0].device.type == "cpu")
