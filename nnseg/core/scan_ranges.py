"""Whether a scan is like those of the training: ranges of spacing, size, intensities, texture and layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, field_validator, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Grid, Vector
from nnseg.core.texture import measure_texture
from nnseg.core.thumbnail import POSES, layout, pack, standardize, thumbnail, unpack

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

LIKE = 0.95
"""Share of the held-out scans, each compared with all others, that may not be called different."""

GAP = 3.0
"""Spreads of intensities that differ by a larger factor, with none between them, are of scans of different kinds."""

MOST_LEFT_OUT = 100
"""Scans, at most, that are compared with all others to find the tolerance."""

LEAST_TEXTURE = 1e-6
"""Roughness and seams of a constant image, of which a logarithm is taken."""

LEAST = 1e-30
"""Least value of which a logarithm is taken."""

Numbers = npt.NDArray[np.float64]
Layout = Sequence[float]

Percentiles = Annotated[tuple[FiniteFloat, ...], Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]


class ScanFacts(FrozenModel):
    """The properties of a scan that are compared.

    Args:
        spacing: mm (z, y, x).
        size_mm: extent (z, y, x).
        intensities: the `PERCENTILES` of each channel after preprocessing.
        spreads: of each channel, its 99th less its 1st percentile before preprocessing.
        roughness, seams: of each channel, along (z, y, x): see `measure_texture`.
        thumbnails: of each channel, means of 8 x 8 x 8 blocks, packed.
    """

    spacing: Vector
    size_mm: Vector
    intensities: tuple[Percentiles, ...]
    spreads: tuple[FiniteFloat, ...] = ()
    roughness: tuple[Vector, ...] = ()
    seams: tuple[Vector, ...] = ()
    thumbnails: tuple[str, ...] = ()

    @field_validator("thumbnails")
    @classmethod
    def _are_thumbnails(cls, packed: tuple[str, ...]) -> tuple[str, ...]:
        for one in packed:
            unpack(one)
        return packed


class ValueRange(FrozenModel):
    """The least and the largest value among the training scans.

    Args:
        low, high: both belong to the range.
    """

    low: FiniteFloat
    high: FiniteFloat

    def describe(self) -> str:
        """Both ends with three digits, or one number if they are equal."""
        low, high = f"{self.low:.3g}", f"{self.high:.3g}"
        return low if low == high else f"{low} to {high}"


class ChannelLook(FrozenModel):
    """What a channel looks like in the training scans.

    Args:
        spreads: of intensities before preprocessing; several ranges where scans are of several kinds.
        roughness, seams: along z, y and x.
        mean: thumbnail of the mean scan, packed.
        likeness: correlation with it, each scan with the mean of the others.
        poses: by how much this is larger than in each of the `POSES`.
    """

    spreads: Annotated[tuple[ValueRange, ...], Field(min_length=1)]
    roughness: tuple[ValueRange, ValueRange, ValueRange]
    seams: tuple[ValueRange, ValueRange, ValueRange]
    mean: str
    likeness: ValueRange
    poses: Annotated[tuple[ValueRange, ...], Field(min_length=len(POSES), max_length=len(POSES))]

    @field_validator("mean")
    @classmethod
    def _is_thumbnail(cls, packed: str) -> str:
        unpack(packed)
        return packed


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A scan beside the mean one.

    Args:
        facts: its properties.
        layouts: of each channel; none where thumbnails were not measured.
    """

    facts: ScanFacts
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, kw_only=True)
class _Property:
    """A property of one scan beside its range.

    Args:
        kind: of those of one kind only the one that is furthest outside is named.
        text: what the scan has.
        seen: what the training scans had.
        outside: distance from the range, or of its logarithms for what is compared by factors.
        width: of the range, likewise.
        least, most: limits of the distance that is tolerated.
        reaches_network: False for what normalization removes.
    """

    kind: str
    text: str
    seen: str
    outside: float
    width: float
    least: float
    most: float = math.inf
    reaches_network: bool = True

    def excess(self, share: float) -> float:
        """By how many times the tolerated distance is exceeded; below 0 within it.

        Args:
            share: of the range, that is tolerated.
        """
        return self.outside / min(max(share * self.width, self.least), self.most) - 1.0

    @property
    def needed(self) -> float:
        """The share of the range that would have to be tolerated."""
        return 0.0 if self.outside <= self.least else self.outside / max(self.width, self.least)


