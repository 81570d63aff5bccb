"""Diameters of objects: the largest in space, the largest within a slice, and the largest at right angles to that.

The surface of an object lies halfway between the centres of neighbouring voxels inside and outside, along each axis, as that of a
marching cubes mesh does; one voxel of 1 mm has a diameter of 1 mm. The points of the surface that are farthest apart are corners
of their convex hull, so that nothing is approximated beyond the voxels themselves.

Source: perpendicular diameters and their product, Macdonald et al. 1990, doi:10.1200/JCO.1990.8.7.1277, and RANO, Wen et al. 2010,
doi:10.1200/JCO.2009.26.3541; the longest diameter, RECIST 1.1, Eisenhauer et al. 2009, doi:10.1016/j.ejca.2008.10.026; halfway
points, as of the Feret diameter of scikit-image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from nnseg.core.geometry import Grid
from nnseg.core.image import Integers

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SAME_SPACING = 1.01
"""Ratio of the two largest spacings up to which slices are those of the file."""

EQUAL = 1e-9
"""Relative difference of lengths that count as equal."""

BLOCK = 512
"""Points whose distances to all others are computed at once."""


@dataclass(frozen=True, kw_only=True)
class Diameters:
    """The diameters of an object in mm.

    Args:
        longest: largest distance of two points of its surface.
        in_slice: the same within one slice, of the slice where it is largest.
        perpendicular: the longest line through the convex hull of that slice's outline at right angles to ``in_slice``.
    """

    longest: float
    in_slice: float
    perpendicular: float

    @property
    def product(self) -> float:
        """Of both diameters within the slice, mm²."""
        return self.in_slice * self.perpendicular


def slice_axis(stored: Grid) -> int:
    """The axis of a stored grid across which slices were acquired: with the largest spacing, of equal ones the file's first.

    Example:
        ``slice_axis(Grid(shape=(9, 9, 9), spacing=(1.0, 3.0, 1.0))) == 1``
    """
    if 1 in stored.shape:
        return stored.shape.index(1)
    order = sorted(range(3), key=lambda axis: -stored.spacing[axis])
    return order[0] if stored.spacing[order[0]] > SAME_SPACING * stored.spacing[order[1]] else 0


def object_diameters(numbers_ZYX: Integers, grid: Grid, axis: int) -> list[Diameters]:
    """The diameters of each object.

    Args:
        numbers_ZYX: from 1 to n, each at least once; 0 where there is none.
        grid: of the numbers; its axes may be oblique and sheared.
        axis: across the slices.

    Example:
        ``object_diameters(np.ones((1, 1, 3), int), Grid(shape=(1, 1, 3)), 0)[0].in_slice == 3.0``
    """
    boxes = ndimage.find_objects(numbers_ZYX if numbers_ZYX.dtype != np.uint32 else numbers_ZYX.astype(np.int64))
    return [measure_diameters(numbers_ZYX[box] == number, grid, axis) for number, box in enumerate(boxes, 1)]


def diameter_table(numbers_ZYX: Integers, stored: Grid) -> npt.NDArray[np.float64]:
    """Diameters (n, 3) in mm of each object of a stored image: the longest, that within a slice, that perpendicular to it."""
    found = object_diameters(numbers_ZYX, stored, slice_axis(stored))
    return np.array([(one.longest, one.in_slice, one.perpendicular) for one in found]).reshape(-1, 3)


def measure_diameters(mask_ZYX: Mask, grid: Grid, axis: int) -> Diameters:
    """The diameters of one object, which has at least one voxel.

    Args:
        mask_ZYX: a part of the grid, or all of it.
        grid: whose shape does not matter but for its axes of a single voxel, across which an object has no extent.
        axis: across the slices.
    """
    in_slice, perpendicular = max(_of_slices(mask_ZYX, grid, axis))
    if grid.shape[axis] == 1:
        return Diameters(longest=in_slice, in_slice=in_slice, perpendicular=perpendicular)
    corners = _hull(_surface(_ends_of_rows(mask_ZYX), grid.steps))
    longest = max(float(cdist(corners[i : i + BLOCK], corners).max()) for i in range(0, len(corners), BLOCK))
    return Diameters(longest=longest, in_slice=in_slice, perpendicular=perpendicular)


def _of_slices(mask: Mask, grid: Grid, axis: int) -> Iterator[tuple[float, float]]:
    """Longest and perpendicular diameter of each slice that has a part of the object."""
    rows, columns = (grid.steps[other] for other in range(3) if other != axis)
    along = rows / np.linalg.norm(rows)
    across = columns - (columns @ along) * along
    plane = np.stack([along, across / np.linalg.norm(across)], 1)
    steps = np.stack([rows, columns]) @ plane
    for part in np.moveaxis(mask, axis, 0):
        if part.any():
            yield _of_outline(_hull(_surface(_ends_of_rows(part), steps)))


def _ends_of_rows(mask: Mask) -> Points:
    """Indices of the first and the last voxel of each row along the last axis, among which are all corners of the convex hull."""
    filled = mask.any(-1)
    first = mask.argmax(-1)[filled]
    last = mask.shape[-1] - 1 - mask[..., ::-1].argmax(-1)[filled]
    rows = np.argwhere(filled)
    return np.concatenate([np.column_stack([rows, ends]) for ends in (first, last)]).astype(float)


def _surface(indices: Points, steps: Points) -> Points:
    """Points in mm half a voxel away from voxels along each axis, both ways.

    Args:
        indices: (n, axes) of voxels.
        steps: (axes, axes) mm from one voxel to the next.
    """
    halves = np.concatenate([0.5 * steps, -0.5 * steps])
    surface: Points = (indices @ steps)[:, None] + halves[None]
    return surface.reshape(-1, steps.shape[1])


def _hull(points: Points) -> Points:
    """Corners of the convex hull; of points in a plane one after another around it."""
    corners: Points = points[ConvexHull(points).vertices]
    return corners


def _of_outline(corners: Points) -> tuple[float, float]:
    """Longest and perpendicular diameter of a convex polygon; of several longest ones that with the longest perpendicular."""
    distances = cdist(corners, corners)
    longest = float(distances.max())
    pairs = np.argwhere(np.triu(distances >= longest * (1 - EQUAL)))
    return longest, max(_across(corners, first, last) for first, last in pairs)


def _across(corners: Points, first: int, last: int) -> float:
    """The longest line through a convex polygon at right angles to its diameter from one corner to another.

    The length of such a line changes linearly between corners, so that it is longest at one of them.
    """
    along = (corners[last] - corners[first]) / np.linalg.norm(corners[last] - corners[first])
    places = (corners - corners[first]) @ np.stack([along, [-along[1], along[0]]], 1)
    there, back = places[first : last + 1], np.concatenate([places[last:], places[: first + 1]])[::-1]
    at = places[:, 0]
    widths = np.abs(np.interp(at, *there.T) - np.interp(at, *back.T))
    return float(widths.max())
