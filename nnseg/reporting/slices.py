"""The slices that show most of a case's labels, trimmed to them, with the outlines of the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from nnseg.core.geometry import PLANES, Box, as_shape
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages

LONGEST_SIDE = 400
"""Pixels of the longer side of each picture of a volume; of a single picture twice as many."""
MARGIN = 0.3
"""Context kept around what is labelled, as a share of its extent; at least `LEAST_MARGIN` voxels."""
LEAST_MARGIN = 8

Points = npt.NDArray[np.float64]
Outline = tuple[str, Points]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One slice, ready to draw.

    Args:
        plane: "axial", "coronal" or "sagittal".
        title: plane and slice in words; empty for a 2D image.
        grey: uint8 (H, W), square pixels.
        reference, prediction: label name and outline, (points, 2) as x, y in pixels of ``grey``.
        area: of the reference in square mm.
    """

    plane: str
    title: str
    grey: npt.NDArray[np.uint8]
    reference: tuple[Outline, ...]
    prediction: tuple[Outline, ...]
    area: float

    @property
    def aspect(self) -> float:
        """Width over height."""
        height, width = self.grey.shape
        return float(width / height)


def find_views(case: CaseImages) -> tuple[View, ...]:
    """Slices of the first channel, trimmed to what is labelled: one of a 2D image, three orthogonal ones of a volume.

    They are those with most of the reference; of the prediction if there is no reference, or it is empty.
    """
    maps = [a for a in (case.reference, case.prediction) if a is not None]
    masks = [_labelled(case.labels, label_map) for label_map in maps]
    box = box_around(np.logical_or.reduce(masks), lambda extent: max(LEAST_MARGIN, round(MARGIN * (extent - 1)))).slices
    shown = next((mask for mask in masks if mask.any()), masks[0])
    image = case.image[0][box]
    low, high = np.percentile(image, [0.5, 99.5])
    grey = np.clip((image.astype(np.float64) - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    sides = [None if a is None else a[box] for a in (case.reference, case.prediction)]
    spacing, axes = np.array(case.grid.spacing), (0,) if case.grid.is_2d else (0, 1, 2)
    draw = partial(_view, grey=grey, sides=sides, labels=case.labels, shown=shown[box], spacing=spacing)
    return tuple(draw(axis, start=box[axis].start) for axis in axes)


def _labelled(labels: Labels, label_map: Integers) -> npt.NDArray[np.bool_]:
    values = [v for region in labels.regions for v in region.values] or labels.values[1:]
    return np.isin(label_map, values)


def box_around(mask: npt.NDArray[np.bool_], margin: Callable[[int], int]) -> Box:
    """The box of all true voxels (z, y, x), with a margin; the whole if there are none.

    Args:
        mask: (Z, Y, X).
        margin: voxels to add on both sides, from the extent along an axis.
    """
    starts, stops = [], []
    for axis, length in enumerate(mask.shape):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(where[0]), int(where[-1]) + 1) if where.size else (0, length)
        context = margin(last - first)
        starts.append(max(0, first - context))
        stops.append(min(length, last + context))
    return Box(start=as_shape(starts), stop=as_shape(stops))


def _view(
    axis: int,
    *,
    grey: npt.NDArray[np.uint8],
    sides: Sequence[Integers | None],
    labels: Labels,
    shown: npt.NDArray[np.bool_],
    spacing: npt.NDArray[np.float64],
    start: int,
) -> View:
    """The slice across ``axis`` with most of ``shown``; slices along z are drawn with the head up."""
    areas = shown.sum(axis=tuple(a for a in range(3) if a != axis))
    index = int(np.argmax(areas)) if areas.any() else len(areas) // 2
    turn = slice(None) if axis == 0 else slice(None, None, -1)
    slice_mm = np.delete(spacing, axis)
    plane = np.take(grey, index, axis)[turn]
    longest_side = LONGEST_SIDE * (2 if len(grey) == 1 else 1)
    scale = slice_mm * longest_side / max(np.array(plane.shape) * slice_mm)
    height, width = (max(1, round(n * s)) for n, s in zip(plane.shape, scale, strict=True))
    reference, prediction = (() if side is None else _outlines(labels, np.take(side, index, axis)[turn], scale) for side in sides)
    return View(
        plane=PLANES[axis],
        title=f"{PLANES[axis]}, {'zyx'[axis]} = {start + index}" if len(areas) > 1 or axis else "",
        grey=np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)),
        reference=reference,
        prediction=prediction,
        area=float(areas[index] * np.prod(slice_mm)),
    )


def _outlines(labels: Labels, plane: Integers, scale: npt.NDArray[np.float64]) -> tuple[Outline, ...]:
    """Outlines of a slice (rows, columns) as x, y in pixels; ``scale`` is pixels per voxel along rows and columns."""
    found = []
    for name in labels.foreground:
        for line in find_contours(np.pad(labels.mask(name, plane), 1).astype(np.float64), 0.5):
            found.append((name, approximate_polygon((line - 0.5) * scale, 0.25)[:, ::-1]))  # -1: padding, +0.5: voxel centres
    return tuple(found)
