"""Scores of one case: overlap, surface distances, volumes, and lesions matched one by one.

Lesions are connected components; voxels that share a face, an edge or a corner are connected (26 neighbours, 8 in one slice).
Lesions with an IoU of at least 0.1 are matched one to one so that the sum of IoUs is largest (greedy matching would depend on the
order of equal pairs). Panoptic quality is the sum of the IoUs above 0.5, of which each component has at most one, over
TP + FP/2 + FN/2. Average precision at an IoU is TP / (TP + FP + FN), of pairs matched from that IoU on.

Source: nnDetection's threshold of 0.1, Baumgartner et al. 2021, doi:10.1007/978-3-030-87240-3_51; panoptic quality of Kirillov et
al. 2019, arXiv:1801.00868. The tests agree with ``panoptica`` 2.1.7.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from nnseg.core.geometry import TOUCHING, Grid, as_matrix, as_vector
from nnseg.core.image import Integers, LabelMap
from nnseg.core.labels import Labels
from nnseg.core.scores import OBJECT_IOUS, Counts, LabelScore, Lesions, Surfaces
from nnseg.core.units import LengthUnit, in_unit
from nnseg.evaluation.metrics import COUNT_METRICS, NOTHING, counts_of, joint_histogram, members
from nnseg.evaluation.partitions import partition_scores
from nnseg.evaluation.surface import Steps, surface_distances

Mask = npt.NDArray[np.bool_]
LabelIndices = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Objects = tuple[Integers | None, Integers | None]
"""Numbers of the objects in a prediction and its reference (Z, Y, X), where they are known."""

FOUND = 0.1
"""Least IoU of a detected lesion: lesions are small, and one voxel more all around halves the IoU of many."""
OVERLAPPING = 0.5
"""Pairs with a larger IoU count for panoptic quality."""


def match_lesions(prediction: Mask, reference: Mask, objects: Objects = (None, None)) -> Lesions:
    """Detection and panoptic quality of the objects in two masks (Z, Y, X): connected components, unless they are numbered.

    Args:
        objects: numbers of the objects of either mask, where they are known, so that objects which touch stay apart.
    """
    (predicted, n_predicted), (given, n_reference) = map(_number, (prediction, reference), objects)
    rows, columns, ious = _overlaps(given, predicted)
    found, half = ious >= FOUND, ious[ious > OVERLAPPING]
    matched, total = _count_matches(rows[found], columns[found], ious[found]), n_reference + n_predicted
    at_iou = tuple(_count_matches(rows[ious >= t], columns[ious >= t], ious[ious >= t]) for t in OBJECT_IOUS)
    v_rand, v_info = partition_scores(predicted, given) if objects[1] is not None else (None, None)
    return Lesions(
        reference=n_reference,
        predicted=n_predicted,
        matched=matched,
        matched_half=len(half),
        sum_iou_matched=float(half.sum()),
        f1=2 * matched / total if total else None,
        sensitivity=matched / n_reference if n_reference else None,
        precision=matched / n_predicted if n_predicted else None,
        false_positives=n_predicted - matched,
        panoptic_quality=2 * float(half.sum()) / total if total else None,
        matched_iou=at_iou,
        ap_50=at_iou[0] / (total - at_iou[0]) if total else None,
        mean_ap=float(np.mean([m / (total - m) for m in at_iou])) if total else None,
        object_f1=2 * at_iou[0] / total if total else None,
        count_error=n_predicted - n_reference if total else None,
        v_rand=v_rand,
        v_info=v_info,
    )


def _number(mask: Mask, objects: Integers | None) -> tuple[npt.NDArray[np.int32], int]:
    """The objects in a mask, numbered 1, 2, 3, ..., and how many there are."""
    if objects is None:
        numbered, count = ndimage.label(mask, TOUCHING)
        return numbered, int(count)
    inside, numbered = mask & (objects != 0), np.zeros(mask.shape, np.int32)
    numbers, numbered[inside] = np.unique(objects[inside], return_inverse=True)
    numbered[inside] += 1
    return numbered, len(numbers)


def _overlaps(given: npt.NDArray[np.int32], predicted: npt.NDArray[np.int32]) -> tuple[LabelIndices, LabelIndices, Doubles]:
    """Row, column and IoU of each pair of overlapping components, numbered from 0."""
    sizes, others = np.bincount(given.ravel()), np.bincount(predicted.ravel())
    shared = (given > 0) & (predicted > 0)
    numbers, voxels = np.unique(given[shared].astype(np.int64) * len(others) + predicted[shared], return_counts=True)
    rows, columns = np.divmod(numbers, len(others))
    return rows - 1, columns - 1, voxels / (sizes[rows] + others[columns] - voxels)


def _count_matches(rows: LabelIndices, columns: LabelIndices, ious: Doubles) -> int:
    """The number of matched pairs in the one-to-one matching with the largest sum of IoUs.

    A row without a partner is matched to a column of its own, of IoU 0; costs are positive, because 0 means no edge.
    """
    if not len(rows):
        return 0
    rows, columns = np.unique(rows, return_inverse=True)[1], np.unique(columns, return_inverse=True)[1]
    height, width = rows.max() + 1, columns.max() + 1
    unmatched = np.arange(height)
    costs = np.concatenate([2 - ious, np.full(height, 2.0)])
    graph = sparse.csr_array((costs, (np.concatenate([rows, unmatched]), np.concatenate([columns, width + unmatched]))))
    return int(np.sum(min_weight_full_bipartite_matching(graph)[1] < width))


Box = tuple[slice, ...]
Indices = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured besides overlap and volumes.

    Args:
        tolerances: of NSD, mm, or in the unit of the case's lengths if it is another; if empty, no distances are measured.
        instances: names of labels whose connected components are matched one by one.
    """

    tolerances: tuple[float, ...] = (1.0, 2.0)
    instances: tuple[str, ...] = ()


