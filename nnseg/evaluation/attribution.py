"""What is measured of attribution maps: whether two are alike, and how much of one lies in and around a structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from nnseg.core.explanation import NEAR_MM, Concentration
from nnseg.core.frozen import short_repr
from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, nonzero_box

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Halves = Sequence[npt.NDArray[Any]]
"""Values of two maps of the same target with independent noise, at the same voxels; of one map by a method without noise."""

AIR = 0.05
"""Voxels count as air, not as the body, up to this share of the range of intensities, from the 0.5th to the 99.5th percentile."""

SAMPLE = 50_000
"""Voxels of the body that maps are compared at, at most."""

LEAST_RELIABLE = 0.05
"""Lower rank correlations of two halves count as this in the correction for noise, which would else divide by next to nothing."""

SHELLS = 20
"""Shells around a structure with as many sampled voxels each, besides the structure itself."""

LEAST_REACH = 0.5
"""Maps are compared where this share of the largest reach of a voxel is reached. The map of every network is faint where all tiles
have little of the structure, or have it at their edge, which counts least: that makes no two maps alike."""

NOT_COMPARED = -1
"""Shell of the voxels with less reach."""


def body_of(image_CZYX: Floats) -> Mask:
    """The voxels (Z, Y, X) of a scan that are not air, in any channel."""
    box = nonzero_box(image_CZYX).slices
    found = np.zeros(image_CZYX.shape[1:], np.bool_)
    for channel in image_CZYX:
        low, high = np.percentile(channel[box][::2, ::2, ::2], [0.5, 99.5])  # a part of the voxels tells as much
        found[box] |= channel[box] > low + AIR * (high - low)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledBody:
    """Voxels of a body at which maps are compared.

    Args:
        voxels: indices into the flat volume, ascending.
        places: of each in mm, along (z, y, x).
    """

    voxels: npt.NDArray[np.intp]
    places: Numbers

    __repr__ = short_repr

    @classmethod
    def of(cls, body: Mask, spacing: Sequence[float], seed: int) -> SampledBody:
        """At most `SAMPLE` voxels of a body (Z, Y, X).

        Args:
            spacing: mm.
            seed: of the drawing.
        """
        voxels = np.flatnonzero(body)
        if len(voxels) > SAMPLE:
            voxels = np.sort(np.random.default_rng(seed).choice(voxels, SAMPLE, replace=False))
        places = np.asarray(np.stack(np.unravel_index(voxels, body.shape), 1) * np.asarray(spacing), np.float64)
        return cls(voxels=voxels, places=places)

    def values(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of a volume (Z, Y, X) at the voxels."""
        return volume.ravel()[self.voxels]

    def shells_around(self, structure: Mask, spacing: Sequence[float], reach: Floats) -> Indices:
        """For each voxel the number of its shell of about equal distance from a structure, from 1; 0 inside.

        Args:
            spacing: mm.
            reach: (Z, Y, X), share of what is explained that is computed from tiles with a voxel; where it is small, the number is
                `NOT_COMPARED`.
        """
        edge = np.argwhere(structure & ~binary_erosion(structure)) * np.asarray(spacing, np.float64)
        reached = self.values(reach)
        compared = reached >= LEAST_REACH * reached.max(initial=0)
        outside = compared & ~self.values(structure)
        distance, _ = cKDTree(edge).query(self.places[outside])
        shells = np.where(compared, 0, NOT_COMPARED).astype(np.intp)
        if len(distance):
            shells[outside] = 1 + np.searchsorted(np.quantile(distance, np.linspace(0, 1, SHELLS + 1)[1:-1]), distance)
        return shells


def rank_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any], shells: Indices) -> float:
    """The rank correlation (Spearman) of the absolute values of two maps within shells; 0 if one of them is constant there.

    Every network's map falls off with the distance from the voxels that it explains, also with random weights. Within a shell of
    equal distance that makes no two maps alike.

    Args:
        one, other: values at the same voxels.
        shells: the number of each voxel's shell; `NOT_COMPARED` to leave it out.
    """
    numbers = [s for s in np.unique(shells) if s != NOT_COMPARED]
    first, second = (np.concatenate([_ranks(np.abs(v[shells == s])) for s in numbers]) for v in (one, other))
    norm = math.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return float((first * second).sum()) / norm if norm else 0.0


def alike(one: Halves, other: Halves, shells: Indices) -> float:
    """The rank correlation of two maps within shells, corrected for the noise in both, from -1 to 1.

    Each is given as two maps of independent noise, of which pairs with different noise are compared; without noise as a single one.

    Source: Spearman 1904, the correction for attenuation.
    """
    if len(one) == 1:
        return rank_correlation(one[0], other[0], shells)
    found = (rank_correlation(one[0], other[1], shells) + rank_correlation(one[1], other[0], shells)) / 2
    noise = math.prod(max(rank_correlation(halves[0], halves[1], shells), LEAST_RELIABLE) for halves in (one, other))
    return max(-1.0, min(1.0, found / math.sqrt(noise)))


def repeatability(halves: Halves, shells: Indices) -> float | None:
    """The expected rank correlation of the mean of two maps with that of two others of independent noise; None without noise.

    Source: Spearman 1910 and Brown 1910, the reliability of a test of twice the length.
    """
    if len(halves) == 1:
        return None
    found = rank_correlation(halves[0], halves[1], shells)
    return 2 * found / (1 + max(found, 0.0))


def concentrate(map_ZYX: Floats, structure: Mask, body: Mask, grid: Grid) -> tuple[Concentration, Concentration]:
    """How much of a map lies inside a structure, and how much inside or within `NEAR_MM` of it, among the voxels of the body."""
    values = np.abs(map_ZYX)
    parts = structure, _grown(structure, grid.spacing) & (body | structure)
    whole, count = float(values[body | structure].sum(dtype=np.float64)), int((body | structure).sum())
    inside, near = (
        Concentration(
            attribution=min(1.0, float(values[part].sum(dtype=np.float64)) / whole) if whole else 0.0,
            uniform=int(part.sum()) / count,
        )
        for part in parts
    )
    return inside, near


def _ranks(values: npt.NDArray[Any]) -> Numbers:
    """Ranks from -1/2 to 1/2; 0 where all are equal."""
    return np.asarray((rankdata(values) - (len(values) + 1) / 2) / len(values), np.float64)


def _grown(structure: Mask, spacing: Sequence[float]) -> Mask:
    """The structure and all that lies within `NEAR_MM` of it; distances are computed in the box around it only."""
    box = []
    for axis, millimetres in enumerate(spacing):
        where = np.flatnonzero(structure.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = math.ceil(NEAR_MM / millimetres) + 1
        box.append(slice(max(0, int(where[0]) - margin), int(where[-1]) + 1 + margin))
    grown: Any = structure.copy()
    grown[tuple(box)] = distance_transform_edt(~structure[tuple(box)], sampling=spacing) <= NEAR_MM
    return np.asarray(grown, np.bool_)
