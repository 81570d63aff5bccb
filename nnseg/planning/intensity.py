"""The foreground's intensities, pooled over a dataset in memory that does not grow with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from nnseg.core.image import Floats

Numbers = npt.NDArray[np.float64]


class Intensity(BaseModel):
    """The foreground voxels of one channel, each case counting the same.

    Args:
        mean, std, min, max: over all foreground voxels.
        median, percentile_00_5, percentile_99_5: over a random sample of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreground:
    """The foreground voxels of one case.

    Args:
        moments: (channels, 4): mean, variance, least, greatest of all.
        sample: (channels, n) some, drawn without replacement; the same positions in each channel.
    """

    moments: Numbers
    sample: Floats


def draw(image_CZYX: Floats, mask: npt.NDArray[np.bool_], *, sample: int, seed: str) -> Foreground | None:
    """The foreground of a case, or None if it has none.

    Args:
        image_CZYX: the scan.
        mask: (Z, Y, X) where a label is.
        sample: how many voxels to draw of each channel; at least one is.
        seed: of the draw.
    """
    positions = np.flatnonzero(mask)
    if not positions.size:
        return None
    chosen = np.arange(positions.size)
    if positions.size > sample:
        number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big")
        chosen = np.random.default_rng(number).choice(positions.size, max(1, sample), replace=False, shuffle=False)
    moments, drawn = [], []
    for channel in image_CZYX:  # one at a time: a copy of one channel's foreground is all that is held
        voxels = channel.ravel()[positions]
        moments.append([voxels.mean(dtype=np.float64), voxels.var(dtype=np.float64), voxels.min(), voxels.max()])
        drawn.append(voxels[chosen])
    return Foreground(moments=np.array(moments, np.float64), sample=np.stack(drawn))


def pool(cases: Sequence[Foreground]) -> tuple[Intensity, ...]:
    """One `Intensity` per channel of at least one case.

    Each case counts the same however much foreground it has, as in nnU-Net, which draws equally many voxels of each (with
    replacement, 10^8 in all); what that estimates is computed exactly here but for median and percentiles.
    """
    sizes = [case.sample.shape[1] for case in cases]
    weights = np.repeat([1.0 / n for n in sizes], sizes)
    channels = range(len(cases[0].moments))
    return tuple(_pooled([c.moments[k] for c in cases], [c.sample[k] for c in cases], weights) for k in channels)


def _pooled(moments: list[Numbers], samples: list[npt.NDArray[Any]], weights: Numbers) -> Intensity:
    means, variances, lows, highs = np.stack(moments).T
    mean = means.mean()
    sample = np.concatenate(samples).astype(np.float64)
    low, median, high = np.percentile(sample, [0.5, 50, 99.5], weights=weights, method="inverted_cdf")
    return Intensity(
        mean=float(mean),
        median=float(median),
        std=float(np.sqrt((variances + (means - mean) ** 2).mean())),
        min=float(lows.min()),
        max=float(highs.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )
