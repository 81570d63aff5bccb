"""What is measured, and Dice and IoU from counts of voxels.

Both compare a reference mask R with a predicted mask P of the same grid: Dice is 2|R∩P| / (|R| + |P|), IoU is |R∩P| / |R∪P|.
Where both masks are empty neither is defined: the answer is None, never 1 or NaN. A prediction on an empty reference scores 0.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import FrozenModel
from nnseg.core.image import Integers
from nnseg.core.labels import Labels

SLAB_VOXELS = 4_000_000
"""Voxels counted at a time, which bounds the memory: the joint histogram needs 64-bit copies of what it counts."""


class Counts(FrozenModel):
    """How a predicted mask agrees with a reference mask, in voxels."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn)


def dice(counts: Counts) -> float | None:
    """Dice coefficient, 1 is perfect; None where both masks are empty. Source: Dice 1945, doi:10.2307/1932409."""
    both = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / both if both else None


def iou(counts: Counts) -> float | None:
    """Intersection over union, 1 is perfect; None where both masks are empty. Source: Jaccard 1912."""
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a number is to be read.

    Args:
        title: as it is called in tables.
        meaning: in a sentence.
        unit: empty for a share.
        better: which way is; "zero" for errors that have a sign.
        digits: behind the point, in tables.
    """

    title: str
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower", "zero"] = "higher"
    digits: int = 3


METRICS = {
    "dice": Metric(title="Dice", meaning="overlap: twice what both show, over what each of them shows"),
    "iou": Metric(title="IoU", meaning="overlap: what both show, over what either shows"),
    "hd95": Metric(
        title="HD95", unit="mm", better="lower", digits=2, meaning="95 % of either surface is no farther than this from the other"
    ),
    "hd": Metric(title="HD", unit="mm", better="lower", digits=2, meaning="the farthest that either surface is from the other"),
    "assd": Metric(title="ASSD", unit="mm", better="lower", meaning="mean distance of both surfaces from one another"),
    "nsd": Metric(title="NSD", meaning="share of both surfaces that lies within a tolerance of the other"),
    "volume_error_ml": Metric(title="Volume error", unit="ml", better="zero", digits=2, meaning="predicted minus reference volume"),
    "relative_volume_error": Metric(
        title="Relative volume error", better="zero", meaning="predicted minus reference volume, over the reference volume"
    ),
    "absolute_volume_error": Metric(
        title="Absolute volume error", better="lower", meaning="size of the volume error, over the reference volume"
    ),
    "lesion_f1": Metric(title="Lesion F1", meaning="found lesions: F1 of pairs with an IoU of 0.1 or more"),
    "lesion_sensitivity": Metric(title="Lesion sensitivity", meaning="share of the reference's lesions that were found"),
    "lesion_precision": Metric(title="Lesion precision", meaning="share of the predicted lesions that are there"),
    "lesion_false_positives": Metric(
        title="False positives", unit="a case", better="lower", digits=2, meaning="predicted lesions that are not there"
    ),
    "panoptic_quality": Metric(title="Panoptic quality", meaning="lesions found (IoU above 0.5) times how well they are outlined"),
}
"""What can be measured of a mask, by name. There is an ``nsd`` for each tolerance: ``nsd_1`` is that at 1 mm."""


def metric_of(name: str) -> Metric:
    """What a name stands for: "dice", "nsd_2", ...

    Raises:
        KeyError: there is no such metric.
    """
    kind, _, tolerance = name.partition("_")
    if kind != "nsd":
        return METRICS[name]
    return replace(METRICS["nsd"], title=f"NSD at {float(tolerance):g} mm")


def is_metric(name: str) -> bool:
    """True if `metric_of` knows the name."""
    try:
        metric_of(name)
    except (KeyError, ValueError):
        return False
    return True


NOTHING = Counts(tp=0, fp=0, fn=0, tn=0)
"""Where no voxel can be compared."""


def count(
    prediction: Integers, reference: Integers, labels: Labels, *, annotated: Collection[str] | None = None
) -> dict[str, Counts]:
    """Counts for every scored label or region, voxels whose reference is the ignore value left out.

    Args:
        prediction: (Z, Y, X), stored values.
        reference: (Z, Y, X), stored values, of the same shape.
        labels: what the values mean; it must know all of them (`Labels.undeclared` is empty).
        annotated: names of the labels that the reference can show; `NOTHING` is counted of others and of regions with any other.
            None for all.
    """
    return counts_of(joint_histogram(prediction, reference, labels), labels, annotated=annotated)


def counts_of(joint: npt.NDArray[np.int64], labels: Labels, *, annotated: Collection[str] | None = None) -> dict[str, Counts]:
    """Counts for every scored label or region from a `joint_histogram`; ``annotated`` as for `count`."""
    known = labels.known(annotated)
    return {
        name: NOTHING if known is not None and set(np.flatnonzero(member)) - set(known) else _counts(joint, member)
        for name, member in members(labels).items()
    }


def members(labels: Labels) -> dict[str, npt.NDArray[np.bool_]]:
    """Per scored name, which label indices belong to it."""
    return {name: row for name, row in zip(labels.heads, labels.members(), strict=True) if name in labels.foreground}


def joint_histogram(prediction: Integers, reference: Integers, labels: Labels) -> npt.NDArray[np.int64]:
    """(labels, labels + 1): voxels by index of reference and of prediction, whose last column is "none of them".

    Args:
        prediction, reference: (Z, Y, X), stored values; they must be known (`Labels.undeclared` is empty).
        labels: what the values mean. Ignored voxels are not counted.
    """
    kinds = len(labels.values) + 1
    joint = np.zeros(kinds * kinds, np.int64)
    slices = max(1, SLAB_VOXELS // max(1, reference[0].size))
    for start in range(0, len(reference), slices):
        slab = slice(start, start + slices)
        pairs = labels.encode(reference[slab]).astype(np.int32)  # -1, ignored, comes first
        pairs *= kinds
        pairs += labels.encode(prediction[slab])
        joint += np.bincount((pairs + (kinds + 1)).ravel(), minlength=kinds * kinds)
    return np.roll(joint.reshape(kinds, kinds), -1, axis=(0, 1))[:-1]


def _counts(joint: npt.NDArray[np.int64], member: npt.NDArray[np.bool_]) -> Counts:
    predicted = np.append(member, False)
    tp = int(joint[member][:, predicted].sum())
    fn = int(joint[member].sum()) - tp
    fp = int(joint[:, predicted].sum()) - tp
    return Counts(tp=tp, fp=fp, fn=fn, tn=int(joint.sum()) - tp - fp - fn)
