"""Scores of one case: overlap, surface distances, volumes, and lesions matched one by one.

Lesions are connected components; voxels that share a face, an edge or a corner are connected (26 neighbours, 8 in one slice).
Detection counts pairs with an IoU of at least 0.1, matched one to one so that the sum of their IoUs is largest; matching the best
pair first would depend on the order of equal pairs. Panoptic quality is the sum of the IoUs above 0.5, of which each component has
at most one, over TP + FP/2 + FN/2.

Source: nnDetection's threshold of 0.1, Baumgartner et al. 2021, doi:10.1007/978-3-030-87240-3_51; panoptic quality of Kirillov et
al. 2019, arXiv:1801.00868. The tests agree with ``panoptica`` 2.1.7.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from nnseg.core.geometry import Grid, Vector
from nnseg.core.image import Integers, LabelMap
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, LabelScore, Lesions, Surfaces
from nnseg.evaluation.metrics import NOTHING, counts_of, dice, iou, joint_histogram, members
from nnseg.evaluation.surface import surface_distances

Mask = npt.NDArray[np.bool_]
LabelIndices = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

FOUND = 0.1
"""Least IoU of a pair that counts as a detection: lesions are small, and a voxel more all around halves the IoU of many."""
OVERLAPPING = 0.5
"""Pairs above it count for panoptic quality."""
TOUCHING = np.ones((3, 3, 3), bool)


def match_lesions(prediction: Mask, reference: Mask) -> Lesions:
    """How many of the reference's components were predicted, and how well.

    Args:
        prediction, reference: (Z, Y, X).
    """
    (predicted, n_predicted), (given, n_reference) = (ndimage.label(mask, TOUCHING) for mask in (prediction, reference))
    rows, columns, ious = _overlaps(given, predicted)
    found, half = ious >= FOUND, ious[ious > OVERLAPPING]
    matched, both = _most(rows[found], columns[found], ious[found]), n_reference + n_predicted
    return Lesions(
        reference=n_reference,
        predicted=n_predicted,
        matched=matched,
        matched_half=len(half),
        sum_iou_matched=float(half.sum()),
        f1=2 * matched / both if both else None,
        sensitivity=matched / n_reference if n_reference else None,
        precision=matched / n_predicted if n_predicted else None,
        false_positives=n_predicted - matched,
        panoptic_quality=2 * float(half.sum()) / both if both else None,
    )


def _overlaps(given: npt.NDArray[np.int32], predicted: npt.NDArray[np.int32]) -> tuple[LabelIndices, LabelIndices, Doubles]:
    """Which components overlap, numbered from 0, and the IoU of each pair."""
    sizes, others = np.bincount(given.ravel()), np.bincount(predicted.ravel())
    shared = (given > 0) & (predicted > 0)
    numbers, voxels = np.unique(given[shared].astype(np.int64) * len(others) + predicted[shared], return_counts=True)
    rows, columns = np.divmod(numbers, len(others))
    return rows - 1, columns - 1, voxels / (sizes[rows] + others[columns] - voxels)


def _most(rows: LabelIndices, columns: LabelIndices, ious: Doubles) -> int:
    """How many pairs are matched, one to one, where the IoUs sum to the most.

    Every row may stay alone, which is a pair with a column of its own that adds nothing; costs of 0 would be taken for no pair.
    """
    if not len(rows):
        return 0
    rows, columns = np.unique(rows, return_inverse=True)[1], np.unique(columns, return_inverse=True)[1]
    height, width = rows.max() + 1, columns.max() + 1
    alone = np.arange(height)
    costs = np.concatenate([2 - ious, np.full(height, 2.0)])
    graph = sparse.csr_array((costs, (np.concatenate([rows, alone]), np.concatenate([columns, width + alone]))))
    return int(np.sum(min_weight_full_bipartite_matching(graph)[1] < width))


Box = tuple[slice, ...]
Indices = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is asked for beside overlap and volumes.

    Args:
        tolerances: mm, of surface distances; none of these are measured if it is empty.
        instances: names of labels whose connected components count one by one.
    """

    tolerances: tuple[float, ...] = (1.0, 2.0)
    instances: tuple[str, ...] = ()


def measure_masks(
    prediction: LabelMap, reference: LabelMap, labels: Labels, measures: Measures, *, annotated: Collection[str] | None = None
) -> dict[str, LabelScore]:
    """The score of every label or region of a case.

    Ignored voxels belong to no mask, and surfaces are not measured from where they touch them. Nothing is measured of what nobody
    annotated.

    Args:
        prediction, reference: on the same grid, with known values only.
        labels: what the values mean.
        measures: what is asked for.
        annotated: names of the labels that were annotated; None for all.
    """
    box: Box = (slice(None),) * 3
    if not any(member[0] for member in members(labels).values()):  # no region reaches into the background
        box = _labelled(prediction.labels, reference.labels, labels.values[0])
    predicted, given = prediction.labels[box], reference.labels[box]
    joint = joint_histogram(predicted, given, labels)
    joint[0, 0] += reference.labels.size - given.size  # outside the box both show the background
    counts = counts_of(joint, labels, annotated=annotated)
    case = _CroppedCase.of(labels.encode(predicted), labels.encode(given), reference.grid)
    return {
        name: label_score(counts[name], grid=case.grid, **case.measured(member, name, measures))
        if counts[name] != NOTHING
        else label_score(NOTHING)
        for name, member in members(labels).items()
    }


