"""Images in memory, and the legend of axes used throughout nnseg.

| letter | axis | | letter | axis |
|---|---|---|---|---|
| B | batch | | Z | slices, axis 0 of space (one for a 2D image) |
| C | channels of a scan | | Y | rows |
| K | heads: labels or regions that the network predicts | | X | columns |

``image_CZYX`` is a scan's voxels, ``labels_ZYX`` a label map's, ``probabilities_KZYX`` a network's output.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import short_repr
from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.registration import Registration, StepRecord
from nnseg.core.units import LengthUnit, shown_unit

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[Any]

VOXEL = "voxel"
"""The unit of lengths where the size of voxels is not known."""

IN_MEMORY_BYTES = 64 * 2**20
"""Stored cases below this size are read into memory; patches of larger ones are read from disk."""
MOST_LOCATIONS = 10_000
"""Positions of a label kept in a stored case, unless a hundredth of its voxels is more."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of a scan, and how its voxels were stored.

    Args:
        files: one file, one file per channel, or the slices of a DICOM series in order.
        grid: as stored, before it was made canonical; predictions are written on it.
        is_2d: True if the file is two-dimensional (PNG, 2D TIFF); label maps are then written as 2D too.
        length_unit: in which the file gives lengths, such as "um"; `VOXEL` if it gives none, so that the grid's mm are voxels.
        exif: how the file says that a photo is to be turned, 1 to 8 as in EXIF and TIFF; 1 for upright.
    """

    files: tuple[Path, ...]
    grid: Grid
    is_2d: bool = False
    length_unit: str = "mm"
    exif: int = 1

    __repr__ = short_repr

    @property
    def has_spacing(self) -> bool:
        """True if lengths are known."""
        return self.length_unit != VOXEL

    @property
    def shown_unit(self) -> LengthUnit:
        """What lengths are shown in."""
        return shown_unit(self.length_unit, is_2d=self.is_2d)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """An examination's image: one volume with one or more channels, in canonical orientation.

    Args:
        image: float32 (C, Z, Y, X), finite.
        grid: the canonical grid of ``image``.
        source: its files; ``source.grid.reoriented(source.grid.canonical()) == grid`` unless its axes are sheared.
        notes: what was repaired or should be known, in one line each.
        missing: numbers of the channels that the scan lacks: they are zero in `image`, and again after normalization.
        preparation: what the steps did that were applied to it, in their order.
    """

    image: Floats
    grid: Grid
    source: Source
    notes: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    preparation: tuple[StepRecord, ...] = ()

    __repr__ = short_repr

    @property
    def present(self) -> tuple[int, ...]:
        """Numbers of the channels that it has."""
        return tuple(number for number in range(len(self.image)) if number not in self.missing)

    def file_of(self, channel: int) -> Path:
        """The file of a channel; the first one if channels have no files of their own."""
        files = self.source.files
        return files[channel] if len(files) == len(self.image) else files[0]

    def without(self, channels: Collection[int]) -> Scan:
        """The scan as if channels of these numbers were missing."""
        kept = np.array([number not in channels for number in range(len(self.image))])
        missing = tuple(sorted({*self.missing, *channels}))
        return replace(self, image=self.image * kept[:, None, None, None], missing=missing)

    def with_missing(self, channels: Collection[int]) -> Scan:
        """The scan of the channels that there are, with channels of zeros at these numbers among them."""
        there = [number for number in range(len(self.image) + len(channels)) if number not in channels]
        image = np.zeros((len(self.image) + len(channels), *self.grid.shape), np.float32)
        image[there] = self.image
        return replace(self, image=image, missing=tuple(sorted(channels)))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """An integer volume of label values, in canonical orientation.

    Args:
        labels: integer (Z, Y, X), values as the user stores them.
        grid: the canonical grid of ``labels``.
        source: its file, if it was read from one.
        notes: what should be known of its file, in one line each.
    """

    labels: Integers
    grid: Grid
    source: Source | None = None
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class PreprocessedCase:
    """A case after preprocessing.

    Args:
        image: float32 (C, Z, Y, X), normalized, on the network's grid.
        labels: int16 (Z, Y, X), label indices of `Labels`, -1 where ignored; None for a scan without a label map.
        placement: of the network's grid in the scan.
        known: indices of the labels that were annotated, the background's always; None for all.
        registrations: how channels were moved onto the first one, where the plan says so.
    """

    name: str
    image: Floats
    labels: npt.NDArray[np.int16] | None
    placement: Placement
    known: tuple[int, ...] | None = None
    registrations: tuple[Registration, ...] = ()

    __repr__ = short_repr


def nonzero_box(image_CZYX: Floats) -> Box:
    """The bounding box of all voxels where any channel is not zero; the whole volume if all voxels are zero.

    Source: Isensee et al. 2021, supplement 3 (cropping). Filling holes first, as nnU-Net does, cannot move the box.
    """
    filled = (image_CZYX != 0).any(axis=0)
    along_z, rest = filled.any(axis=(1, 2)), filled.any(axis=0)
    if not along_z.any():
        depth, height, width = filled.shape
        return Box.whole((depth, height, width))
    (z0, z1), (y0, y1), (x0, x1) = _span(along_z), _span(rest.any(axis=1)), _span(rest.any(axis=0))
    return Box(start=(z0, y0, x0), stop=(z1, y1, x1))


def _span(filled: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int(np.argmax(filled)), len(filled) - int(np.argmax(filled[::-1]))
