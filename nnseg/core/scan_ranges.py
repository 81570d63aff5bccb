"""Whether a scan is like those of the training: ranges of spacing, size and intensities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat

from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Grid, Vector

FEWEST_SCANS = 4
"""With fewer scans their ranges mean nothing."""

SAMPLE = 200_000
"""Voxels of which percentiles are taken: their error is then a thousandth of the scans' spread."""

PERCENTILES = {
    1: "the darkest voxels",
    25: "the darker voxels",
    50: "the middle",
    75: "the brighter voxels",
    99: "the brightest voxels",
}
"""Percentiles of intensities that are compared, and their names in messages."""

Percentiles = Annotated[tuple[FiniteFloat, ...], Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]


class ScanFacts(FrozenModel):
    """The properties of a scan that are compared.

    Args:
        spacing: mm (z, y, x).
        size_mm: extent (z, y, x).
        intensities: the `PERCENTILES` of each channel after preprocessing.
    """

    spacing: Vector
    size_mm: Vector
    intensities: tuple[Percentiles, ...]


class ValueRange(FrozenModel):
    """The least and the largest value among the training scans."""

    low: FiniteFloat
    high: FiniteFloat

    def describe(self) -> str:
        """Both ends with three digits, or one number if they are equal."""
        low, high = f"{self.low:.3g}", f"{self.high:.3g}"
        return low if low == high else f"{low} to {high}"


class ScanRanges(FrozenModel):
    """The ranges of the training scans.

    A value counts as different where it lies further outside than chance would put a scan of the same kind: by a quarter of the
    range, plus 4/n of it, since n scans do not show the whole range; and by a minimum where all scans are the same.

    Args:
        spacing, size_mm: along z, y and x.
        intensities: for each channel, of each of the `PERCENTILES`.
    """

    scans: int = Field(ge=FEWEST_SCANS)
    channels: tuple[str, ...]
    spacing: tuple[ValueRange, ValueRange, ValueRange]
    size_mm: tuple[ValueRange, ValueRange, ValueRange]
    intensities: tuple[tuple[ValueRange, ...], ...]

    def differences(self, facts: ScanFacts) -> tuple[str, ...]:
        """What is different in a scan, such as "spacing 5 mm along z; training scans had 0.9 to 1.1"."""
        return tuple(
            f"{text}; training scans had {seen.describe()}" for text, seen in (*self._lengths(facts), *self._intensities(facts))
        )

    def _lengths(self, facts: ScanFacts) -> Iterator[tuple[str, ValueRange]]:
        for what, values, ranges, most in (
            ("spacing", facts.spacing, self.spacing, 1.5),
            ("size", facts.size_mm, self.size_mm, 2.0),
        ):
            for axis, value, seen in zip("zyx", values, ranges, strict=True):
                if self._excess(value, seen, most) > 0:
                    yield f"{what} {value:.3g} mm along {axis}", seen

    def _intensities(self, facts: ScanFacts) -> Iterator[tuple[str, ValueRange]]:
        """For each channel the percentile that is furthest outside, if one is."""
        for channel, values, ranges in zip(self.channels, facts.intensities, self.intensities, strict=True):
            least = 0.07 * (ranges[-1].high - ranges[0].low)
            room = [max(self._share * (r.high - r.low), least) for r in ranges]
            excess = [max(r.low - v, v - r.high) - m for v, r, m in zip(values, ranges, room, strict=True)]
            worst = int(np.argmax(excess))
            if excess[worst] > 0:
                percent, words = list(PERCENTILES.items())[worst]
                text = f"{channel}: {words} ({percent}% are below) are at {values[worst]:.3g} after normalization"
                yield text, ranges[worst]

    def _excess(self, value: float, seen: ValueRange, most: float) -> float:
        """Logarithm of the factor by which a length lies outside of the tolerance, which is between 1.25 and ``most`` times."""
        room = min(max(self._share * math.log(seen.high / seen.low), math.log(1.25)), math.log(most))
        return max(math.log(seen.low / value), math.log(value / seen.high)) - room

    @property
    def _share(self) -> float:
        """Part of a range by which a value may lie outside of it."""
        return 0.25 + 4 / self.scans


def measure_scan(grid: Grid, image: npt.NDArray[Any]) -> ScanFacts:
    """The properties of a scan that are compared.

    Args:
        image: (C, Z, Y, X), preprocessed; of a large one a fixed sample of voxels is used.
    """
    z, y, x = (n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    flat = image.reshape(len(image), -1)
    if flat.shape[1] > SAMPLE:
        flat = flat[:, np.random.default_rng(0).integers(flat.shape[1], size=SAMPLE)]
    intensities = np.percentile(flat, list(PERCENTILES), axis=1).T
    return ScanFacts(spacing=grid.spacing, size_mm=(z, y, x), intensities=tuple(tuple(row) for row in intensities.tolist()))


def find_ranges(facts: Sequence[ScanFacts], channels: Sequence[str]) -> ScanRanges | None:
    """The ranges of scans; None for fewer than `FEWEST_SCANS`."""
    if len(facts) < FEWEST_SCANS:
        return None
    spacing, size_mm = (_ranges([getattr(f, name) for f in facts]) for name in ("spacing", "size_mm"))
    return ScanRanges(
        scans=len(facts),
        channels=tuple(channels),
        spacing=(spacing[0], spacing[1], spacing[2]),
        size_mm=(size_mm[0], size_mm[1], size_mm[2]),
        intensities=tuple(_ranges([f.intensities[c] for f in facts]) for c in range(len(channels))),
    )


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[ValueRange, ...]:
    """The range of each column."""
    return tuple(ValueRange(low=min(column), high=max(column)) for column in zip(*rows, strict=True))
