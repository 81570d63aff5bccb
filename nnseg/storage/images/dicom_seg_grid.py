"""The frames of a DICOM-SEG object, and the grid that they span.

Source: DICOM PS3.3, C.7.6.16 (functional groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.geometry import SHEAR_LIMIT, Grid, Vector, as_shape
from nnseg.core.limits import check_limit
from nnseg.storage.images.dicom_values import item_of, number_of, numbers_of, value_of
from nnseg.storage.images.raw import make_grid

PLACE_TOLERANCE = 0.02
"""Share of the distance of slices by which a frame may lie beside its place in an even stack."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of cosines between frames that counts as rounding."""


@dataclass(frozen=True, kw_only=True)
class SegmentFrame:
    """One plane of one segment.

    Args:
        index: in the file, from 0.
        segment: its number; 0 where the pixels are the numbers.
        position: mm of its first pixel; () if it is not known.
        number: in the stack, from 0; 0 if it is not said.
    """

    index: int
    segment: int
    position: tuple[float, ...]
    number: int


def read_frames(path: Path, dataset: Any) -> list[SegmentFrame]:
    """The frames of an object, in their order in the file.

    Raises:
        ScanError: it is of a whole slide image, or its functional groups or positions are not complete.
    """
    count = int(number_of(dataset, "NumberOfFrames") or 1)
    check_limit("frames", count, path, "announces {:,} frames", ScanError, "divide it", "NS-S037")
    groups = value_of(dataset, "PerFrameFunctionalGroupsSequence") or ()
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    if "TotalPixelMatrixRows" in dataset:
        found = f"is a segmentation of a whole slide image, in {count} tiles"
        raise ScanError.at(path, found, "slices of a volume", "convert it to a picture")
    if len(groups) != count:
        found = f"has {count} frames and {len(groups)} functional groups"
        raise ScanError.at(path, found, "one group per frame", "export it again")
    frames = [_frame(index, group, shared) for index, group in enumerate(groups)]
    if len({len(frame.position) for frame in frames}) > 1:
        raise ScanError.at(path, "has frames without ImagePositionPatient", "a position of each frame", "export it again")
    return frames


def _frame(index: int, group: Any, shared: Any) -> SegmentFrame:
    segment, place, content = (
        item_of(group, name) or item_of(shared, name)
        for name in ("SegmentIdentificationSequence", "PlanePositionSequence", "FrameContentSequence")
    )
    position = numbers_of(place, "ImagePositionPatient")
    return SegmentFrame(
        index=index,
        segment=int(number_of(segment, "ReferencedSegmentNumber") or 0),
        position=position if len(position) == 3 else (),
        number=max(0, int(number_of(content, "InStackPositionNumber") or 1) - 1),
    )


def span_grid(
    path: Path, dataset: Any, frames: Sequence[SegmentFrame], given: Vector | None
) -> tuple[Grid, list[int], tuple[str, ...]]:
    """The grid that the frames span, the slice of each frame, and notes of what was assumed."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not frames[0].position:
        shape = as_shape((max(frame.number for frame in frames) + 1, rows, columns))
        return Grid(shape=shape, spacing=given or (1.0, 1.0, 1.0)), [frame.number for frame in frames], ()
    along_row, along_column = _orientation(path, dataset)
    normal = np.cross(along_row, along_column)
    spacing = _measure(path, dataset, "PixelSpacing")
    if len(spacing) != 2:
        raise ScanError.at(path, "has no PixelSpacing", "the size of its pixels", "export it again")
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    lowest = int(heights.argmin())
    between, note = _distance(path, dataset, heights - heights[lowest], min(spacing), given)
    places = np.rint((heights - heights[lowest]) / between).astype(int)
    highest = int(places.argmax())
    upward = (positions[highest] - positions[lowest]) / places[highest] if places[highest] else normal * between
    away = np.linalg.norm(positions - positions[lowest] - places[:, None] * upward, axis=1)
    if away.max() > PLACE_TOLERANCE * between:
        found = f"has frame {int(away.argmax()) + 1} {away.max():.2g} mm beside its place"
        raise ScanError.at(path, found, "frames in a line with even steps", "resample it")
    if np.linalg.norm(upward - normal * between) <= SHEAR_LIMIT * between:
        upward = normal * between
    steps = np.stack([upward, along_column * spacing[0], along_row * spacing[1]])
    grid = make_grid(path, (int(places[highest]) + 1, rows, columns), steps, positions[lowest])
    return replace(grid, spacing=(grid.spacing[0], spacing[0], spacing[1])), places.tolist(), (note,) if note else ()


def _orientation(path: Path, dataset: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors along the rows and along the columns."""
    found = np.array(_each(dataset, "PlaneOrientationSequence", "ImageOrientationPatient"))
    if found.shape[1:] != (6,):
        raise ScanError.at(path, "has frames without ImageOrientationPatient", "the direction of each", "export it again")
    if np.abs(found - found[0]).max() > ORIENTATION_TOLERANCE:
        raise ScanError.at(path, "has frames in different directions", "parallel slices", "divide it into several files")
    along_row, along_column = (axis / np.linalg.norm(axis) for axis in (found[0, :3], found[0, 3:]))
    return along_row, along_column


def _measure(path: Path, dataset: Any, keyword: str) -> tuple[float, ...]:
    """The numbers of a measure that all frames share; () if it is missing."""
    found = _each(dataset, "PixelMeasuresSequence", keyword)
    if any(not np.allclose(other, found[0], rtol=1e-3) for other in found[1:]):
        raise ScanError.at(path, f"has frames of different {keyword}", "one for all", "divide it into several files")
    return found[0]


def _each(dataset: Any, group: str, keyword: str) -> list[tuple[float, ...]]:
    """The different numbers of an attribute in a functional group of the frames."""
    shared = numbers_of(item_of(item_of(dataset, "SharedFunctionalGroupsSequence"), group), keyword)
    if shared:
        return [shared]
    return list({numbers_of(item_of(own, group), keyword): None for own in dataset.PerFrameFunctionalGroupsSequence})


def _distance(path: Path, dataset: Any, heights: npt.NDArray[np.float64], pixel: float, given: Vector | None) -> tuple[float, str]:
    """The distance in mm of neighbouring slices, and a note of what was assumed.

    Args:
        heights: of all frames above the lowest.
        pixel: mm; positions closer than a hundredth of it are the same.
    """
    said = abs(next(iter(_measure(path, dataset, "SpacingBetweenSlices")), 0.0))
    levels = np.unique(np.rint(heights / (pixel / 100))) * (pixel / 100)
    gaps = np.diff(levels)
    gaps = gaps[gaps > pixel / 50]
    if not len(gaps):
        thickness = next(iter(_measure(path, dataset, "SliceThickness")), 0.0)
        known = next((v for v in (said, thickness, given[0] if given else 0.0) if v > 0), 0.0)
        if not known:
            raise ScanError.at(path, "does not say how thick its slice is", "SliceThickness", "export it again")
        return known, "" if said else "it holds one slice, whose thickness counts as the distance of slices"
    for step in (said, float(gaps.min())):
        steps = np.rint(heights / step) if step > 0 else np.zeros(1)
        exact = float(heights.max() / steps.max()) if steps.max() else 0.0
        if exact and np.abs(heights - steps * exact).max() <= PLACE_TOLERANCE * exact and abs(exact / step - 1) < PLACE_TOLERANCE:
            return exact, ""
    found = f"has slices at uneven distances, from {gaps.min():.3g} to {gaps.max():.3g} mm"
    raise ScanError.at(path, found, "even steps", "resample it")
