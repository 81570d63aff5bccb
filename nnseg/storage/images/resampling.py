"""Volumes resampled from one grid onto another: sheared ones onto right angles and back, channels onto the first one's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Box, Grid, as_matrix, as_shape, as_vector
from nnseg.core.image import LabelMap

NEAR = 0.25
"""Largest distance in voxels of a label map from its image that counts as rounding, with a note."""

SAME_SPACING = 1e-2
"""Largest relative difference of the spacings of a part and of the whole, by rounding."""


def upright(grid: Grid) -> Grid:
    """The grid itself if its axes stand at right angles, else the one at right angles that covers its voxels.

    The two axes closest to a right angle are kept, so that slices of a tilted gantry only move within their planes.
    """
    if not grid.is_sheared:
        return grid
    direction = np.asarray(grid.direction)
    cosines = np.abs(direction @ direction.T)
    a, b, c = min(((1, 2, 0), (0, 2, 1), (0, 1, 2)), key=lambda axes: cosines[axes[0], axes[1]])
    axes = direction.copy()
    across = direction[b] - (direction[b] @ direction[a]) * direction[a]
    axes[b] = across / np.linalg.norm(across)
    normal = np.cross(axes[a], axes[b])
    axes[c] = normal * np.sign(normal @ direction[c])
    spacing = np.asarray(grid.spacing) * np.sum(direction * axes, axis=1)
    places = (grid.corners @ grid.steps + grid.origin) @ axes.T  # mm along the new axes
    low, high = places.min(axis=0), places.max(axis=0)
    shape = np.ceil((high - low) / spacing - 1e-3).astype(int) + 1
    return Grid(shape=as_shape(shape), spacing=as_vector(spacing), origin=as_vector(low @ axes), direction=as_matrix(axes))


def upright_label_map(label_map: LabelMap) -> LabelMap:
    """A label map on the `upright` grid of its own, each voxel with the nearest value; 0 outside."""
    grid = upright(label_map.grid)
    if grid == label_map.grid:
        return label_map
    return LabelMap(labels=resampled(label_map.labels, label_map.grid, grid, order=0), grid=grid)


def resampled(voxels: npt.NDArray[Any], grid: Grid, onto: Grid, *, order: int, outside: float = 0.0) -> npt.NDArray[Any]:
    """A volume (Z, Y, X) on another grid.

    Args:
        voxels: on ``grid``.
        order: 0 takes the nearest voxel, 1 interpolates linearly.
        outside: the value of voxels that ``grid`` does not cover.
    """
    back = np.linalg.inv(grid.steps)
    turned, moved = (onto.steps @ back).T, (np.asarray(onto.origin) - grid.origin) @ back
    mode = "grid-constant"  # with "constant", a rounding error would put a whole border outside
    result: npt.NDArray[Any] = ndimage.affine_transform(voxels, turned, moved, onto.shape, order=order, mode=mode, cval=outside)
    return result


def share_inside(grid: Grid, other: Grid) -> float:
    """The share of a grid's voxels that lie within another's."""
    points = np.stack(np.meshgrid(*(np.linspace(0, n - 1, min(n, 20)) for n in grid.shape), indexing="ij"), -1).reshape(-1, 3)
    there = (points @ grid.steps + grid.origin - np.asarray(other.origin)) @ np.linalg.inv(other.steps)
    return float(np.mean(np.all((there >= -0.5) & (there <= np.asarray(other.shape) - 0.5), axis=1)))


def find_place(path: Path, part: Grid, whole: Grid) -> Box | None:
    """Where a volume lies in another of the same spacing and directions, whole voxels away; None for another grid, or all of it.

    Args:
        path: of the part, that messages name.

    Raises:
        ScanError: it lies partly outside.
    """
    if part.shape == whole.shape:
        return None
    start = as_shape(np.rint((np.asarray(part.origin) - whole.origin) @ np.linalg.inv(whole.steps)))
    aligned = replace(whole, shape=part.shape, origin=whole.world(as_vector(start)))
    if aligned.largest_gap(part) > NEAR * min(whole.spacing) or not np.allclose(part.spacing, whole.spacing, rtol=SAME_SPACING):
        return None
    stop = as_shape(np.add(start, part.shape))
    if min(start) < 0 or any(end > n for end, n in zip(stop, whole.shape, strict=True)):
        found = f"covers voxels {start} to {stop} (z, y, x) of its image, which has {whole.shape}"
        raise ScanError.at(path, found, "a part of the image", "export the label map on the grid of its own image", "NS-L010")
    return Box(start=start, stop=stop)
