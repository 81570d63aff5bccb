"""What changes of intensity have in common. A row is one channel of one patch; nothing mixes rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnseg.core.plan import Augmentation

Strength = tuple[float, ...]
Shape = tuple[int, ...]

SMALLEST: Final = 1e-7
"""Below this a range or a standard deviation counts as this."""


class Change(NamedTuple):
    """One kind of change.

    Args:
        draw: from a generator, the settings and a patch's shape (C, *space): the strength for each channel that is to be changed.
        apply: to rows (N, *space), with a strength for each.
    """

    draw: Callable[[np.random.Generator, Augmentation, Shape], dict[int, Strength]]
    apply: Callable[[Tensor, Sequence[Strength]], Tensor]


def column(values: Sequence[float], rows: Tensor) -> Tensor:
    """One value for each row, shaped to be multiplied with rows."""
    values_there = torch.tensor(values, dtype=rows.dtype).to(rows.device, non_blocking=True)
    return values_there.view(-1, *[1] * (rows.ndim - 1))


def mean_of(rows: Tensor) -> Tensor:
    """The mean of each row, one axis after the other: a sum over everything at once would depend on the number of threads."""
    for axis in range(rows.ndim - 1, 0, -1):
        rows = rows.mean(axis, keepdim=True)
    return rows


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each row."""
    axes = tuple(range(1, rows.ndim))
    return rows.amin(axes, keepdim=True), rows.amax(axes, keepdim=True)
