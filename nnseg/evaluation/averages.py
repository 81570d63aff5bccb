"""Three declared averages of scores, each with its bootstrap interval.

"The mean Dice" of a test set is at least three numbers, which differ by up to 20 points on the same files, so all three are always
given, under these names. A *mask* is one label of one case; it is *undefined*, and counts nowhere, where neither the reference nor
the prediction shows the label, or where nobody annotated it. Distances are undefined also where one of both is empty: see how many
were left out (``n_undefined``) before comparing means of them.

========== ========================================================== ======================================================
name       per label                                                  mean
========== ========================================================== ======================================================
per_mask   mean over the cases whose mask is defined                  mean over all defined masks: every mask weighs the same
per_image  the same as per_mask                                       per case the mean over its labels, then over the cases
pooled     ratio of what is summed over all cases: voxels, surface    mean over the labels: every voxel weighs the same
           areas, volumes or lesions
========== ========================================================== ======================================================

No ratio of sums is a percentile or a maximum, so HD and HD95 have no pooled average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.scores import Average, Averages, CaseScore, Interval, LabelScore, Mean, Number
from nnseg.evaluation.statistics import bootstrap_weights, interval

FEW = 5
"""Cases below which no interval is given."""

Numbers = npt.NDArray[np.float64]


def table(cases: Sequence[CaseScore], labels: Sequence[str], metric: str) -> Numbers:
    """(cases, labels) of a metric; NaN where it is undefined."""
    rows = [[_number(case.labels[label].metric(metric)) for label in labels] for case in cases]
    return np.array(rows, np.float64).reshape(len(cases), len(labels))


def averages(cases: Sequence[CaseScore], labels: Sequence[str], metrics: Sequence[str]) -> Averages:
    """The three averages of each metric, with intervals from draws of cases where there are `FEW` or more."""
    weights = np.ones((1, len(cases)))
    if len(cases) >= FEW:
        weights = np.concatenate([weights, bootstrap_weights(len(cases))])
    found: dict[str, dict[str, Mean]] = {"per_mask": {}, "per_image": {}, "pooled": {}}
    for metric in metrics:
        values = table(cases, labels, metric)
        found["per_mask"][metric], found["per_image"][metric] = (
            _per_mask(values, labels, weights),
            _per_image(values, labels, weights),
        )
        found["pooled"][metric] = _pooled(cases, labels, metric, weights)
    return Averages(**{name: Average(average) for name, average in found.items()})


def mean_of_masks(values: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """Weighted means over all defined masks (draws,), and of each label (draws, labels); NaN where nothing is defined.

    Args:
        values: (cases, labels), NaN where undefined.
        weights: (draws, cases), how often each case counts.
    """
    known = np.isfinite(values)
    sums, counts = weights @ np.where(known, values, 0.0), weights @ known
    return _ratio(sums.sum(1), counts.sum(1)), _ratio(sums, counts)


def _per_mask(values: Numbers, labels: Sequence[str], weights: Numbers) -> Mean:
    mean, of_labels = mean_of_masks(values, weights)
    return _mean(mean, of_labels, labels, int(np.isfinite(values).sum()), values.size)


def _per_image(values: Numbers, labels: Sequence[str], weights: Numbers) -> Mean:
    known = np.isfinite(values)
    of_cases = _ratio(np.where(known, values, 0.0).sum(1), known.sum(1))
    mean, _ = mean_of_masks(of_cases[:, None], weights)
    return _mean(mean, mean_of_masks(values, weights)[1], labels, int(known.any(1).sum()), len(values))


def _pooled(cases: Sequence[CaseScore], labels: Sequence[str], metric: str, weights: Numbers) -> Mean:
    parts_of = PARTS.get("nsd" if metric.startswith("nsd_") else metric)
    if parts_of is None:
        return _mean(np.full(len(weights), np.nan), np.full((len(weights), len(labels)), np.nan), labels, 0, len(labels))
    tolerance = metric.removeprefix("nsd_")
    parts = np.array([[parts_of(case.labels[label], tolerance) for label in labels] for case in cases], np.float64)
    parts = parts.reshape(len(cases), len(labels), 2)
    of_labels = _ratio(weights @ parts[..., 0], weights @ parts[..., 1])
    known = np.isfinite(of_labels)
    mean = _ratio(np.where(known, of_labels, 0.0).sum(1), known.sum(1))
    return _mean(mean, of_labels, labels, int(known[0].sum()), len(labels))


def _mean(mean: Numbers, of_labels: Numbers, labels: Sequence[str], n: int, of: int) -> Mean:
    """From what each draw gives, of which the first is all cases once."""
    return Mean(
        mean=_known(mean[0]),
        labels={name: _known(of_labels[0, i]) for i, name in enumerate(labels)},
        n=n,
        n_undefined=of - n,
        interval=_interval(mean),
        intervals={name: _interval(of_labels[:, i]) for i, name in enumerate(labels)},
    )


def _interval(draws: Numbers) -> Interval | None:
    return interval(draws[1:]) if len(draws) > 1 and np.isfinite(draws[0]) else None


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Numbers:
    """NaN where nothing is below."""
    ratio: Numbers = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _known(value: float) -> Number:
    return float(value) if np.isfinite(value) else None


Parts = tuple[float, float]


def _of_surfaces(mask: LabelScore, tolerance: str) -> Parts:
    surfaces = mask.surfaces
    return (surfaces.within_mm2[tolerance], surfaces.area_mm2) if surfaces else (0.0, 0.0)


def _of_distances(mask: LabelScore, _: str) -> Parts:
    both = mask.surfaces if mask.assd is not None else None
    return (both.distance_mm3, both.area_mm2) if both else (0.0, 0.0)


def _of_volumes(mask: LabelScore, *, size: bool = False) -> Parts:
    error = mask.volume_error_ml
    if error is None or mask.reference_ml is None:
        return 0.0, 0.0
    return abs(error) if size else error, mask.reference_ml


def _of_lesions(mask: LabelScore, above: Callable[[Any], float], below: Callable[[Any], float]) -> Parts:
    return (above(mask.lesions), below(mask.lesions)) if mask.lesions else (0.0, 0.0)


PARTS: dict[str, Callable[[LabelScore, str], Parts]] = {
    "dice": lambda m, _: (2 * m.tp, 2 * m.tp + m.fp + m.fn),
    "iou": lambda m, _: (m.tp, m.tp + m.fp + m.fn),
    "assd": _of_distances,
    "nsd": _of_surfaces,
    "volume_error_ml": lambda m, _: (0.0, 0.0) if m.volume_error_ml is None else (m.volume_error_ml, 1.0),
    "relative_volume_error": lambda m, _: _of_volumes(m),
    "absolute_volume_error": lambda m, _: _of_volumes(m, size=True),
    "lesion_f1": lambda m, _: _of_lesions(m, lambda n: 2 * n.matched, lambda n: n.reference + n.predicted),
    "lesion_sensitivity": lambda m, _: _of_lesions(m, lambda n: n.matched, lambda n: n.reference),
    "lesion_precision": lambda m, _: _of_lesions(m, lambda n: n.matched, lambda n: n.predicted),
    "lesion_false_positives": lambda m, _: _of_lesions(m, lambda n: n.false_positives, lambda n: 1.0),
    "panoptic_quality": lambda m, _: _of_lesions(m, lambda n: n.sum_iou_matched, lambda n: (n.reference + n.predicted) / 2),
}
"""Of each metric that can be pooled: the two numbers of a mask whose sums make the ratio."""
