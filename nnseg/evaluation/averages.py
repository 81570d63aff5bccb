"""Three averages of scores, each with its bootstrap interval.

"The mean Dice" of a test set is at least three numbers, which differ by up to 20 points on the same files, so all three are always
reported, under these names. A *mask* is one label of one case; it is *undefined*, and excluded, where neither the reference nor
the prediction contains the label, or where it was not annotated. Distances are also undefined where one of the two is empty: see
how many were excluded (``n_undefined``) before comparing means of them.

========== ========================================================== ======================================================
name       per label                                                  mean
========== ========================================================== ======================================================
per_mask   mean over the cases whose mask is defined                  mean over all defined masks: every mask weighs the same
per_image  the same as per_mask                                       per case the mean over its labels, then over the cases
pooled     ratio of sums over all cases: of voxels, surface           mean over the labels: every voxel weighs the same
           areas, volumes or lesions
========== ========================================================== ======================================================

A percentile, a maximum, a mean over thresholds or an entropy is no ratio of sums, so HD, HD95, mean AP, V-Rand and V-Info have no
pooled average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.metrics import metric_of
from nnseg.core.scores import Average, Averages, CaseScore, Interval, LabelScore, Lesions, Mean, Number
from nnseg.evaluation.statistics import bootstrap_weights, interval

FEW = 5
"""Least number of cases for an interval."""

Numbers = npt.NDArray[np.float64]


def table(cases: Sequence[CaseScore], labels: Sequence[str], metric: str, *, signed: bool = True) -> Numbers:
    """Values of a metric (cases, labels), NaN where it is undefined; unless ``signed``, signed errors by their size."""
    values = [[case.labels[label].metric(metric) for label in labels] for case in cases]
    found = np.array(values, np.float64).reshape(len(cases), len(labels))  # None becomes NaN
    return found if signed or metric_of(metric).better != "zero" else np.abs(found)


def averages(cases: Sequence[CaseScore], labels: Sequence[str], metrics: Sequence[str]) -> Averages:
    """The three averages of each metric, with bootstrap intervals for `FEW` or more cases."""
    weights = np.ones((1, len(cases)))
    if len(cases) >= FEW:
        weights = np.concatenate([weights, bootstrap_weights(len(cases))])
    tables = {metric: table(cases, labels, metric) for metric in metrics}
    return Averages(
        per_mask=Average({metric: _per_mask(values, labels, weights) for metric, values in tables.items()}),
        per_image=Average({metric: _per_image(values, labels, weights) for metric, values in tables.items()}),
        pooled=Average({metric: _pooled(cases, labels, metric, weights) for metric in metrics}),
    )


def mean_of_masks(values: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """Weighted means over all defined masks (draws,), and of each label (draws, labels); NaN where nothing is defined.

    Args:
        values: (cases, labels), NaN where undefined.
        weights: (draws, cases), how often each case is in a bootstrap draw.
    """
    known = np.isfinite(values)
    sums, counts = weights @ np.where(known, values, 0.0), weights @ known
    return ratio(sums.sum(1), counts.sum(1)), ratio(sums, counts)


def means_of_cases(values: Numbers) -> Numbers:
    """The mean of each case (cases,) over its defined masks; NaN where none is.

    Args:
        values: (cases, labels), NaN where undefined.
    """
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(1), known.sum(1))


def _per_mask(values: Numbers, labels: Sequence[str], weights: Numbers) -> Mean:
    mean, of_labels = mean_of_masks(values, weights)
    return _mean(mean, of_labels, labels, int(np.isfinite(values).sum()), values.size)


def _per_image(values: Numbers, labels: Sequence[str], weights: Numbers) -> Mean:
    of_cases = means_of_cases(values)
    mean, _ = mean_of_masks(of_cases[:, None], weights)
    return _mean(mean, mean_of_masks(values, weights)[1], labels, int(np.isfinite(of_cases).sum()), len(values))


def _pooled(cases: Sequence[CaseScore], labels: Sequence[str], metric: str, weights: Numbers) -> Mean:
    parts_of = PARTS.get("nsd" if metric.startswith("nsd_") else metric)
    if parts_of is None:
        return _mean(np.full(len(weights), np.nan), np.full((len(weights), len(labels)), np.nan), labels, 0, len(labels))
    tolerance = metric.removeprefix("nsd_")
    parts = np.array([[parts_of(case.labels[label], tolerance) for label in labels] for case in cases], np.float64)
    parts = parts.reshape(len(cases), len(labels), 2)
    of_labels = ratio(weights @ parts[..., 0], weights @ parts[..., 1])
    known = np.isfinite(of_labels)
    mean = ratio(np.where(known, of_labels, 0.0).sum(1), known.sum(1))
    return _mean(mean, of_labels, labels, int(known[0].sum()), len(labels))


def _mean(mean: Numbers, of_labels: Numbers, labels: Sequence[str], n: int, of: int) -> Mean:
    """From the values of each draw, of which the first is all cases once."""
    return Mean(
        mean=_defined(mean[0]),
        labels={name: _defined(of_labels[0, i]) for i, name in enumerate(labels)},
        n=n,
        n_undefined=of - n,
        interval=_interval(mean),
        intervals={name: _interval(of_labels[:, i]) for i, name in enumerate(labels)},
    )


def _interval(draws: Numbers) -> Interval | None:
    return interval(draws[1:]) if len(draws) > 1 and np.isfinite(draws[0]) else None


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Numbers:
    """NaN where the denominator is 0."""
    quotient: Numbers = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
    return quotient


def _defined(value: float) -> Number:
    return float(value) if np.isfinite(value) else None


Parts = tuple[float, float]


def _nsd(mask: LabelScore, tolerance: str) -> Parts:
    return (mask.surfaces.within_mm2[tolerance], mask.surfaces.area_mm2) if mask.surfaces else (0.0, 0.0)


def _assd(mask: LabelScore, _: str) -> Parts:
    surfaces = mask.surfaces if mask.assd is not None else None
    return (surfaces.distance_mm3, surfaces.area_mm2) if surfaces else (0.0, 0.0)


def _volume_error(mask: LabelScore, size: Callable[[float], float]) -> Parts:
    error, reference = mask.volume_error_ml, mask.reference_ml
    return (0.0, 0.0) if error is None or reference is None else (size(error), reference)


def _lesions(mask: LabelScore, numerator: Callable[[Lesions], float], denominator: Callable[[Lesions], float]) -> Parts:
    return (numerator(mask.lesions), denominator(mask.lesions)) if mask.lesions else (0.0, 0.0)


PARTS: dict[str, Callable[[LabelScore, str], Parts]] = {
    "dice": lambda m, _: (2 * m.tp, 2 * m.tp + m.fp + m.fn),
    "iou": lambda m, _: (m.tp, m.tp + m.fp + m.fn),
    "assd": _assd,
    "nsd": _nsd,
    "volume_error_ml": lambda m, _: (0.0, 0.0) if m.volume_error_ml is None else (m.volume_error_ml, 1.0),
    "relative_volume_error": lambda m, _: _volume_error(m, float),
    "absolute_volume_error": lambda m, _: _volume_error(m, abs),
    "lesion_f1": lambda m, _: _lesions(m, lambda n: 2 * n.matched, lambda n: n.reference + n.predicted),
    "lesion_sensitivity": lambda m, _: _lesions(m, lambda n: n.matched, lambda n: n.reference),
    "lesion_precision": lambda m, _: _lesions(m, lambda n: n.matched, lambda n: n.predicted),
    "lesion_false_positives": lambda m, _: _lesions(m, lambda n: n.false_positives, lambda n: 1.0),
    "panoptic_quality": lambda m, _: _lesions(m, lambda n: n.sum_iou_matched, lambda n: (n.reference + n.predicted) / 2),
    "ap_50": lambda m, _: _lesions(
        m, lambda n: sum(n.matched_iou[:1]), lambda n: n.reference + n.predicted - sum(n.matched_iou[:1])
    ),
    "object_f1": lambda m, _: _lesions(m, lambda n: 2 * sum(n.matched_iou[:1]), lambda n: n.reference + n.predicted),
    "count_error": lambda m, _: _lesions(m, lambda n: n.predicted - n.reference, lambda n: 1.0),
}
"""For each metric with a pooled average: numerator and denominator of a mask, which are summed over cases."""
