"""Statistics of foreground intensities over a dataset, in memory that does not grow with it."""

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

BLOCK = 1 << 13
"""Voxels whose variance is computed at a time: few enough that OpenBLAS uses one thread, so that results are equal on all machines,
and processes that measure side by side do not wait for each other's threads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForegroundSample:
    """Intensities of the foreground voxels of one case.

    Args:
        moments: (channels, 4): mean, variance, minimum and maximum of all voxels.
        sample: (channels, n): some of the voxels, evenly spaced in order of intensity.
    """

    moments: Numbers
    sample: Floats


def sample_foreground(image_CZYX: Floats, mask: npt.NDArray[np.bool_], *, sample: int, seed: str) -> ForegroundSample | None:
    """A sample of the foreground intensities of a case; None if it has no foreground.

    Voxels are sorted by intensity and taken at even steps (systematic sampling), which gives far more accurate percentiles than as
    many random voxels. The first one differs from case to case, so that rounding errors cancel out over many cases.

    Args:
        image_CZYX: the scan.
        mask: (Z, Y, X), True in the foreground.
        sample: number of voxels to draw from each channel, at least one.
        seed: determines the first voxel.
    """
    count = int(np.count_nonzero(mask))
    if not count:
        return None
    taken = min(count, max(1, sample))
    first = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big") % count
    ranks = (np.arange(taken) * count + first) // taken
    moments, drawn = [], []
    for channel in image_CZYX:  # one at a time, to hold a copy of only one channel's foreground
        voxels = channel[mask]
        voxels.sort()
        mean = voxels.mean(dtype=np.float64)
        moments.append([mean, _variance(voxels, mean), voxels[0], voxels[-1]])
        drawn.append(voxels[ranks])
    return ForegroundSample(moments=np.array(moments, np.float64), sample=np.stack(drawn))


def pool_intensities(cases: Sequence[ForegroundSample]) -> tuple[Intensity, ...]:
    """The statistics of each channel over cases; none without a case.

    Each case has the same weight whatever the size of its foreground, as in nnU-Net, which draws equally many voxels of each (with
    replacement, 10^8 in all); here all but median and percentiles are exact.
    """
    if not cases:
        return ()
    sizes = [case.sample.shape[1] for case in cases]
    weights = np.repeat([1.0 / n for n in sizes], sizes)
    channels = range(len(cases[0].moments))
    return tuple(_pool_channel([c.moments[k] for c in cases], [c.sample[k] for c in cases], weights) for k in channels)


def _variance(voxels: npt.NDArray[np.float32], mean: np.float64) -> float:
    """The variance, block by block, since a float64 copy of all voxels would take twice their memory."""
    blocks = (voxels[i : i + BLOCK] - mean for i in range(0, voxels.size, BLOCK))
    return float(sum(np.dot(block, block) for block in blocks)) / voxels.size


def _pool_channel(moments: list[Numbers], samples: list[npt.NDArray[Any]], weights: Numbers) -> Intensity:
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
