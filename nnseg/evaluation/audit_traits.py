"""Traits of a scan that should not matter for its label map: border, marks in corners, intensities, how it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.image import Floats, Scan

SAMPLE = 100_000
"""Voxels of which percentiles are taken."""

PERCENTILES = (1, 25, 50, 75, 99)

SATURATED = 0.02
"""A mark is as bright as the brightest voxel but for this share of the distance to the median."""

SHARP = 0.65
"""The pixels around a mark are darker on average than this part of the way from the median to the largest value."""

CORNER = 4
"""A corner is a box with this part of the sides: a quarter."""

FEWEST_PIXELS, LEAST_SHARE = 4, 0.002
"""Pixels of a mark, and their share of the plane: fewer are chance."""

FEWEST_VOXELS = 8
"""Voxels along an axis below which it has no corners and no border."""

ENDS = (("foot", "head"), ("front", "back"), ("right", "left"))
"""The first and the last voxels along z, y and x."""


@dataclass(frozen=True, kw_only=True)
class ScanTraits:
    """Traits of one scan.

    Args:
        percentiles: the `PERCENTILES` of each channel, as stored.
        border_brightness: share of all voxels that are darker than the median of those at the border; 0.5 is as all others.
        border_constant: share of the voxels at the border that have the most frequent value there.
        marks: corners with a mark: a compact spot there of the largest value of the image.
        orientation: how the axes are stored.
    """

    percentiles: tuple[tuple[float, ...], ...]
    border_brightness: float
    border_constant: float
    marks: frozenset[str]
    orientation: str


def measure_traits(scan: Scan) -> ScanTraits:
    """The traits of a scan in canonical orientation."""
    borders = [_measure_border(channel) for channel in scan.image]
    turn = scan.source.grid.canonical()
    return ScanTraits(
        percentiles=tuple(tuple(map(float, np.percentile(_sample(channel), PERCENTILES))) for channel in scan.image),
        border_brightness=float(np.mean([brightness for brightness, _ in borders])),
        border_constant=float(np.mean([constant for _, constant in borders])),
        marks=frozenset(corner for channel in scan.image for corner in find_marks(channel)),
        orientation="".join("zyx"[axis] + "+-"[flip] for axis, flip in zip(turn.axes, turn.flips, strict=True)),
    )


def _sample(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return image.ravel()[:: max(1, image.size // SAMPLE)].astype(np.float64)


def _measure_border(image_ZYX: Floats) -> tuple[float, float]:
    """Share of all voxels darker than the median of the border's, and share of the border's that have their most frequent value."""
    ends = [
        np.take(image_ZYX, end, axis).ravel() for axis, n in enumerate(image_ZYX.shape) if n >= FEWEST_VOXELS for end in (0, -1)
    ]
    if not ends:
        return 0.5, 0.0
    border, inside = np.concatenate(ends), _sample(image_ZYX)
    middle = float(np.median(border))
    darker = float(np.mean(inside < middle) + np.mean(inside == middle) / 2)
    return darker, float(np.unique(border, return_counts=True)[1].max() / border.size)


def find_marks(image_ZYX: Floats) -> Iterator[str]:
    """The corners of an image with a mark, such as a burnt-in letter: "front right" of the planes of y and x.

    Each plane is looked at in the maximum along the third axis. A mark is a connected spot of the largest value that lies within
    the corner, does not touch its inner sides as tissue does, and has a sharp edge.

    Example:
        >>> image = np.random.default_rng(0).random((1, 40, 40), np.float32)
        >>> image[0, 2:6, 33:38] = 1.5
        >>> list(find_marks(image))
        ['front left']
    """
    low, high = float(np.median(_sample(image_ZYX))), float(image_ZYX.max())
    threshold = high - SATURATED * (high - low)
    if high <= low:
        return
    for axes in combinations(range(3), 2):
        sides = [image_ZYX.shape[axis] for axis in axes]
        if min(sides) < FEWEST_VOXELS:
            continue
        plane = image_ZYX.max(axis=3 - sum(axes))
        fewest = max(FEWEST_PIXELS, LEAST_SHARE * plane.size)
        for ends in product((0, 1), repeat=2):
            view = plane[tuple(slice(None, None, -1 if end else 1) for end in ends)]
            corner = view[: sides[0] // CORNER, : sides[1] // CORNER]
            if any(_is_sharp(corner, spot, low + SHARP * (high - low)) for spot in _find_spots(corner >= threshold, fewest)):
                yield " ".join(ENDS[axis][end] for axis, end in zip(axes, ends, strict=True))


Mask = npt.NDArray[np.bool_]


def _find_spots(corner: Mask, fewest: float) -> Iterator[Mask]:
    """The connected spots of enough pixels that touch neither the last row nor the last column."""
    spots, count = ndimage.label(corner, np.ones((3, 3), bool))
    sizes = np.bincount(spots.ravel(), minlength=count + 1)
    sizes[0] = sizes[np.unique(np.concatenate([spots[-1], spots[:, -1]]))] = 0
    for number in np.flatnonzero(sizes >= fewest).tolist():
        yield spots == number


def _is_sharp(corner: Floats, spot: Mask, limit: float) -> bool:
    """True if the pixels around a spot are darker than a limit on average, as around a letter, not as around clipped fat."""
    return float(corner[ndimage.binary_dilation(spot, np.ones((3, 3), bool)) & ~spot].mean()) <= limit