def label_score(
    counts: Counts, *, grid: Grid | None = None, surface: dict[str, Any] | None = None, lesions: Lesions | None = None
) -> LabelScore:
    """The score of a mask.

    Args:
        counts: its voxels; all 0 if nobody annotated it.
        grid: of the case, for volumes; None if it is not known.
        surface: fields of `LabelScore` that surfaces give.
        lesions: if they were counted.
    """
    measured = {**(surface or {}), **(_volumes(counts, grid.voxel_ml) if grid else {})}
    return LabelScore(**dict(counts), dice=dice(counts), iou=iou(counts), lesions=lesions, **measured)


def _volumes(counts: Counts, voxel_ml: float) -> dict[str, float | None]:
    predicted, given = counts.tp + counts.fp, counts.tp + counts.fn
    error = (predicted - given) * voxel_ml
    relative = (predicted - given) / given if given else None
    return {
        "volume_ml": predicted * voxel_ml,
        "reference_ml": given * voxel_ml,
        "volume_error_ml": error if predicted or given else None,
        "relative_volume_error": relative,
        "absolute_volume_error": None if relative is None else abs(relative),
    }


@dataclass(frozen=True, eq=False)
class _CroppedCase:
    """Label indices of both sides, cropped to what is labelled, with what is ignored, if anything is."""

    predicted: Indices
    given: Indices
    grid: Grid
    ignored: Mask | None

    @classmethod
    def of(cls, predicted: Indices, given: Indices, grid: Grid) -> Self:
        """Ignored are the voxels whose reference is -1."""
        ignored = given < 0
        return cls(predicted, given, grid, ignored if ignored.any() else None)

    def measured(self, member: Mask, name: str, measures: Measures) -> dict[str, Any]:
        """What `label_score` takes of one mask."""
        predicted, given = _mask(self.predicted, member), _mask(self.given, member)
        if self.ignored is not None:
            predicted &= ~self.ignored
        found: dict[str, Any] = {}
        if name in measures.instances:
            found["lesions"] = match_lesions(predicted, given)
        if measures.tolerances and (predicted.any() or given.any()):
            box = _box(predicted | given)
            near = None if self.ignored is None else self.ignored[box]
            found["surface"] = _surface(predicted[box], given[box], self.grid, measures.tolerances, near)
        return found


def _mask(indices: Indices, member: Mask) -> Mask:
    """Where the index of a label is that of one of the members."""
    only = np.flatnonzero(member)
    mask: Mask = indices == only[0] if len(only) == 1 else np.append(member, False)[indices]  # -1, ignored, is the last
    return mask


def _surface(predicted: Mask, given: Mask, grid: Grid, tolerances: tuple[float, ...], ignored: Mask | None) -> dict[str, Any]:
    keys = [f"{tolerance:g}" for tolerance in tolerances]
    spacing: Vector = grid.spacing
    if not (predicted.any() and given.any()):
        return {"nsd": dict.fromkeys(keys, 0.0), "surfaces": _missed(predicted | given, spacing, keys, ignored)}
    between = surface_distances(predicted, given, spacing, ignored=ignored)
    if between is None:  # all of both surfaces touches ignored voxels
        return {}
    within = {key: between.within_mm2(tolerance) for key, tolerance in zip(keys, tolerances, strict=True)}
    return {
        "hd": between.hd,
        "hd95": between.hd95,
        "assd": between.assd,
        "nsd": {key: between.nsd(tolerance) for key, tolerance in zip(keys, tolerances, strict=True)},
        "surfaces": Surfaces(area_mm2=between.area_mm2, distance_mm3=between.distance_mm3, within_mm2=within),
    }


def _missed(mask: Mask, spacing: Vector, keys: list[str], ignored: Mask | None) -> Surfaces | None:
    """What a mask adds to pooled distances that the other side does not show at all: area, none of it within any tolerance."""
    itself = surface_distances(mask, mask, spacing, ignored=ignored)
    if itself is None:
        return None
    return Surfaces(area_mm2=itself.area_mm2 / 2, distance_mm3=0.0, within_mm2=dict.fromkeys(keys, 0.0))


def _labelled(one: Integers, other: Integers, background: int) -> Box:
    """The box around all that is not background in either; slice by slice, so that each is still in the cache when asked again."""
    flat, slices = np.zeros(one.shape[1:], bool), np.zeros(len(one), bool)
    for z, (mine, yours) in enumerate(zip(one, other, strict=True)):
        shown = (mine != background) | (yours != background)
        slices[z] = shown.any()
        flat |= shown
    return _around(slices, flat)


def _box(mask: Mask) -> Box:
    """The box around a mask."""
    return _around(np.asarray(mask.any((1, 2))), np.asarray(mask.any(0)))


def _around(slices: Mask, flat: Mask) -> Box:
    """The tightest box, with a margin of one voxel where there is room, around what shows in slices (Z,) and their union (Y, X).

    One voxel where nothing shows.
    """
    found = [np.flatnonzero(line) for line in (slices, flat.any(1), flat.any(0))]
    if not len(found[0]):
        return (slice(0, 1),) * 3
    return tuple(slice(max(0, int(line[0]) - 1), int(line[-1]) + 2) for line in found)
