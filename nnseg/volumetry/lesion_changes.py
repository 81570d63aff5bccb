"""Lesions of two visits of a patient, matched by where they overlap: new, vanished, grown and shrunken ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nnseg.volumetry.lesions import ChangeKind, Lesion, LesionChange, LesionMap

Voxels = npt.NDArray[np.int64]
Motion = npt.NDArray[np.float64]
"""Affine map (4, 4) from a world position at a visit to that of the same tissue at a later one."""

STAYS: Motion = np.eye(4)

LEAST_SHARE = 0.1
"""Of the smaller of two lesions, which lies in the other if they are the same."""

LEAST_SEEN = 0.5
"""Share of a lesion that lies in the other scan, if that can tell that it is not there."""


def match_lesions(label: str, before: LesionMap, after: LesionMap, motion: Motion = STAYS) -> Iterator[LesionChange]:
    """What became of each lesion of a label.

    Args:
        label: name of the label or region.
        before, after: its lesions at both visits.
        motion: of tissue from the first to the second.
    """
    earlier, later = len(before.lesions), len(after.lesions)
    pairs = [pair for pair in _overlaps(before, after, motion) if _is_same(pair, before, after)]
    links = coo_array(
        (np.ones(len(pairs)), ([i for i, *_ in pairs], [earlier + j for _, j, _ in pairs])), shape=(earlier + later,) * 2
    )
    _, groups = connected_components(links, directed=False)
    for group in dict.fromkeys(groups.tolist()):
        members = np.flatnonzero(groups == group)
        first = tuple(before.lesions[i] for i in members if i < earlier)
        second = tuple(after.lesions[i - earlier] for i in members if i >= earlier)
        yield LesionChange(label=label, kind=_kind(first, second, before, after, motion), before=first, after=second)


def _is_same(pair: tuple[int, int, float], before: LesionMap, after: LesionMap) -> bool:
    i, j, shared_ml = pair
    return shared_ml >= LEAST_SHARE * min(before.lesions[i].ml, after.lesions[j].ml)


def _kind(first: Sequence[Lesion], second: Sequence[Lesion], before: LesionMap, after: LesionMap, motion: Motion) -> ChangeKind:
    if not first or not second:
        here, there, way = (before, after, motion) if first else (after, before, _inverse(motion))
        if _share_seen(here, (*first, *second)[0], there, way) < LEAST_SEEN:
            return "out of view"
        return "vanished" if first else "new"
    if len(first) > 1 or len(second) > 1:
        return "merged" if len(second) == 1 else "split" if len(first) == 1 else "merged and split"
    change = second[0].ml - first[0].ml
    return "grown" if change > 0 else "shrunken" if change < 0 else "unchanged"


def _overlaps(before: LesionMap, after: LesionMap, motion: Motion) -> Iterator[tuple[int, int, float]]:
    """Indices of lesions that overlap, with the volume in ml, counted in voxels of the finer grid, so that none is missed."""
    finer_before = before.grid.voxel_ml <= after.grid.voxel_ml
    fine, coarse, way = (before, after, motion) if finer_before else (after, before, _inverse(motion))
    inside = np.argwhere(fine.numbers > 0)
    there, seen = _moved(fine, inside, coarse, way)
    numbers = np.stack([fine.numbers[tuple(inside[seen].T)], coarse.numbers[tuple(there[seen].T)]])
    found, counts = np.unique(numbers[:, numbers[1] > 0], axis=1, return_counts=True)
    for (one, other), count in zip(found.T.tolist(), counts.tolist(), strict=True):
        i, j = (one, other) if finer_before else (other, one)
        yield i - 1, j - 1, count * fine.grid.voxel_ml


def _share_seen(here: LesionMap, lesion: Lesion, there: LesionMap, way: Motion) -> float:
    """The share of a lesion that lies in the other scan."""
    _, seen = _moved(here, np.argwhere(here.numbers == lesion.number), there, way)
    return float(seen.mean())


def _moved(
    here: LesionMap, voxels: npt.NDArray[np.int64], there: LesionMap, way: Motion
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The nearest voxels (n, 3) of the other grid, and which of them there are."""
    world = voxels @ here.grid.steps + here.grid.origin
    places = (world @ way[:3, :3].T + way[:3, 3] - there.grid.origin) @ np.linalg.inv(there.grid.steps)
    nearest = np.rint(places).astype(np.int64)
    seen: npt.NDArray[np.bool_] = np.all((nearest >= 0) & (nearest < there.grid.shape), axis=1)
    return nearest, seen


def _inverse(motion: Motion) -> Motion:
    return np.linalg.inv(motion).astype(np.float64)
