"""Positions of voxels: `Grid`, `Box`, and `Placement` of the network's grid in the scan.

Axis order is array order ``(z, y, x)`` everywhere. World coordinates are millimetres in LPS, component order ``(x, y, z)``
(the DICOM and ITK convention). A 2D image is a grid whose first axis has one voxel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import short_repr

T = TypeVar("T")
Shape = tuple[int, int, int]
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
Axes = tuple[int, int, int]

SHEAR_LIMIT = 1e-3
"""Largest cosine between two axes of a grid that counts as rounding of a right angle."""

HEADER_ROUNDING = 1e-3
"""Largest difference of direction cosines, and relative difference of spacings, that counts as rounding in headers."""

IDENTITY: Matrix = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Direction of a canonical grid: axis z points to +S, y to +P, x to +L."""

PLANES = ("axial", "coronal", "sagittal")
"""Of the slices across the axes z, y and x of a canonical grid."""

TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are connected (26 neighbours, 8 in a single slice), as in nnU-Net: a thin oblique vessel is one."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The world positions of a volume's voxels.

    Args:
        shape: voxels along (z, y, x).
        spacing: mm between voxel centres along (z, y, x), positive.
        origin: world position (x, y, z) in mm of voxel (0, 0, 0).
        direction: three unit vectors in the world; row ``a`` points along array axis ``a``.
    """

    shape: Shape
    spacing: Vector = (1.0, 1.0, 1.0)
    origin: Vector = (0.0, 0.0, 0.0)
    direction: Matrix = IDENTITY

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"a grid needs at least one voxel along each axis, not {self.shape}")
        if not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0:
            raise ValueError(f"spacing must be positive, not {self.spacing}")

    @property
    def is_2d(self) -> bool:
        """True for one slice."""
        return self.shape[0] == 1

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres; of a sheared one base times height."""
        volume = float(np.prod(self.spacing))
        return (volume * abs(float(np.linalg.det(self.direction))) if self.is_sheared else volume) / 1000.0

    @property
    def steps(self) -> npt.NDArray[np.float64]:
        """(3, 3) mm; row ``a`` leads from one voxel to the next along array axis ``a``, in world components (x, y, z)."""
        return np.asarray(np.asarray(self.direction) * np.asarray(self.spacing)[:, None])

    @property
    def corners(self) -> npt.NDArray[np.int64]:
        """(8, 3) indices (z, y, x) of the corner voxels."""
        return np.stack(np.meshgrid(*([0, n - 1] for n in self.shape), indexing="ij"), -1).reshape(-1, 3)

    @property
    def shear(self) -> float:
        """The largest cosine between two axes: 0 at right angles."""
        direction = np.asarray(self.direction)
        return float(np.max(np.abs(direction @ direction.T - np.eye(3))))

    @property
    def is_sheared(self) -> bool:
        """True if the axes are not at right angles, as of a CT with a tilted gantry."""
        return self.shear > SHEAR_LIMIT

    def world(self, index: Vector) -> Vector:
        """World position (x, y, z) in mm of a voxel index (z, y, x), which may be fractional."""
        steps = np.asarray(index, float) * np.asarray(self.spacing)
        return as_vector(np.asarray(self.origin) + steps @ np.asarray(self.direction))

    def canonical(self) -> Reorientation:
        """The axis permutation and flips that bring this grid closest to `IDENTITY`."""
        alignment = np.asarray(self.direction) @ np.asarray(IDENTITY).T  # [own axis, canonical axis]
        axes, flips = [0, 0, 0], [False, False, False]
        rest = np.abs(alignment).copy()
        for _ in range(3):  # the best-aligned pair first, so that no axis is used twice
            own, target = np.unravel_index(int(np.argmax(rest)), rest.shape)
            axes[target], flips[target] = int(own), bool(alignment[own, target] < 0)
            rest[own, :] = rest[:, target] = -1.0
        return Reorientation(axes=as_shape(axes), flips=(flips[0], flips[1], flips[2]))

    def reoriented(self, turn: Reorientation) -> Grid:
        """This grid with axes permuted and flipped; every voxel keeps its world position."""
        last = [n - 1 for n in self.shape]
        corner = [0.0, 0.0, 0.0]
        for axis, flip in zip(turn.axes, turn.flips, strict=True):
            corner[axis] = float(last[axis]) if flip else 0.0
        rows = [np.asarray(self.direction[a]) * (-1.0 if f else 1.0) for a, f in zip(turn.axes, turn.flips, strict=True)]
        return Grid(
            shape=_permute(self.shape, turn.axes),
            spacing=_permute(self.spacing, turn.axes),
            origin=self.world(as_vector(corner)),
            direction=as_matrix(rows),
        )

    def matches(self, other: Grid, tolerance: float = 0.01) -> bool:
        """True if both have the same shape and no corner voxel lies further apart than ``tolerance`` voxels."""
        return self.shape == other.shape and self.largest_gap(other) <= tolerance * min(self.spacing)

    def largest_gap(self, other: Grid) -> float:
        """The largest distance in mm between corresponding corner voxels of two grids of equal shape."""
        here, there = (grid.corners @ grid.steps + grid.origin for grid in (self, other))
        return float(np.max(np.linalg.norm(here - there, axis=1)))

    def agrees(self, other: Grid, tolerance: float) -> bool:
        """As `matches`, with headers that are rounded: of large grids corners may lie further apart."""
        return self.shape == other.shape and self.gap_beside_rounding(other) <= tolerance * min(self.spacing)

    def gap_beside_rounding(self, other: Grid) -> float:
        """The `largest_gap`; where directions and spacings agree but for rounding, the smallest gap of corners and centres."""
        turned = float(np.abs(np.subtract(self.direction, other.direction)).max())
        if turned > HEADER_ROUNDING or not np.allclose(self.spacing, other.spacing, rtol=HEADER_ROUNDING, atol=0):
            return self.largest_gap(other)
        places = np.vstack([self.corners, (np.asarray(self.shape) - 1) / 2])
        here, there = (places @ grid.steps + grid.origin for grid in (self, other))
        return float(np.min(np.linalg.norm(here - there, axis=1)))

    def resampled(self, spacing: Vector) -> Grid:
        """The grid of the same extent with another spacing; its shape is rounded half to even, at least one voxel."""
        shape = [
            max(1, round(min(n * old / new, MOST_ALONG_AXIS)))
            for n, old, new in zip(self.shape, self.spacing, spacing, strict=True)
        ]
        return replace(self, shape=as_shape(shape), spacing=spacing)


