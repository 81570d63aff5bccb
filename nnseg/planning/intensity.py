"""The foreground's intensities, pooled over a dataset in memory that does not grow with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.fingerprint import Intensity
from nnseg.core.image import Floats

Numbers = npt.NDArray[np.float64]

BLOCK = 1 << 18
"""Voxels turned into doubles at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForegroundSample:
    """The foreground voxels of one case.

    Args:
        moments: (channels, 4): mean, variance, least, greatest of all.
        sample: (channels, n) some, evenly spaced among all in order of intensity.
    """

    moments: Numbers
    sample: Floats


def draw(image_CZYX: Floats, mask: npt.NDArray[np.bool_], *, sample: int, seed: str) -> ForegroundSample | None:
    """The foreground of a case, or None if it has none.

    Voxels are ordered by intensity and some are taken at even steps (systematic sampling), which gives percentiles many times
    closer than as many random voxels. The first differs from case to case, so that what each rounds off evens out over many.

    Args:
        image_CZYX: the scan.
        mask: (Z, Y, X) where a label is.
        sample: how many voxels to draw of each channel; at least one is.
        seed: decides which voxel is the first.
    """
    count = int(np.count_nonzero(mask))
    if not count:
        return None
    taken = min(count, max(1, sample))
    first = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big") % count
    ranks = (np.arange(taken) * count + first) // taken
    moments, drawn = [], []
    for channel in image_CZYX:  # one at a time: a copy of one channel's foreground is all that is held
        voxels = channel[mask]
        voxels.sort()
        mean = voxels.mean(dtype=np.float64)
        moments.append([mean, _variance(voxels, mean), voxels[0], voxels[-1]])
        drawn.append(voxels[ranks])
    return ForegroundSample(moments=np.array(moments, np.float64), sample=np.stack(drawn))


def pool(cases: Sequence[ForegroundSample]) -> tuple[Intensity, ...]:
    """One `Intensity` per channel of at least one case.

    Each case counts the same however much foreground it has, as in nnU-Net, which draws equally many voxels of each (with
    replacement, 10^8 in all); what that estimates is computed exactly here but for median and percentiles.
    """
    sizes = [case.sample.shape[1] for case in cases]
    weights = np.repeat([1.0 / n for n in sizes], sizes)
    channels = range(len(cases[0].moments))
    return tuple(_pooled([c.moments[k] for c in cases], [c.sample[k] for c in cases], weights) for k in channels)


def _variance(voxels: npt.NDArray[np.float32], mean: np.float64) -> float:
    """Block by block, since doubles of all voxels would take twice their memory."""
    blocks = (voxels[i : i + BLOCK] - mean for i in range(0, voxels.size, BLOCK))
    return float(sum(np.dot(block, block) for block in blocks)) / voxels.size


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