def measure_masks(
    prediction: LabelMap,
    reference: LabelMap,
    labels: Labels,
    measures: Measures,
    *,
    annotated: Collection[str] | None = None,
    objects: Objects = (None, None),
) -> dict[str, LabelScore]:
    """The score of every foreground label or region of a case, by name.

    Ignored voxels belong to no mask, and no distances are measured from surfaces next to them. Labels that were not annotated have
    no metrics.

    Args:
        prediction, reference: on the same grid, with declared values only. Where they were read from files, lengths are in the unit
            of `length_unit_of`.
        annotated: names of the annotated labels; None for all.
        objects: numbers of the objects in prediction and reference (Z, Y, X), where they are known, instead of components.
    """
    box: Box = (slice(None),) * 3
    if not any(member[0] for member in members(labels).values()):  # no region contains the background
        box = _foreground_box(prediction.labels, reference.labels, labels.values[0])
    predicted, given = prediction.labels[box], reference.labels[box]
    joint = joint_histogram(predicted, given, labels)
    joint[0, 0] += reference.labels.size - given.size  # outside the box both are background
    counts = counts_of(joint, labels, annotated=annotated)
    grid = _in_unit(reference, length_unit_of(prediction, reference))
    predicted_objects, given_objects = (None if numbers is None else numbers[box] for numbers in objects)
    case = _CroppedCase.of(labels.encode(predicted), labels.encode(given), grid, (predicted_objects, given_objects))
    return {
        name: label_score(counts[name], grid=case.grid, **case.measured(member, name, measures))
        if counts[name] != NOTHING
        else label_score(NOTHING)
        for name, member in members(labels).items()
    }


def length_unit_of(prediction: LabelMap, reference: LabelMap) -> LengthUnit:
    """What lengths of a pair are measured in: mm, a smaller unit if the files give lengths in it, or voxels if they give none."""
    sources = [label_map.source for label_map in (prediction, reference) if label_map.source]
    known = [source for source in sources if source.has_spacing]
    return (known or sources)[0].shown_unit if sources else "mm"


def _in_unit(label_map: LabelMap, unit: LengthUnit) -> Grid:
    """The grid with lengths in a unit instead of mm; a picture is one unit thick."""
    grid = label_map.grid
    spacing = in_unit(grid.spacing, unit)
    if spacing != grid.spacing and label_map.source and label_map.source.is_2d:
        spacing = as_vector(1.0 if n == 1 else length for n, length in zip(grid.shape, spacing, strict=True))
    return replace(grid, spacing=spacing, origin=in_unit(grid.origin, unit))