class ScanRanges(FrozenModel):
    """The ranges of the training scans.

    A value counts as different where it lies further outside than chance would put a scan of the same kind: by a share of the
    range, measured on the training scans, and by a minimum where all scans are the same.

    Args:
        scans: their number.
        channels: names.
        spacing, size_mm: along z, y and x.
        intensities: for each channel, of each of the `PERCENTILES`.
        looks: of each channel; none in models of earlier versions.
        tolerance: share of a range that is tolerated outside of it; absent in models of earlier versions.
    """

    scans: int = Field(ge=FEWEST_SCANS)
    channels: tuple[str, ...]
    spacing: tuple[ValueRange, ValueRange, ValueRange]
    size_mm: tuple[ValueRange, ValueRange, ValueRange]
    intensities: tuple[tuple[ValueRange, ...], ...]
    looks: tuple[ChannelLook, ...] = ()
    tolerance: FiniteFloat | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> ScanRanges:
        if len(self.intensities) != len(self.channels) or len(self.looks) not in (0, len(self.channels)):
            raise ValueError("there must be ranges of each channel")
        if any(len(of_channel) != len(PERCENTILES) for of_channel in self.intensities):
            raise ValueError("there must be a range of each percentile")
        return self

    def differences(self, facts: ScanFacts) -> tuple[str, ...]:
        """What is different in a scan, such as "spacing 5 mm along z; training scans had 0.9 to 1.1"."""
        worst: dict[str, tuple[float, str]] = {}
        for one in _compare(self, self._measured(facts)):
            excess = one.excess(self._share)
            if excess > (worst[one.kind][0] if one.kind in worst else 0.0):
                worst[one.kind] = excess, f"{one.text}; training scans had {one.seen}"
        return tuple(text for _, text in worst.values())

    def distance(self, facts: ScanFacts) -> float:
        """How different a scan is to the networks: 0 if it is not, 1 if a property is twice as far outside as tolerated."""
        found = (one for one in _compare(self, self._measured(facts)) if one.reaches_network)
        return max(0.0, *(one.excess(self._share) for one in found))

    def _measured(self, facts: ScanFacts) -> _Measured:
        """A scan beside the mean training scan, as far as both are known."""
        pairs = zip(facts.thumbnails if facts.seams else (), self.looks, strict=False)
        return _Measured(facts=facts, layouts=tuple(layout(unpack(packed), unpack(look.mean)) for packed, look in pairs))

    @property
    def _share(self) -> float:
        """Share of a range by which a value may lie outside of it."""
        return 0.25 + 4 / self.scans if self.tolerance is None else self.tolerance


def _compare(ranges: ScanRanges, scan: _Measured) -> Iterator[_Property]:
    """Each property of a scan beside its range."""
    for what, values, seen, most in (
        ("spacing", scan.facts.spacing, ranges.spacing, 1.5),
        ("size", scan.facts.size_mm, ranges.size_mm, 2.0),
    ):
        for axis, value, of_axis in zip("zyx", values, seen, strict=True):
            text = f"{what} {value:.3g} mm along {axis}"
            yield _factor(f"{what} along {axis}", text, value, of_axis, least=1.25, most=most)
    for channel, percentiles, of_channel in zip(ranges.channels, scan.facts.intensities, ranges.intensities, strict=True):
        yield from _compare_intensities(channel, percentiles, of_channel)
    for number, (look, of_scan) in enumerate(zip(ranges.looks, scan.layouts, strict=False)):
        yield _compare_spread(ranges.channels[number], scan.facts.spreads[number], look)
        yield from _compare_texture(ranges.channels[number], scan.facts.roughness[number], scan.facts.seams[number], look)
        yield from _compare_layout(ranges.channels[number], of_scan, look)


def _compare_intensities(channel: str, values: Sequence[float], ranges: Sequence[ValueRange]) -> Iterator[_Property]:
    least = max(0.07 * (ranges[-1].high - ranges[0].low), LEAST)
    for (percent, words), value, seen in zip(PERCENTILES.items(), values, ranges, strict=True):
        text = f"{channel}: {words} ({percent}% are below) are at {value:.3g} after normalization"
        yield _difference(f"{channel} intensities", text, value, seen, least=least)


