"""The order in which to annotate scans: those that are likely to be predicted badly, and that differ from one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def annotation_order(expected: npt.NDArray[Any], descriptions: npt.NDArray[Any], count: int) -> list[int]:
    """Indices of the scans to annotate, the first to be annotated first.

    The next scan is the one with the largest product of what is expected to be wrong, 1 - Dice, and of its distance from the
    nearest scan that was chosen before, so that ten scans of one kind are not annotated for the same error.

    Args:
        expected: mean Dice of each scan, (n,).
        descriptions: vectors of unit length, or of zeros, whose products are the scans' correlations, (n, d).
        count: number of scans to choose; all if there are fewer.

    Source: the greedy choice of distant points is that of Sener and Savarese 2018, Active learning for convolutional networks.
    """
    left, chosen = np.ones(len(expected), bool), list[int]()
    distance = np.full(len(expected), 2.0)
    for _ in range(min(count, len(expected))):
        worth = np.where(left, (1.0 - expected) * distance, -1.0)
        best = int(worth.argmax())
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, 1.0 - descriptions @ descriptions[best])
    return chosen
