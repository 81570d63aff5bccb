"""How a predicted division into objects agrees with the reference's, by pairs of voxels and by information.

Both scores are of the reference's foreground alone, where the predicted background counts as one more object. They lie between 0
and 1, each the harmonic mean of a score of what was divided wrongly and of what was joined wrongly.

Source: Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142, with weights of a half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]


def partition_scores(predicted: Numbers, given: Numbers) -> tuple[float | None, float | None]:
    """V-Rand and V-Info of the predicted objects; None for both without a reference object.

    Args:
        predicted, given: numbers of the objects (Z, Y, X), 0 where there is none.
    """
    inside = given > 0
    if not inside.any():
        return None, None
    pairs = predicted[inside].astype(np.int64) * (int(given.max()) + 1) + given[inside]
    joint = _shares(pairs)
    of_predicted, of_given = _shares(predicted[inside]), _shares(given[inside])
    rand = 2 * np.sum(joint**2) / (np.sum(of_predicted**2) + np.sum(of_given**2))
    entropies = [-np.sum(shares * np.log(shares)) for shares in (of_predicted, of_given, joint)]
    shared, total = entropies[0] + entropies[1] - entropies[2], entropies[0] + entropies[1]
    return float(rand), float(np.clip(2 * shared / total, 0, 1)) if total > 0 else 1.0


def _shares(numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """The share of the voxels that each number has."""
    counts = np.unique(numbers, return_counts=True)[1].astype(np.float64)
    return np.asarray(counts / counts.sum())