def _compare_spread(channel: str, spread: float, look: ChannelLook) -> _Property:
    text = f"{channel}: intensities span {spread:.3g} before normalization"
    nearest = min((_factor(f"{channel} spread", text, spread, seen, least=1.5) for seen in look.spreads), key=lambda p: p.outside)
    return replace(nearest, seen=" or ".join(seen.describe() for seen in look.spreads), reaches_network=False)


def _compare_texture(channel: str, roughness: Vector, seams: Vector, look: ChannelLook) -> Iterator[_Property]:
    for axis, value, seen in zip("zyx", roughness, look.roughness, strict=True):
        text = f"{channel}: neighbours along {axis} differ by {value:.2g} of what those in noise do"
        yield _factor(f"{channel} texture", text, max(value, LEAST_TEXTURE), seen, least=1.25)
    for axis, value, seen in zip("zyx", seams, look.seams, strict=True):
        text = f"{channel}: across one plane along {axis} neighbours differ {value:.3g} times as much as across most"
        yield _factor(f"{channel} seams", text, max(value, LEAST_TEXTURE), seen, least=1.25)


def _compare_layout(channel: str, values: Layout, look: ChannelLook) -> Iterator[_Property]:
    """Only a lower correlation with the mean training scan is different, and a lower difference from that in other poses."""
    likeness, *poses = values
    text = f"{channel}: correlation with the mean training scan {likeness:.2f}"
    yield _difference(f"{channel} layout", text, min(likeness, look.likeness.high), look.likeness, least=0.05)
    for pose, value, seen in zip(POSES, poses, look.poses, strict=True):
        text = f"{channel}: correlation with the mean training scan changes by {-value:.2f} if {pose}"
        changes = ValueRange(low=-seen.high, high=-seen.low)
        yield replace(_difference(f"{channel} pose", text, min(value, seen.high), seen, least=0.05), seen=changes.describe())


def _difference(kind: str, text: str, value: float, seen: ValueRange, *, least: float) -> _Property:
    """A property that is compared by differences."""
    outside = max(seen.low - value, value - seen.high, 0.0)
    return _Property(kind=kind, text=text, seen=seen.describe(), outside=outside, width=seen.high - seen.low, least=least)


def _factor(kind: str, text: str, value: float, seen: ValueRange, *, least: float, most: float = math.inf) -> _Property:
    """A property that is compared by factors: ``least`` and ``most`` are some."""
    low, high, here = (math.log(max(number, LEAST)) for number in (seen.low, seen.high, value))
    outside, limits = max(low - here, here - high, 0.0), (math.log(least), math.log(most))
    return _Property(kind=kind, text=text, seen=seen.describe(), outside=outside, width=high - low, least=limits[0], most=limits[1])


