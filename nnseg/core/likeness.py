"""Is a scan like those a model was trained on? Spacing, extent and intensities, compared one by one and said in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from nnseg.core.geometry import Grid, Vector

FEWEST_SCANS = 4
"""Fewer say nothing about what others are like."""

SAMPLE = 200_000
"""Voxels a percentile is taken of: its error is then a thousandth of the scans' spread."""

PERCENTILES = {
    1: "the darkest voxels",
    25: "the darker voxels",
    50: "the middle",
    75: "the brighter voxels",
    99: "the brightest voxels",
}
"""That intensities are compared by, and what they stand for."""

Percentiles = Annotated[tuple[FiniteFloat, ...], Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]


class Facts(BaseModel):
    """What of a scan is compared.

    Args:
        spacing: mm (z, y, x).
        size_mm: extent (z, y, x).
        intensities: of each channel, as the network sees it, the `PERCENTILES`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: Vector
    size_mm: Vector
    intensities: tuple[Percentiles, ...]


class Range(BaseModel):
    """The values that training scans had, both ends included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: FiniteFloat
    high: FiniteFloat


class Ranges(BaseModel):
    """What training scans were like.

    A value counts as unlike them where it lies further outside of theirs than chance carries a scan of the same kind: by a quarter
    of their range and 4/n of it more, since n scans do not show all there is; by at least a little where they are all the same.

    Args:
        scans: how many they were.
        channels: names.
        spacing, size_mm: along z, y and x.
        intensities: for each channel, of each of the `PERCENTILES`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scans: int = Field(ge=FEWEST_SCANS)
    channels: tuple[str, ...]
    spacing: tuple[Range, Range, Range]
    size_mm: tuple[Range, Range, Range]
    intensities: tuple[tuple[Range, ...], ...]

    def unlike(self, facts: Facts) -> tuple[str, ...]:
        """In what a scan differs, with numbers: "spacing 5 mm along z; training scans had 0.9 to 1.1". Empty if in nothing."""
        lengths = [
            (f"{what} {value:.3g} mm along {axis}", value, seen, most)
            for what, values, ranges, most in (
                ("spacing", facts.spacing, self.spacing, 1.5),
                ("size", facts.size_mm, self.size_mm, 2.0),
            )
            for axis, value, seen in zip("zyx", values, ranges, strict=True)
        ]
        told = [_told(text, seen) for text, value, seen, most in lengths if self._excess(value, seen, most) > 0]
        return (*told, *self._unlike_intensities(facts))

    def _unlike_intensities(self, facts: Facts) -> Iterator[str]:
        """For each channel the percentile that is furthest out, if one is."""
        for channel, values, ranges in zip(self.channels, facts.intensities, self.intensities, strict=True):
            least = 0.07 * (ranges[-1].high - ranges[0].low)
            room = [max(self._share * (r.high - r.low), least) for r in ranges]
            excess = [max(r.low - v, v - r.high) - m for v, r, m in zip(values, ranges, room, strict=True)]
            worst = int(np.argmax(excess))
            if excess[worst] > 0:
                percent, words = list(PERCENTILES.items())[worst]
                text = f"{channel}: {words} ({percent}% are below) are at {values[worst]:.3g} after normalization"
                yield _told(text, ranges[worst])

    def _excess(self, value: float, seen: Range, most: float) -> float:
        """How far a length lies outside of what is allowed, as a logarithm: within a factor 1.25 always, of ``most`` never more."""
        room = min(max(self._share * math.log(seen.high / seen.low), math.log(1.25)), math.log(most))
        return max(math.log(seen.low / value), math.log(value / seen.high)) - room

    @property
    def _share(self) -> float:
        return 0.25 + 4 / self.scans


def facts_of(grid: Grid, image: npt.NDArray[Any]) -> Facts:
    """What is compared of a scan.

    Args:
        grid: the scan's own.
        image: (C, Z, Y, X), preprocessed: what the network sees of it; of a large one some voxels, the same each time.
    """
    z, y, x = (n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    flat = image.reshape(len(image), -1)
    if flat.shape[1] > SAMPLE:
        flat = flat[:, np.random.default_rng(0).integers(flat.shape[1], size=SAMPLE)]
    intensities = np.percentile(flat, list(PERCENTILES), axis=1).T
    return Facts(spacing=grid.spacing, size_mm=(z, y, x), intensities=tuple(tuple(row) for row in intensities.tolist()))


def ranges_of(facts: Sequence[Facts], channels: Sequence[str]) -> Ranges | None:
    """What scans were like; None if they are too few to say."""
    if len(facts) < FEWEST_SCANS:
        return None
    spacing, size_mm = (_ranges([getattr(f, name) for f in facts]) for name in ("spacing", "size_mm"))
    return Ranges(
        scans=len(facts),
        channels=tuple(channels),
        spacing=(spacing[0], spacing[1], spacing[2]),
        size_mm=(size_mm[0], size_mm[1], size_mm[2]),
        intensities=tuple(_ranges([f.intensities[c] for f in facts]) for c in range(len(channels))),
    )


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[Range, ...]:
    """Of each column."""
    return tuple(Range(low=min(column), high=max(column)) for column in zip(*rows, strict=True))


def _told(text: str, seen: Range) -> str:
    low, high = f"{seen.low:.3g}", f"{seen.high:.3g}"
    return f"{text}; training scans had {low if low == high else f'{low} to {high}'}"
