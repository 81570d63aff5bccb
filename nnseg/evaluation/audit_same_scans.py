"""Cases whose images show the same scan: as they are, mirrored, cropped, or resampled to other voxels.

Scans are compared by their details: ranks of intensities, averaged over cells of one size in mm, without what varies slowly. Two
scans are tried at all shifts in all eight mirrored poses at few cells; the most similar ones again at more, where only the
overlap of both counts. As scans without a voxel size may have been resampled too, the whole of both is compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.geometry import Shape, Vector, as_shape, as_vector
from nnseg.core.image import Scan
from nnseg.system.progress import progress

Numbers = npt.NDArray[np.float32]
Flips = tuple[bool, bool, bool]

CELLS, FEW_CELLS = 40_000, 1_500
"""Cells of the median scan, to verify and to find pairs."""

MOST_TIMES = 2
"""A scan has at most so many times the cells of the median one along an axis; the rest of it is left out."""

SMOOTH, SLOW = 0.7, 3.0
"""Details are what a Gaussian of the first standard deviation, in cells, leaves and one of the second removes."""

POSSIBLE, LEAST_POSSIBLE, LIKELY = 0.25, 20, 3
"""Of each scan, the share and the least number of pairs whose overlap is compared in few cells, and the number verified in more.
A cropped scan has a rank up to 31 of 160 before its overlap is compared (Hippocampus)."""

SAME = 0.85
"""Correlation of details from which on two scans are the same. On Hippocampus and ACDC changed copies have 0.91 and more, scans of
different patients 0.76 and less (``benchmarks/audit.py``)."""

LEAST_OVERLAP = 0.4
"""Least part of the smaller scan that overlaps."""

SAMPLE = 100_000
"""Voxels that the ranks are computed from."""

EQUAL = 0.02
"""Lengths that differ by a smaller share are the same."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells in which the scans of a dataset are compared.

    Args:
        spacing: mm (z, y, x).
        shape: of the median scan.
    """

    spacing: Vector
    shape: Shape

    @classmethod
    def of(cls, cases: Sequence[CaseMeasure], most: int) -> Cells:
        """So many cells at most in the median scan, none smaller than a voxel."""
        voxels = np.median([case.shape for case in cases], axis=0)
        extent = np.median([np.multiply(case.shape, case.spacing) for case in cases], axis=0)
        side = next(side for side in range(int(max(voxels)), 0, -1) if side == 1 or np.minimum(voxels, side).prod() <= most)
        shape = as_shape(np.maximum(1, np.minimum(voxels, side)))
        return cls(spacing=as_vector(extent / shape), shape=shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanDetails:
    """The details of a scan.

    Args:
        spacing, extent: mm (z, y, x).
        fine, coarse: in cells of the dataset, from the scan's corner.
        whole: in as many cells as the median scan has, whatever their size.
    """

    spacing: Vector
    extent: Vector
    fine: Numbers
    coarse: Numbers
    whole: Numbers


@dataclass(frozen=True, kw_only=True)
class Resemblance:
    """Two scans of a list, and how much they are alike.

    Args:
        flips: axes along which the second is mirrored.
        correlation: of their details.
        is_whole: they were compared as a whole, not in mm.
    """

    first: int
    second: int
    flips: Flips
    correlation: float
    is_whole: bool


def measure_details(scan: Scan, fine: Cells, coarse: Cells) -> ScanDetails:
    """The details of a scan's first channel."""
    ranks, spacing = _ranks(scan.image[0]), scan.grid.spacing
    return ScanDetails(
        spacing=spacing,
        extent=as_vector(np.multiply(scan.grid.shape, spacing)),
        fine=_details(_in_cells(ranks, spacing, fine)),
        coarse=_details(_in_cells(ranks, spacing, coarse)),
        whole=_details(_resized(ranks, [np.linspace(0, n, m + 1) for n, m in zip(ranks.shape, fine.shape, strict=True)])),
    )