def label_score(
    counts: Counts, *, grid: Grid | None = None, surface: dict[str, Any] | None = None, lesions: Lesions | None = None
) -> LabelScore:
    """The score of a mask.

    Args:
        counts: of voxels; all 0 if it was not annotated.
        grid: of the case, for volumes; None if unknown.
        surface: the fields of `LabelScore` with surface distances.
        lesions: if they were matched.
    """
    measured = {**(surface or {}), **(_volumes(counts, grid.voxel_ml) if grid else {})}
    overlap = {name: metric(counts) for name, metric in COUNT_METRICS.items()}
    return LabelScore.model_validate({**dict(counts), **overlap, "lesions": lesions, **measured})


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
    """Label indices of prediction and reference, cropped to the foreground; ``ignored`` is None if no voxel is."""

    predicted: Indices
    given: Indices
    grid: Grid
    ignored: Mask | None
    objects: Objects

    @classmethod
    def of(cls, predicted: Indices, given: Indices, grid: Grid, objects: Objects) -> Self:
        ignored = given < 0
        return cls(predicted, given, grid, ignored if ignored.any() else None, objects)

    def measured(self, member: Mask, name: str, measures: Measures) -> dict[str, Any]:
        """Keyword arguments of `label_score` for one mask."""
        predicted, given = _mask(self.predicted, member), _mask(self.given, member)
        if self.ignored is not None:
            predicted &= ~self.ignored
        found: dict[str, Any] = {}
        if name in measures.instances:
            found["lesions"] = match_lesions(predicted, given, self.objects)
        if measures.tolerances and (predicted.any() or given.any()):
            box = _box(predicted | given)
            near = None if self.ignored is None else self.ignored[box]
            found["surface"] = _surface(predicted[box], given[box], self.grid, measures.tolerances, near)
        return found


def _mask(indices: Indices, member: Mask) -> Mask:
    """Voxels whose label index is one of the members."""
    numbers = np.flatnonzero(member)
    mask: Mask = indices == numbers[0] if len(numbers) == 1 else np.append(member, False)[indices]  # -1, ignored, is the last
    return mask


def _surface(predicted: Mask, given: Mask, grid: Grid, tolerances: tuple[float, ...], ignored: Mask | None) -> dict[str, Any]:
    keys = [f"{tolerance:g}" for tolerance in tolerances]
    spacing = as_matrix(grid.steps) if grid.is_sheared else grid.spacing
    if not (predicted.any() and given.any()):
        return {"nsd": dict.fromkeys(keys, 0.0), "surfaces": _one_sided(predicted | given, spacing, keys, ignored)}
    between = surface_distances(predicted, given, spacing, ignored=ignored)
    if between is None:  # both surfaces are next to ignored voxels everywhere
        return {}
    within = {key: between.within_mm2(tolerance) for key, tolerance in zip(keys, tolerances, strict=True)}
    return {
        "hd": between.hd,
        "hd95": between.hd95,
        "assd": between.assd,
        "nsd": {key: between.nsd(tolerance) for key, tolerance in zip(keys, tolerances, strict=True)},
        "surfaces": Surfaces(area_mm2=between.area_mm2, distance_mm3=between.distance_mm3, within_mm2=within),
    }


def _one_sided(mask: Mask, spacing: Steps, keys: list[str], ignored: Mask | None) -> Surfaces | None:
    """What a mask adds to the pooled NSD where the other side is empty: its area, within no tolerance."""
    itself = surface_distances(mask, mask, spacing, ignored=ignored)
    return None if itself is None else Surfaces(area_mm2=itself.area_mm2 / 2, distance_mm3=0.0, within_mm2=dict.fromkeys(keys, 0.0))


def _foreground_box(prediction: Integers, reference: Integers, background: int) -> Box:
    """The box around all that is not background in either; slice by slice, while each is in the cache."""
    projection, slices = np.zeros(prediction.shape[1:], bool), np.zeros(len(prediction), bool)
    for z, (predicted, given) in enumerate(zip(prediction, reference, strict=True)):
        foreground = (predicted != background) | (given != background)
        slices[z] = foreground.any()
        projection |= foreground
    return _around(slices, projection)


def _box(mask: Mask) -> Box:
    """The box around a mask."""
    return _around(np.asarray(mask.any((1, 2))), np.asarray(mask.any(0)))


def _around(slices: Mask, projection: Mask) -> Box:
    """The tightest box, plus a margin of one voxel where possible, around a mask with these slices (Z,) and projection (Y, X).

    A single voxel if the mask is empty.
    """
    lines = [np.flatnonzero(line) for line in (slices, projection.any(1), projection.any(0))]
    if not len(lines[0]):
        return (slice(0, 1),) * 3
    return tuple(slice(max(0, int(line[0]) - 1), int(line[-1]) + 2) for line in lines)
