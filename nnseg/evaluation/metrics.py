"""Dice and IoU from counts of voxels.

Both compare a reference mask R with a predicted mask P of the same grid: Dice is 2|R∩P| / (|R| + |P|), IoU is |R∩P| / |R∪P|.
Where both masks are empty neither is defined: the answer is None, never 1 or NaN. A prediction on an empty reference scores 0.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts

SLAB_VOXELS = 4_000_000
"""Voxels counted at a time, which bounds the memory: the joint histogram needs 64-bit copies of what it counts."""


def dice(counts: Counts) -> float | None:
    """Dice coefficient, 1 is perfect; None where both masks are empty. Source: Dice 1945, doi:10.2307/1932409."""
    both = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / both if both else None


def iou(counts: Counts) -> float | None:
    """Intersection over union, 1 is perfect; None where both masks are empty. Source: Jaccard 1912."""
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else None


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
