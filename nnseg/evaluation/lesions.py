"""Lesions found one by one: connected components of a predicted and of a reference mask, matched.

Voxels that share a face, an edge or a corner belong together (26 neighbours, 8 in a single slice). Detection counts pairs with an
IoU of at least 0.1, one to one, such that their IoUs sum to the most; matching the best pair first would depend on the order where
two are as good. Panoptic quality is the sum of the IoUs above 0.5, of which each component has one at most, over TP + FP/2 + FN/2.

Source: nnDetection's threshold of 0.1, Baumgartner et al. 2021, doi:10.1007/978-3-030-87240-3_51; panoptic quality of Kirillov et
al. 2019, arXiv:1801.00868. The tests agree with ``panoptica`` 2.1.7.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from nnseg.evaluation.scores import Lesions

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
