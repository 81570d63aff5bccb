"""Distances between the surfaces of a predicted and a reference mask: HD, HD95, ASSD and NSD, in mm.

Defined as in Google DeepMind's ``surface-distance`` 0.1, with which the tests agree to 1e-6. A *surface element* is a corner of the
voxel grid with voxels both inside and outside the mask among the 2 x 2 x 2 around it; voxels beyond the volume are outside. Its
area is that of marching cubes at the given spacing, its distance that to the nearest element of the other surface. In a volume of
one slice the elements are segments of a contour, and have lengths.

==== =============================================================================================================================
HD95 the larger of both directed 95th percentiles: the least distance that 95 % of a surface's area do not exceed
HD   the same with 100 %: the largest distance
ASSD distance times area, summed over the elements of both surfaces, over the area of both
NSD  share of the area of both surfaces within a tolerance of the other one, the tolerance included ("surface Dice")
==== =============================================================================================================================

Programs that measure between voxel centres, count elements without weights, or average both directions give other values.
Source: Nikolov et al. 2021, doi:10.2196/26151 (surface Dice); Lorensen and Cline 1987, doi:10.1145/37402.37422 (marching cubes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from nnseg.core.geometry import Matrix, Shape, Vector, as_matrix, as_vector

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Steps = Vector | Matrix
"""From one voxel to the next along (z, y, x): lengths in mm at right angles, else vectors in mm."""

NEARBY = 300
"""Positions tested around an element, nearest first; for elements without a match a search tree is built."""
SLAB_BYTES = 2**18
"""Encoded at a time, to fit into a core's cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Elements:
    """The elements of one surface, as far as distances are measured from them.

    Args:
        distances: from each to the other surface, mm.
        areas: of each, mm2 (mm in 2D).
    """

    distances: Doubles
    areas: Doubles

    def percentile(self, percent: float) -> float:
        """The least distance that ``percent`` of the area do not exceed; 0 without elements."""
        if not len(self.areas):
            return 0.0
        order = np.lexsort((self.areas, self.distances))
        areas = self.areas[order]
        reached = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), percent / 100))
        return float(self.distances[order[min(reached, len(order) - 1)]])  # shares may sum to a little less than 1


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceDistances:
    """Distances between two surfaces; the module's docstring defines the metrics."""

    prediction: Elements
    reference: Elements

    @property
    def hd(self) -> float:
        """Hausdorff distance, mm."""
        return max(float(side.distances.max(initial=0.0)) for side in (self.prediction, self.reference))

    @property
    def hd95(self) -> float:
        """Its 95th percentile, mm."""
        return max(self.prediction.percentile(95), self.reference.percentile(95))

    @property
    def assd(self) -> float:
        """Average symmetric surface distance, mm."""
        return self.distance_mm3 / self.area_mm2

    def nsd(self, tolerance: float) -> float:
        """Normalized surface distance at a tolerance in mm, 1 is perfect."""
        return self.within_mm2(tolerance) / self.area_mm2

    @property
    def area_mm2(self) -> float:
        """Of both surfaces together."""
        return float(self.prediction.areas.sum() + self.reference.areas.sum())

    @property
    def distance_mm3(self) -> float:
        """Distance times area, summed over both surfaces."""
        return float(sum(side.distances @ side.areas for side in (self.prediction, self.reference)))

    def within_mm2(self, tolerance: float) -> float:
        """Area of both surfaces within ``tolerance`` mm of the other one."""
        return float(sum(side.areas[side.distances <= tolerance].sum() for side in (self.prediction, self.reference)))


