"""Whether channels of a scan lie on one another: their mutual information in place, and shifted by some mm.

Of two channels that show one anatomy, intensities go with each other most where both lie in place, whatever the contrast of each.
Source: Maes et al. 1997, doi:10.1109/42.563664.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Vector
from nnseg.core.image import Floats

Codes = npt.NDArray[np.uint8]
Voxels = tuple[int, int, int]

BINS = 32
"""Classes of intensities with equally many voxels, so that a few bright ones do not take most of the classes."""

MOST_SAMPLES = 100_000
"""Voxels that are compared."""

REACH_MM = 15.0
"""Largest shift along an axis that is tried."""

STEPS_MM = (6.0, 3.0, 1.5)
"""Steps of the search, at least one voxel each."""

NOTABLE_MM = 3.0
"""Shorter shifts are not noted."""

NOTABLE_GAIN = 0.08
"""Least gain in mutual information, relative to that in place, of a shift that is noted."""

LEAST_INFORMATION = 0.2
"""Least mutual information there, nats; what has less in common fits by chance, or for its smoothness."""


@dataclass(frozen=True, kw_only=True)
class ChannelShift:
    """A shift by which a channel fits the first one better.

    Args:
        channel: its number, from 0.
        shift: mm along (z, y, x).
        information: mutual information there, nats.
        gain: in it, relative to that in place.
    """

    channel: int
    shift: Vector
    information: float
    gain: float

    @property
    def distance(self) -> float:
        """The length of the shift, mm."""
        return float(np.linalg.norm(self.shift))


def mutual_information(some: Codes, others: Codes) -> float:
    """Mutual information, in nats, of two lists of classes from 0 to `BINS` - 1."""
    joint = np.bincount(some.astype(np.int64) * BINS + others, minlength=BINS * BINS).reshape(BINS, BINS) / max(1, len(some))
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    return float(np.sum(joint[known] * np.log(joint[known] / outer[known])))


def classify(intensities: npt.NDArray[Any]) -> Codes:
    """The class of each intensity; of equally many voxels each, as far as they differ."""
    some = intensities.ravel()[:: max(1, intensities.size // MOST_SAMPLES)]
    edges = np.unique(np.quantile(some, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, intensities, side="right").astype(np.uint8)


def find_shifts(image_CZYX: Floats, spacing: Vector) -> tuple[ChannelShift, ...]:
    """The channels that fit the first one notably better when they are shifted.

    Args:
        image_CZYX: of a scan.
        spacing: mm along (z, y, x).
    """
    first, *others = image_CZYX
    found = (_find_shift(first, other, spacing, number) for number, other in enumerate(others, 1))
    notable = (one for one in found if one.distance >= NOTABLE_MM and one.information >= LEAST_INFORMATION)
    return tuple(one for one in notable if one.gain >= NOTABLE_GAIN)


def _find_shift(first: Floats, other: Floats, spacing: Vector, channel: int) -> ChannelShift:
    """The shift with the largest mutual information, found step by step, the coarse steps first."""
    reach = [min(int(REACH_MM / length), size // 4) for length, size in zip(spacing, first.shape, strict=True)]
    inner = [slice(margin, size - margin) for margin, size in zip(reach, first.shape, strict=True)]
    stride = max(1, round((np.prod([part.stop - part.start for part in inner]) / MOST_SAMPLES) ** (1 / 3)))
    places = np.ix_(*(np.arange(part.start, part.stop, stride) for part in inner))
    given, moved, known = classify(first[places]).ravel(), classify(other), dict[Voxels, float]()

    def measure(shift: Voxels) -> float:
        if shift not in known:
            there = tuple(axis + step for axis, step in zip(places, shift, strict=True))
            known[shift] = mutual_information(given, moved[there].ravel())
        return known[shift]

    best: Voxels = (0, 0, 0)
    for step in STEPS_MM:
        best = _climb(best, [max(1, round(step / length)) for length in spacing], reach, measure)
    gain = (measure(best) - measure((0, 0, 0))) / max(measure((0, 0, 0)), 1e-9)
    z, y, x = (float(voxels * length) for voxels, length in zip(best, spacing, strict=True))
    return ChannelShift(channel=channel, shift=(z, y, x), information=measure(best), gain=gain)


def _climb(best: Voxels, steps: Sequence[int], reach: Sequence[int], measure: Any) -> Voxels:
    """From a shift to the best of its neighbours, until none is better."""
    while True:
        around = [
            (best[0] + dz * steps[0], best[1] + dy * steps[1], best[2] + dx * steps[2])
            for dz, dy, dx in product((-1, 0, 1), repeat=3)
        ]
        inside = [shift for shift in around if all(abs(part) <= most for part, most in zip(shift, reach, strict=True))]
        better = max(inside, key=measure)
        if measure(better) <= measure(best):
            return best
        best = better
