"""Dice and IoU from counts of voxels.

Both compare a reference mask R with a predicted mask P of the same grid: Dice is 2|R∩P| / (|R| + |P|), IoU is |R∩P| / |R∪P|.
Where both masks are empty both are undefined: None, not 1 or NaN. A prediction where the reference is empty scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts

SLAB_VOXELS = 4_000_000
"""Voxels counted at a time, to bound the memory: the joint histogram needs 64-bit copies."""


def dice(counts: Counts) -> float | None:
    """Dice coefficient, 1 is perfect; None where both masks are empty. Source: Dice 1945, doi:10.2307/1932409."""
    total = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / total if total else None


def iou(counts: Counts) -> float | None:
    """Intersection over union, 1 is perfect; None where both masks are empty. Source: Jaccard 1912."""
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else None


COUNT_METRICS: dict[str, Callable[[Counts], float | None]] = {"dice": dice, "iou": iou}
"""Metrics computed from voxel counts, by their name in `nnseg.core.metrics.METRICS`, which is also a field of `LabelScore`."""

NOTHING = Counts(tp=0, fp=0, fn=0, tn=0)
"""Of a mask that was not annotated."""


def count(
    prediction: Integers, reference: Integers, labels: Labels, *, annotated: Collection[str] | None = None
) -> dict[str, Counts]:
    """Voxel counts of every foreground label or region; voxels with the ignore value in the reference are left out.

    Args:
        prediction, reference: (Z, Y, X), label values of one shape, all declared (`Labels.undeclared` is empty).
        labels: declares the values.
        annotated: names of the labels annotated in the reference, None for all; other labels, and regions with any other, get
            `NOTHING`.
    """
    return counts_of(joint_histogram(prediction, reference, labels), labels, annotated=annotated)


def counts_of(joint: npt.NDArray[np.int64], labels: Labels, *, annotated: Collection[str] | None = None) -> dict[str, Counts]:
    """Voxel counts of every foreground label or region from a `joint_histogram`; ``annotated`` as for `count`."""
    known = labels.known(annotated)
    return {
        name: NOTHING if known is not None and set(np.flatnonzero(member)) - set(known) else _counts(joint, member)
        for name, member in members(labels).items()
    }


def members(labels: Labels) -> dict[str, npt.NDArray[np.bool_]]:
    """For each foreground label or region, by name, a mask (labels,) of the label indices that belong to it."""
    return {name: row for name, row in zip(labels.heads, labels.members(), strict=True) if name in labels.foreground}


def joint_histogram(prediction: Integers, reference: Integers, labels: Labels) -> npt.NDArray[np.int64]:
    """Numbers of voxels (labels, labels + 1) by label index of reference and prediction; the last column is "no label".

    Args:
        prediction, reference: (Z, Y, X), declared label values; voxels with the ignore value in the reference are not counted.
        labels: declares the values.
    """
    n = len(labels.values) + 1
    joint = np.zeros(n * n, np.int64)
    slices = max(1, SLAB_VOXELS // max(1, reference[0].size))
    for start in range(0, len(reference), slices):
        slab = slice(start, start + slices)
        pairs = labels.encode(reference[slab]).astype(np.int32)  # -1, ignored, is the first row
        pairs *= n
        pairs += labels.encode(prediction[slab])
        joint += np.bincount((pairs + (n + 1)).ravel(), minlength=n * n)
    return np.roll(joint.reshape(n, n), -1, axis=(0, 1))[:-1]


def _counts(joint: npt.NDArray[np.int64], member: npt.NDArray[np.bool_]) -> Counts:
    predicted = np.append(member, False)
    tp = int(joint[member][:, predicted].sum())
    fn = int(joint[member].sum()) - tp
    fp = int(joint[:, predicted].sum()) - tp
    return Counts(tp=tp, fp=fp, fn=fn, tn=int(joint.sum()) - tp - fp - fn)
