"""Several members' answers become one: the mean of their probabilities, taken on the scan's own grid.

nnU-Net averages the logits of folds and the probabilities of configurations. Here every member counts the same way, whatever its
plan, because probabilities of different networks can be compared and their logits cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnseg.core.image import Floats
from nnseg.network.bundle import Member


def groups(members: Sequence[Member]) -> tuple[tuple[Member, ...], ...]:
    """The members divided by how they want a scan preprocessed, so that each way is gone once; in order of appearance."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.plan.key("preprocessing", "previous"), []).append(member)
    return tuple(tuple(group) for group in found.values())


def average(parts: Iterable[Floats], weights: Sequence[float] | None = None) -> Floats:
    """The weighted mean of arrays of one shape, float32, never holding more than two of them.

    Args:
        parts: at least one; may be made as they are asked for.
        weights: one for each part, positive; equal if absent. ``average([0, 1], [1, 3])`` is 0.75.
    """
    mean: Floats | None = None
    weighed = 0.0
    for i, part in enumerate(parts):
        weight = 1.0 if weights is None else weights[i]
        weighed += weight
        if mean is None:
            mean = part.astype(np.float32)
        else:
            mean += (part - mean) * np.float32(weight / weighed)
    if mean is None:
        raise ValueError("nothing to average")
    return mean