def measure_scan(grid: Grid, image: npt.NDArray[Any], raw: npt.NDArray[Any]) -> ScanFacts:
    """The properties of a scan that are compared.

    Args:
        image: (C, Z, Y, X), preprocessed; of a large one a fixed sample of voxels is used.
        raw: the same channels before preprocessing, with any axes.
    """
    z, y, x = (n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    spreads = np.percentile(_sample(raw), [1, 99], axis=1)
    textures = [measure_texture(channel) for channel in image]
    return ScanFacts(
        spacing=grid.spacing,
        size_mm=(z, y, x),
        intensities=tuple(tuple(row) for row in np.percentile(_sample(image), list(PERCENTILES), axis=1).T.tolist()),
        spreads=tuple((spreads[1] - spreads[0]).tolist()),
        roughness=tuple(rough for rough, _ in textures),
        seams=tuple(seams for _, seams in textures),
        thumbnails=tuple(pack(thumbnail(channel)) for channel in image),
    )


def _sample(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The voxels (C, n) of an image, or a fixed sample of many, in the order of memory."""
    flat = [channel.ravel(order="K") for channel in image]
    if flat[0].size <= SAMPLE:
        return np.stack(flat)
    chosen = np.random.default_rng(0).integers(flat[0].size, size=SAMPLE)
    return np.stack([channel[chosen] for channel in flat])


def find_ranges(facts: Sequence[ScanFacts], channels: Sequence[str], patients: Sequence[str] = ()) -> ScanRanges | None:
    """The ranges of scans, with the tolerance that leaves `LIKE` of them like the others; None for fewer than `FEWEST_SCANS`.

    Args:
        channels: names.
        patients: of each scan, where one may have several, which are more alike than those of others; by default each has one.
    """
    if len(facts) < FEWEST_SCANS:
        return None
    of = patients if len(set(patients)) > 1 else range(len(facts))
    others = [[j for j in range(len(facts)) if of[j] != of[i]] for i in range(len(facts))]
    seen = all(f.thumbnails and f.seams for f in facts)
    thumbnails = [[unpack(packed) for packed in f.thumbnails[: len(channels)]] for f in facts] if seen else []
    layouts = [_layouts_beside(one, [thumbnails[j] for j in others[i]]) for i, one in enumerate(thumbnails)]
    found = [_Measured(facts=f, layouts=layouts[i] if seen else ()) for i, f in enumerate(facts)]
    sums = tuple(np.sum(of_channel, axis=0) for of_channel in zip(*thumbnails, strict=True))
    ranges = _ranges_of(found, channels, sums)
    return ranges.model_copy(update={"tolerance": _tolerance(found, others, channels, sums)})


def _layouts_beside(own: Sequence[Numbers], others: Sequence[Sequence[Numbers]]) -> tuple[Layout, ...]:
    """Each channel's `layout` beside the mean of other scans, from the thumbnails of all channels."""
    return tuple(layout(one, standardize(np.sum(of, axis=0))) for one, of in zip(own, zip(*others, strict=True), strict=True))


def _tolerance(
    found: Sequence[_Measured], others: Sequence[Sequence[int]], channels: Sequence[str], sums: Sequence[Numbers]
) -> float:
    """The share of the ranges that is tolerated: `LIKE` of the scans, each compared with others, are within it.

    The rank is that of a split-conformal quantile. The share is between a quarter and the whole of the range, plus 4/n of it, since
    n scans do not show the whole range.

    Args:
        others: for each scan the places of those that it is compared with.
    """
    needed = sorted(
        max(one.needed for one in _compare(_ranges_of([found[j] for j in others[i]], channels, sums), found[i]))
        for i in range(0, len(found), math.ceil(len(found) / MOST_LEFT_OUT))
    )
    rank = min(len(needed), math.ceil(LIKE * (len(needed) + 1)))
    return min(max(0.25, needed[rank - 1]), 1.0) + 4 / len(found)


def _ranges_of(found: Sequence[_Measured], channels: Sequence[str], sums: Sequence[Numbers]) -> ScanRanges:
    facts = [one.facts for one in found]
    spacing, size_mm = (_ranges([getattr(f, name) for f in facts]) for name in ("spacing", "size_mm"))
    return ScanRanges(
        scans=max(FEWEST_SCANS, len(facts)),
        channels=tuple(channels),
        spacing=(spacing[0], spacing[1], spacing[2]),
        size_mm=(size_mm[0], size_mm[1], size_mm[2]),
        intensities=tuple(_ranges([f.intensities[c] for f in facts]) for c in range(len(channels))),
        looks=tuple(_look(found, c, total) for c, total in enumerate(sums)),
    )


def _look(found: Sequence[_Measured], channel: int, total: Numbers) -> ChannelLook:
    here, *poses = _ranges([one.layouts[channel] for one in found])
    rough, seams = (
        _ranges([[max(value, LEAST_TEXTURE) for value in getattr(one.facts, name)[channel]] for one in found])
        for name in ("roughness", "seams")
    )
    return ChannelLook(
        spreads=_bands([one.facts.spreads[channel] for one in found]),
        roughness=(rough[0], rough[1], rough[2]),
        seams=(seams[0], seams[1], seams[2]),
        mean=pack(standardize(total)),
        likeness=here,
        poses=tuple(poses),
    )


def _bands(values: Sequence[float]) -> tuple[ValueRange, ...]:
    """The ranges of positive values, apart where two neighbours differ by more than the factor `GAP`."""
    ordered = sorted(max(value, LEAST) for value in values)
    starts = [0, *(i for i in range(1, len(ordered)) if ordered[i] > GAP * ordered[i - 1]), len(ordered)]
    return tuple(ValueRange(low=ordered[a], high=ordered[b - 1]) for a, b in pairwise(starts))


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[ValueRange, ...]:
    """The range of each column."""
    return tuple(ValueRange(low=min(column), high=max(column)) for column in zip(*rows, strict=True))
