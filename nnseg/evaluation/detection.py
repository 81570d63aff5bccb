"""Detection of objects by their boxes: scores, matches, average precision, and sensitivity by false positives a scan (FROC).

The objects of a mask are its connected components (26 neighbours, 8 in a slice), each with the tightest box around it and the mean
probability in it as score. By falling score, a predicted box is matched with the free box of its scan's reference that has the
largest IoU, if that is at least the IoU asked for. FROC goes through the thresholds of the label's probability, with
components of their own for each, as ``nnseg predict --threshold`` finds them.

Source: matching and average precision of COCO, Lin et al. 2014, arXiv:1405.0312, and at the IoUs of nnDetection, Baumgartner et al.
2021, doi:10.1007/978-3-030-87240-3_51; FROC of LUNA16, Setio et al. 2017, arXiv:1612.08012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.detection import FALSE_POSITIVES, Detection, FrocPoint, OperatingPoint
from nnseg.core.geometry import TOUCHING
from nnseg.evaluation.averages import FEW
from nnseg.evaluation.statistics import bootstrap_weights, interval

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.int64]
"""Boxes (n, 2, 3): first voxel (z, y, x), and the one after the last."""

IOUS = (0.1, 0.5)
"""From which on boxes match; the first is that of sensitivity."""

FULL = 255
"""Level of a probability of 1."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Sensitivities over which average precision is a mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanDetections:
    """The predicted objects of one label in one scan, by falling score.

    Args:
        scores: (n,).
        matched: (IoUs, n), whether the box of each is matched at each of `IOUS`.
        references: number of the reference's objects.
    """

    scores: Numbers
    matched: Flags
    references: int


def detect(mask: Flags, level: npt.NDArray[np.uint8], reference: Boxes) -> ScanDetections:
    """The objects of a predicted mask (Z, Y, X), matched with the boxes of the reference.

    Args:
        mask: of the label.
        level: of its probability (Z, Y, X), 255 for 1.
        reference: boxes of its objects.
    """
    numbers, boxes = find_boxes(mask)
    sums = np.bincount(numbers.ravel(), level.ravel(), minlength=len(boxes) + 1)[1:]
    scores = sums / np.maximum(np.bincount(numbers.ravel(), minlength=len(boxes) + 1)[1:], 1) / FULL
    order = np.argsort(-scores, kind="stable")
    ious = box_ious(boxes[order], reference)
    return ScanDetections(
        scores=scores[order], matched=np.array([match_boxes(ious, least) for least in IOUS]), references=len(reference)
    )


def find_boxes(mask: Flags) -> tuple[npt.NDArray[np.int32], Boxes]:
    """The connected components of a mask, numbered from 1, and their boxes."""
    numbers, count = ndimage.label(mask, TOUCHING)
    ends = [[[side.start for side in box], [side.stop for side in box]] for box in ndimage.find_objects(numbers)]
    return numbers, np.array(ends, np.int64).reshape(int(count), 2, 3)


def box_ious(some: Boxes, others: Boxes) -> Numbers:
    """IoU (n, m) of each box with each other one."""
    first, last = np.maximum(some[:, None, 0], others[None, :, 0]), np.minimum(some[:, None, 1], others[None, :, 1])
    shared = np.clip(last - first, 0, None).prod(-1)
    sizes, of_others = (np.diff(boxes, axis=1)[:, 0].prod(-1) for boxes in (some, others))
    ious: Numbers = shared / (sizes[:, None] + of_others[None] - shared)
    return ious


def match_boxes(ious: Numbers, least: float) -> Flags:
    """Which predictions are matched, the first ones first, each with the free reference of the largest IoU.

    Args:
        ious: (predictions, references), by falling score.
        least: IoU from which on they match.
    """
    free, matched = np.ones(ious.shape[1], bool), np.zeros(len(ious), bool)
    for number, row in enumerate(np.where(ious >= least, ious, -1.0)):
        best = int(np.argmax(np.where(free, row, -1.0))) if len(row) else -1
        if best >= 0 and free[best] and row[best] >= 0:
            matched[number], free[best] = True, False
    return matched


def average_precision(scores: Numbers, matched: Flags, references: int) -> float | None:
    """Average precision of the predicted objects of all scans; None if the references have none.

    Args:
        scores, matched: (n,) of each.
        references: number of the references' objects.
    """
    if not references:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(matched[order])
    recall, precision = hits / references, hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS - 1e-12)
    return float(np.append(highest, 0.0)[places].mean())


def summarize_detection(scans: Sequence[Sequence[ScanDetections]], thresholds: Sequence[float | None]) -> Detection:
    """Detection in some scans.

    Args:
        scans: at least one; of each what is detected by each threshold.
        thresholds: of the label's probability; None for the label map.
    """
    references = np.array([of[0].references for of in scans])
    found = np.array([[one.matched[0].sum() for one in of] for of in scans], float)
    predicted = np.array([[len(one.scores) for one in of] for of in scans], float)
    points = tuple(_point(threshold, [of[number] for of in scans]) for number, threshold in enumerate(thresholds))
    curves, false_positives = _froc_curves(found, predicted - found, references)
    froc = []
    for number, most in enumerate(FALSE_POSITIVES if len(curves) else ()):
        allowed = np.where(false_positives <= most, found.sum(0), 0.0)
        froc.append(
            FrocPoint(
                false_positives=most,
                sensitivity=curves[0, number],
                interval=interval(curves[1:, number]),
                threshold=thresholds[int(np.argmax(allowed))] if allowed.any() else None,
            )
        )
    means = curves.mean(1)
    return Detection(
        scans=len(scans),
        scans_without=int((references == 0).sum()),
        objects=int(references.sum()),
        mean_sensitivity=means[0] if len(means) else None,
        interval=interval(means[1:]),
        froc=tuple(froc),
        points=points,
    )


def _froc_curves(found: Numbers, wrong: Numbers, references: npt.NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Sensitivity (draws, `FALSE_POSITIVES`), first of all scans once, then of bootstrap draws with objects; and false positives.

    Args:
        found, wrong: (scans, thresholds), matched and unmatched objects.
        references: (scans,), objects of the reference.

    Returns:
        Second the mean number of false positives a scan (thresholds,).
    """
    weights = np.ones((1, len(references)), np.int64)
    if len(references) >= FEW:
        weights = np.concatenate([weights, bootstrap_weights(len(references))])
    weights = weights[weights @ references > 0]
    sensitivity = (weights @ found) / (weights @ references)[:, None]
    false_positives = weights @ wrong / len(references)
    curves = [np.where(false_positives <= most, sensitivity, 0.0).max(1) for most in FALSE_POSITIVES]
    return np.stack(curves, 1), wrong.mean(0)


def _point(threshold: float | None, scans: Sequence[ScanDetections]) -> OperatingPoint:
    """Detection by one threshold."""
    references, predicted = np.array([of.references for of in scans]), np.array([len(of.scores) for of in scans])
    scores, matched = np.concatenate([of.scores for of in scans]), np.concatenate([of.matched for of in scans], 1)
    found, of_all, given, empty = int(matched[0].sum()), int(predicted.sum()), int(references.sum()), references == 0
    ap_10, ap_50 = (average_precision(scores, of, given) for of in matched)
    return OperatingPoint(
        threshold=threshold,
        sensitivity=found / given if given else None,
        precision=found / of_all if of_all else None,
        f1=2 * found / (of_all + given) if of_all + given else None,
        false_positives=(of_all - found) / len(scans),
        specificity=float(np.mean(predicted[empty] == 0)) if empty.any() else None,
        ap_10=ap_10,
        ap_50=ap_50,
    )
