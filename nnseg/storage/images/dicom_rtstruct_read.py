"""RT Structure Set as a label map: the contours of each ROI, filled on the grid of the scan that they were drawn on.

Source: DICOM PS3.3, C.8.8.5 and C.8.8.6 (structure set, contours).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.colours import Colour
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.storage.images.codes import VALUE_TEXT
from nnseg.storage.images.dicom_headers import open_dataset, quiet
from nnseg.storage.images.dicom_layers import layered
from nnseg.storage.images.dicom_values import UNREADABLE, number_of, numbers_of, text_of, value_of
from nnseg.storage.images.raw import LabelSegment, RawImage, ReadOptions, check_size, smallest_integer_type

BESIDE_SLICE = 0.25
"""Largest distance in slice spacings of a contour from the slice that it is drawn on."""

CROSSINGS, FAR, ON_EDGE = 2**20, 1e9, 1e-9
"""Crossings of edges and rows that are computed at a time; voxels from the origin that corners may have; distance from an edge of
a centre that lies on it."""

FILLED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Geometric types of contours that enclose an area."""


def read_rtstruct(path: Path, grid: Grid, options: ReadOptions) -> RawImage:
    """The contours as a label map on a grid, with a channel for each layer of overlapping ROIs.

    A voxel belongs to an ROI if its centre lies inside an odd number of the ROI's contours on its slice, so that a contour within
    another is a hole. Values are the labels' own if nnseg wrote the file, else the numbers of the ROIs.

    Args:
        grid: of the scan, as stored.

    Raises:
        ScanError: the file cannot be read, or contours lie between the slices of the scan or outside of it.
    """
    check_size(path, grid.shape, np.uint16, options)
    with quiet():
        dataset = open_dataset(path)
        try:
            return _read(path, dataset, grid, options)
        except UNREADABLE as error:
            raise ScanError.at(path, f"cannot be read ({error})", "an RT Structure Set", "export it again") from error


def _read(path: Path, dataset: Any, grid: Grid, options: ReadOptions) -> RawImage:
    contours = {int(number_of(one, "ReferencedROINumber") or 0): one for one in value_of(dataset, "ROIContourSequence") or ()}
    rois = {int(number_of(one, "ROINumber") or 0): one for one in value_of(dataset, "StructureSetROISequence") or ()}
    segments = _segments(rois, contours)
    dtype = smallest_integer_type(np.array([0, *(segment.value for segment in segments.values())]))
    masks = ((number, [*_slices(path, contours[number], grid)]) for number in segments if number in contours)
    layers, channels = layered(path, masks, segments, np.zeros(grid.shape, dtype), options)
    points = [name for name, one in ((segments[n].name, contours.get(n)) for n in segments) if one is not None and _is_open(one)]
    notes = (f"contours of {', '.join(points)} enclose no area and were left out",) if points else ()
    placed = [
        LabelSegment(name=one.name, value=one.value, channel=channels[number], colour=one.colour)
        for number, one in segments.items()
    ]
    return RawImage(voxels=np.stack(layers), grid=grid, files=(path,), segments=tuple(placed), notes=notes)


def _segments(rois: dict[int, Any], contours: dict[int, Any]) -> dict[int, LabelSegment]:
    """Name, value and colour of each ROI, by its number."""
    written = {number: re.fullmatch(VALUE_TEXT.format(r"(-?\d+)"), text_of(one, "ROIDescription")) for number, one in rois.items()}
    values = {number: int(match[1]) for number, match in written.items() if match}
    own = len(set(values.values())) == len(rois)
    return {
        number: LabelSegment(
            name=text_of(one, "ROIName") or f"ROI {number}",
            value=values[number] if own else number,
            colour=_colour(contours.get(number)),
        )
        for number, one in rois.items()
    }


def _colour(contours: Any) -> Colour | None:
    parts = [int(part) for part in numbers_of(contours, "ROIDisplayColor")]
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(0 <= part <= 255 for part in parts) else None


def _is_open(contours: Any) -> bool:
    return any(text_of(one, "ContourGeometricType") not in FILLED for one in value_of(contours, "ContourSequence") or ())


def _slices(path: Path, contours: Any, grid: Grid) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """The slices of an ROI, each once, with their masks (Y, X)."""
    masks: dict[int, npt.NDArray[np.bool_]] = {}
    back = np.linalg.inv(grid.steps)
    for one in value_of(contours, "ContourSequence") or ():
        if text_of(one, "ContourGeometricType") not in FILLED:
            continue
        points = np.array(numbers_of(one, "ContourData")).reshape(-1, 3)
        if len(points) < 3 or not np.isfinite(points).all():
            raise ScanError.at(path, f"has a contour of {len(points)} points", "three and more", "export it again")
        index = (points - grid.origin) @ back
        z = round(float(np.clip(index[:, 0].mean(), -1, grid.shape[0])))
        if not 0 <= z < grid.shape[0] or np.abs(index[:, 0] - z).max() > BESIDE_SLICE:
            place = ", ".join(f"{value:.1f}" for value in points[0])
            found = f"has a contour at ({place}) mm, which lies on no slice of the scan"
            raise ScanError.at(path, found, "contours on its slices", "give the series that they were drawn on")
        mask = masks.setdefault(z, np.zeros(grid.shape[1:], bool))
        corner = np.floor(index[:, 1:].min(axis=0)).clip(0, mask.shape).astype(int)
        end = np.floor(index[:, 1:].max(axis=0) + 1).clip(corner, mask.shape).astype(int)
        part = mask[corner[0] : end[0], corner[1] : end[1]]
        part ^= filled(index[:, 1:] - corner, part.shape)
    yield from sorted(masks.items())


def filled(points_YX: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The voxels (Y, X) whose centres lie inside a polygon by the even-odd rule, or on its edge.

    Each edge changes the parity of all voxels to its right in the rows that it crosses, so that the time grows with the crossings,
    not with the points times the voxels.

    Args:
        points_YX: corners in voxels; the last is joined to the first.
    """
    height, width = shape
    toggles = np.zeros((height, width + 1), np.int32)
    on_edge = np.zeros((height, width + 1), np.int32)
    y, x = points_YX.clip(-FAR, FAR).T
    edges = np.stack([y, x, np.roll(y, -1), np.roll(x, -1)], axis=1)
    for some in np.array_split(edges, len(edges) * height // CROSSINGS + 1):
        y0, x0, y1, x1 = some.T
        first = np.clip(np.ceil(np.minimum(y0, y1)), 0, height).astype(int)
        rows = np.clip(np.floor(np.maximum(y0, y1)) + 1, 0, height).astype(int) - first
        edge = np.repeat(np.arange(len(some)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows - first, rows)
        flat = (y0 == y1)[edge]
        along = (row - y0[edge]) / np.where(flat, 1, (y1 - y0)[edge])
        places = x0[edge] + along * (x1 - x0)[edge]
        crossed = ~flat & (row < np.maximum(y0, y1)[edge])
        np.add.at(toggles, (row[crossed], np.clip(np.ceil(places[crossed]), 0, width).astype(int)), 1)
        least = np.where(flat, np.minimum(x0, x1)[edge], places) - ON_EDGE
        most = np.where(flat, np.maximum(x0, x1)[edge], places) + ON_EDGE
        np.add.at(on_edge, (row, np.clip(np.ceil(least), 0, width).astype(int)), 1)
        np.add.at(on_edge, (row, np.clip(np.floor(most) + 1, 0, width).astype(int)), -1)
    inside = toggles.cumsum(axis=1) % 2 == 1
    return np.asarray((inside | (on_edge.cumsum(axis=1) > 0))[:, :width])