def _ranks(image_ZYX: Numbers) -> Numbers:
    """The share of the voxels that are darker than each, from 0 to 1; equal ones get their mean."""
    sample = np.sort(image_ZYX.ravel()[:: max(1, image_ZYX.size // SAMPLE)])
    places = [np.searchsorted(sample, image_ZYX.ravel(), side) for side in ("left", "right")]
    return ((places[0] + places[1]) / (2 * len(sample))).astype(np.float32).reshape(image_ZYX.shape)


def _in_cells(image_ZYX: Numbers, spacing: Vector, cells: Cells) -> Numbers:
    """Means over cells from the corner of the image; the last ones may be cut."""
    edges = []
    for n, mm, cell, usual in zip(image_ZYX.shape, spacing, cells.spacing, cells.shape, strict=True):
        count = min(max(1, math.ceil(n * mm / cell - 0.5)), MOST_TIMES * usual)
        edges.append(np.minimum(np.arange(count + 1) * cell / mm, n))
    return _resized(image_ZYX, edges)


def _resized(image_ZYX: Numbers, edges: Sequence[npt.NDArray[Any]]) -> Numbers:
    """Means over cells between edges in voxels, which may lie within voxels."""
    for axis, ends in enumerate(edges):
        places = np.arange(image_ZYX.shape[axis])
        share = np.minimum(ends[1:, None], places + 1) - np.maximum(ends[:-1, None], places)
        weights = np.maximum(share, 0).astype(np.float32)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-6)
        image_ZYX = np.moveaxis(np.tensordot(weights, image_ZYX, (1, axis)), 0, axis)
    return image_ZYX


def _details(cells_ZYX: Numbers) -> Numbers:
    smooth, slow = (ndimage.gaussian_filter(cells_ZYX, sigma, mode="nearest") for sigma in (SMOOTH, SLOW))
    return np.asarray(smooth - slow, np.float32)


def find_same_scans(scans: Sequence[ScanDetails]) -> Iterator[Resemblance]:
    """The pairs of scans that are the same, by the one that comes first."""
    for one in compare_scans(scans):
        if one.correlation >= SAME:
            yield one


def compare_scans(scans: Sequence[ScanDetails]) -> Iterator[Resemblance]:
    """The most similar pairs of scans, each with its correlation in the pose and at the shift that fit best."""
    if len(scans) < 2:
        return
    poses = _poses(scans)
    whole = _compare_whole(scans, poses)
    shifted = _compare_shifted(scans, poses)
    overlaps = np.zeros_like(shifted[0])
    for first, second in _nearest(shifted[0], max(LEAST_POSSIBLE, int(POSSIBLE * len(scans)))):
        mirrored = _mirrored(scans[second].coarse, poses[shifted[1][first, second]])
        overlaps[first, second] = overlaps[second, first] = overlap_correlation(scans[first].coarse, mirrored)
    likely = _nearest(whole[0], LIKELY) | _nearest(overlaps, LIKELY)
    for first, second in progress(sorted(likely), total=len(likely), label="comparing scans"):
        as_whole = Resemblance(
            first=first, second=second, flips=poses[whole[1][first, second]], correlation=float(whole[0][first, second]),
            is_whole=True,
        )  # fmt: skip
        flips = poses[shifted[1][first, second]]
        correlation = overlap_correlation(scans[first].fine, _mirrored(scans[second].fine, flips))
        in_mm = Resemblance(first=first, second=second, flips=flips, correlation=correlation, is_whole=False)
        yield max(in_mm, as_whole, key=lambda one: one.correlation)


def _poses(scans: Sequence[ScanDetails]) -> list[Flips]:
    """The ways to mirror a scan along axes of more than one cell; first the one that does not."""
    solid = [max(scan.fine.shape[axis] for scan in scans) > 1 for axis in range(3)]
    return [(z, y, x) for z, y, x in product((False, True), repeat=3) if not any(np.greater((z, y, x), solid))]


def _mirrored(cells: Numbers, flips: Flips) -> Numbers:
    return cells[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


Found = tuple[Numbers, npt.NDArray[np.int8]]
"""Of each pair of scans the largest correlation, and the pose that has it."""


def _best(found: Sequence[Numbers]) -> Found:
    stacked = np.stack(found)
    return stacked.max(0), stacked.argmax(0).astype(np.int8)


def _compare_whole(scans: Sequence[ScanDetails], poses: Sequence[Flips]) -> Found:
    rows = np.stack([_unit(scan.whole) for scan in scans]).reshape(len(scans), -1)
    return _best([rows @ np.stack([_unit(_mirrored(scan.whole, flips)).ravel() for scan in scans]).T for flips in poses])


def _compare_shifted(scans: Sequence[ScanDetails], poses: Sequence[Flips]) -> Found:
    """Correlations at the best shift, in few cells; what lies outside of a scan counts as 0."""
    shape = [fft.next_fast_len(2 * max(scan.coarse.shape[axis] for scan in scans) - 1, real=True) for axis in range(3)]
    spectra = np.stack([fft.rfftn(_unit(scan.coarse), shape) for scan in scans])
    tables = [np.zeros((len(scans), len(scans)), np.float32) for _ in poses]
    for flips, table in progress(list(zip(poses, tables, strict=True)), total=len(poses), label="looking for same scans"):
        mirrored = np.stack([fft.rfftn(_unit(_mirrored(scan.coarse, flips)), shape) for scan in scans])
        for first in range(len(scans) - 1):
            found = fft.irfftn(spectra[first].conj() * mirrored[first + 1 :], shape, axes=(1, 2, 3))
            table[first, first + 1 :] = found.max(axis=(1, 2, 3))
    return _best([table + table.T for table in tables])


def _unit(cells: Numbers) -> Numbers:
    return cells / max(float(np.linalg.norm(cells)), 1e-9)


def _nearest(correlations: Numbers, most: int) -> set[tuple[int, int]]:
    """The pairs that are among so many most similar ones of either scan, by numbers in ascending order."""
    alone = correlations - 2 * np.eye(len(correlations), dtype=np.float32)
    most = min(most, len(alone) - 1)
    near = np.argpartition(-alone, most - 1, axis=1)[:, :most]
    return {(min(i, j), max(i, j)) for i, those in enumerate(near.tolist()) for j in those}


def overlap_correlation(first: Numbers, second: Numbers) -> float:
    """The largest correlation of two images over all shifts, computed over their overlap.

    Source: Padfield 2012, Masked object registration in the Fourier domain, doi:10.1109/TIP.2011.2181402; details have mean 0.
    """
    shape = [fft.next_fast_len(n + m - 1, real=True) for n, m in zip(first.shape, second.shape, strict=True)]

    def spectrum(image: Numbers) -> npt.NDArray[np.complex64]:
        return np.asarray(fft.rfftn(image, shape))

    def correlate(a: npt.NDArray[np.complex64], b: npt.NDArray[np.complex64]) -> Numbers:
        return np.asarray(fft.irfftn(a.conj() * b, shape), np.float32)

    inside = [spectrum(np.ones_like(image)) for image in (first, second)]
    squares = [spectrum(np.square(image)) for image in (first, second)]
    energy = correlate(squares[0], inside[1]) * correlate(inside[0], squares[1])
    enough = correlate(*inside) >= LEAST_OVERLAP * min(first.size, second.size)
    least = 0.05 * float(np.square(first).sum()) * float(np.square(second).sum())  # less has too few details
    valid = enough & (energy > least)
    together = correlate(spectrum(first), spectrum(second))
    return float((together[valid] / np.sqrt(energy[valid])).max()) if valid.any() else 0.0


def describe(first: ScanDetails, second: ScanDetails, found: Resemblance) -> str:
    """In what the second scan differs from the first: "mirrored along x, cropped"; "" if in nothing."""
    words = [f"mirrored along {' and '.join(name for name, flip in zip('zyx', found.flips, strict=True) if flip)}"]
    parts = words if any(found.flips) else []
    if not np.allclose(first.extent, second.extent, rtol=EQUAL):
        parts.append("resized" if found.is_whole else "cropped")
    if not np.allclose(first.spacing, second.spacing, rtol=EQUAL) and "resized" not in parts:
        parts.append("resampled")
    return ", ".join(parts)