@dataclass(frozen=True, kw_only=True)
class Reorientation:
    """An axis permutation followed by flips. New axis ``a`` is old axis ``axes[a]``, reversed where ``flips[a]``."""

    axes: Axes = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of ``voxels`` (..., z, y, x) in the new orientation."""
        lead = voxels.ndim - 3
        turned = voxels.transpose(*range(lead), *(lead + a for a in self.axes))
        flipped: tuple[Any, ...] = tuple(slice(None, None, -1 if f else 1) for f in self.flips)
        return turned[(..., *flipped)]

    def inverse(self) -> Reorientation:
        """The reorientation that undoes this one."""
        axes, flips = [0, 0, 0], [False, False, False]
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            axes[old], flips[old] = new, flip
        return Reorientation(axes=as_shape(axes), flips=(flips[0], flips[1], flips[2]))


@dataclass(frozen=True, kw_only=True)
class Box:
    """A block of voxels: ``start`` inclusive, ``stop`` exclusive, (z, y, x)."""

    start: Shape
    stop: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Self:
        """The box that covers a volume of ``shape``."""
        return cls(start=(0, 0, 0), stop=shape)

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return as_shape([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array (z, y, x)."""
        a, b, c = (slice(lo, hi) for lo, hi in zip(self.start, self.stop, strict=True))
        return a, b, c


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The network's grid in the scan, as `restore` needs it.

    Args:
        scan: the grid of the (canonical) scan.
        crop: the part of the scan that was kept.
        axes: network axis ``a`` is scan axis ``axes[a]``.
        shape: voxels of the network's grid, in network axis order.
        spacing: mm of the network's grid, in network axis order.
    """

    scan: Grid
    crop: Box
    axes: Axes
    shape: Shape
    spacing: Vector

    __repr__ = short_repr

    @property
    def cropped_shape(self) -> Shape:
        """Shape of the cropped scan in network axis order, before resampling."""
        return _permute(self.crop.shape, self.axes)

    @property
    def back(self) -> Axes:
        """The permutation that undoes ``axes``."""
        return as_shape(np.argsort(self.axes))


def as_vector(values: Iterable[float]) -> Vector:
    """Three numbers as floats; NumPy's or Python's."""
    a, b, c = (float(v) for v in values)
    return a, b, c


def as_shape(values: Iterable[int]) -> Shape:
    """Three whole numbers; NumPy's or Python's."""
    a, b, c = (int(v) for v in values)
    return a, b, c


MOST_ALONG_AXIS = 2.0**48
"""Voxels along an axis of a grid that is computed; no memory holds as many, and their number stays finite."""


def in_space(sizes: Sequence[int]) -> Shape:
    """Sizes along (z, y, x) of a patch: one of two axes is one slice."""
    return as_shape((*(1,) * (3 - len(sizes)), *sizes))


def format_axes(values: Iterable[float], form: str = "g") -> str:
    """Numbers along axes as text: "40 x 56 x 40"."""
    return " x ".join(f"{value:{form}}" for value in values)


def as_matrix(rows: Iterable[Iterable[float]]) -> Matrix:
    """Three vectors."""
    a, b, c = (as_vector(row) for row in rows)
    return a, b, c


def _permute(values: tuple[T, T, T], axes: Axes) -> tuple[T, T, T]:
    return values[axes[0]], values[axes[1]], values[axes[2]]


def tile_starts(length: int, patch: int, step: float) -> tuple[int, ...]:
    """First voxels of the fewest evenly spaced tiles that cover an axis and are at most a step apart.

    Source: nnU-Net. 512 voxels, tiles of 128 and a step of 0.5 give (0, 64, 128, 192, 256, 320, 384).

    Args:
        length: voxels of the axis, at least ``patch``.
        patch: voxels of a tile.
        step: largest distance of neighbouring tiles as a share of ``patch``.
    """
    room, count = length - patch, count_tiles(length, patch, step)
    return tuple(round(room / max(count - 1, 1) * i) for i in range(count))


def count_tiles(length: int, patch: int, step: float) -> int:
    """Number of the tiles of `tile_starts`, without listing them."""
    return math.ceil((length - patch) / (patch * step)) + 1