def surface_distances(prediction: Mask, reference: Mask, spacing: Steps, *, ignored: Mask | None = None) -> SurfaceDistances | None:
    """The distances between both surfaces; None where a mask is empty, or every element is next to ignored voxels.

    Args:
        prediction, reference: (Z, Y, X). They may be cropped to a box with both masks and the ignored voxels next to them, but not
            to a single slice: a volume of one slice, along any axis, is measured in 2D.
        spacing: (z, y, x) in mm; of a sheared grid the steps along each axis, as rows.
        ignored: voxels in neither mask; distances are measured to surface elements next to them, but not from these.
    """
    if ignored is not None:
        prediction, reference = prediction & ~ignored, reference & ~ignored
    if not (prediction.any() and reference.any()):
        return None
    flat = prediction.shape.index(1) if 1 in prediction.shape else 0
    single = prediction.shape[flat] == 1
    near = _nearby(_steps(spacing, flat, single), single)
    predicted, given = (_surface(np.moveaxis(mask, flat, 0), near) for mask in (prediction, reference))
    excluded = None if ignored is None else _codes(np.moveaxis(ignored, flat, 0), near.reach) != 0
    sides = _elements(predicted, given, excluded, near), _elements(given, predicted, excluded, near)
    return SurfaceDistances(prediction=sides[0], reference=sides[1]) if any(len(side.areas) for side in sides) else None


def _steps(spacing: Steps, first: int, single: bool) -> Steps:
    """The steps with those along another axis first; of a single slice 1 mm, at a right angle to it."""
    steps = np.asarray(spacing, float)[[first, *(axis for axis in range(3) if axis != first)]]
    if single and steps.ndim == 1:
        steps[0] = 1.0
    elif single:
        normal = np.cross(steps[1], steps[2])
        steps[0] = normal / np.linalg.norm(normal)
    return as_vector(steps) if steps.ndim == 1 else as_matrix(steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Nearby:
    """All positions in a ball around an element.

    Args:
        spacing: see `surface_distances`.
        reach: the largest steps along each axis, in voxels; arrays of codes have a margin of this width.
        shells: distance in mm, and steps in voxels (positions, 3), nearest first.
    """

    spacing: Steps
    reach: Shape
    shells: tuple[tuple[float, Indices], ...]


@lru_cache(maxsize=64)
def _nearby(spacing: Steps, single: bool) -> _Nearby:
    """About `NEARBY` positions, in a disc for a single slice."""
    z, y, x = _heights(spacing)
    volume = z * y * x if np.ndim(spacing) == 1 else abs(float(np.linalg.det(spacing)))
    radius = math.sqrt(NEARBY / math.pi * volume) if single else (NEARBY * 0.75 / math.pi * volume) ** (1 / 3)
    reach = 0 if single else int(radius / z), int(radius / y), int(radius / x)
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = _lengths(steps, spacing)
    shells = tuple((d, steps[lengths == d]) for d in np.unique(lengths[lengths <= radius]).tolist())
    return _Nearby(spacing=spacing, reach=reach, shells=shells)


def _heights(spacing: Steps) -> Vector:
    """Distances in mm between neighbouring layers of voxels along each axis: the spacing itself at right angles."""
    steps = np.asarray(spacing)
    return as_vector(steps if steps.ndim == 1 else 1 / np.linalg.norm(np.linalg.inv(steps), axis=0))


def _places(index: Indices, spacing: Steps) -> Doubles:
    """Positions (n, 3) in mm of indices or steps (n, 3) in voxels."""
    steps = np.asarray(spacing)
    places: Doubles = index * steps if steps.ndim == 1 else sum(index[:, axis, None] * steps[axis] for axis in range(3))
    return places


def _lengths(steps: Indices, spacing: Steps) -> Doubles:
    """Lengths of steps (n, 3) in voxels, mm; the rounding does not depend on where they start."""
    lengths: Doubles = np.sqrt((_places(steps, spacing) ** 2).sum(axis=1))
    return lengths


def _codes(mask: Mask, margin: Shape) -> Codes:
    """The 2 x 2 x 2 voxels around each corner of the grid, one bit per voxel in the mask; zeros in the margin.

    A single slice is repeated along the first axis: areas per mm of height are lengths.
    """
    padded = np.pad(mask.repeat(2, axis=0), ((0, 0), (1, 1), (1, 1))) if len(mask) == 1 else np.pad(mask, 1)
    bits, (z, y, x) = padded.view(np.uint8), margin
    layers, rows, columns = (n - 1 for n in bits.shape)
    codes = np.zeros((layers + 2 * z, rows + 2 * y, columns + 2 * x), np.uint8)
    inside = codes[z : z + layers, y : y + rows, x : x + columns]
    slab = max(1, SLAB_BYTES // bits[0].size)
    for start in range(0, layers, slab):
        voxels = bits[start : start + slab + 1]
        pairs = voxels[:, :, :-1] << 1 | voxels[:, :, 1:]
        squares = pairs[:, :-1] << 2 | pairs[:, 1:]
        inside[start : start + slab] = squares[:-1] << 4 | squares[1:]
    return codes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Surface:
    """A surface on the corners of the voxel grid.

    Args:
        there: mask of its elements.
        index: their flat indices, in order.
        areas: of each, mm2.
    """

    there: Mask
    index: Indices
    areas: Doubles


def _surface(mask: Mask, near: _Nearby) -> _Surface:
    codes = _codes(mask, near.reach)
    there = codes - np.uint8(1) < 254  # 0 becomes 255
    index = np.flatnonzero(there)
    return _Surface(there=there, index=index, areas=_areas(near.spacing)[codes.ravel()[index]])


def _elements(here: _Surface, there: _Surface, excluded: Mask | None, near: _Nearby) -> Elements:
    """The elements of one surface with their distances from the other, without the excluded ones."""
    index, areas = here.index, here.areas
    if excluded is not None:
        measured = ~excluded.ravel()[index]
        index, areas = index[measured], areas[measured]
    return Elements(distances=_distances(index, there, near), areas=areas)


def _distances(index: Indices, other: _Surface, near: _Nearby) -> Doubles:
    """Distances from positions, as flat indices, to the nearest element of the other surface, mm."""
    shape, elements = other.there.shape, other.there.ravel()
    strides = shape[1] * shape[2], shape[2], 1
    found, left, at = np.empty(len(index)), np.arange(len(index)), index
    for distance, steps in near.shells:
        met = np.logical_or.reduce([elements.take(at + step) for step in steps @ strides])
        found[left[met]] = distance
        left, at = left[~met], at[~met]
        if not len(left):
            return found
    here, there = (np.stack(np.unravel_index(i, shape), axis=1) for i in (at, other.index))
    tree = cKDTree(
        _places(there, near.spacing), compact_nodes=False, balanced_tree=False
    )  # built faster, and as fast for distant points
    found[left] = _lengths(here - there[tree.query(_places(here, near.spacing))[1]], near.spacing)
    return found


@lru_cache(maxsize=64)
def _areas(spacing: Steps) -> Doubles:
    """Area of an element by its code (256,), mm2; a linear map turns normal vectors by its cofactors."""
    codes, normals = _triangles()
    steps = np.asarray(spacing)
    if steps.ndim == 1:
        z, y, x = steps
        turned = normals * (y * x, z * x, z * y)
    else:
        turned = normals @ (np.linalg.inv(steps).T * np.linalg.det(steps))
    return np.asarray(np.bincount(codes, np.linalg.norm(turned, axis=1), 256), np.float64)


@lru_cache(maxsize=1)
def _triangles() -> tuple[Indices, Doubles]:
    """Code (n,) and normal vector (n, 3), as long as the area, of each triangle of marching cubes, for voxels 1 mm apart.

    The smaller part of the eight voxels is the inside, so that a mask and its complement have the same surface.
    """
    codes, normals = [], []
    for code in range(1, 255):
        inside = code if code.bit_count() <= 4 else 255 - code
        cube = np.array([inside >> bit & 1 for bit in range(7, -1, -1)], float).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
        a, b, c = vertices[faces].astype(float).transpose(1, 0, 2)
        codes += [code] * len(faces)
        normals.append(np.cross(b - a, c - a) / 2)
    return np.array(codes), np.concatenate(normals)
