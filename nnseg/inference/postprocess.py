"""Postprocessing of label maps: removing connected components and filling holes, as the model's steps say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.geometry import TOUCHING
from nnseg.core.image import Integers
from nnseg.core.labels import Labels

Mask = npt.NDArray[np.bool_]
Boxed = tuple[slice, ...]

ROUNDING = 1e-6
"""Tolerance in voxels of a least volume, since spacings are rounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """The connected components of an object.

    Args:
        numbers: int32 (Z, Y, X), from 1; 0 is outside.
        sizes: voxels of each number; 0 for number 0.
    """

    numbers: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]


def postprocess(
    labels_ZYX: Integers, steps: Sequence[PostprocessingStep], labels: Labels, *, voxel_mm3: float | None = None
) -> Integers:
    """A new label map with all steps applied in order; what is removed becomes background.

    Besides the result it takes at most eight bytes per voxel of the box around the object.

    Args:
        labels_ZYX: label values.
        steps: of the model.
        labels: declares the values.
        voxel_mm3: volume of a voxel; needed by the action "smaller".

    Raises:
        ValueError: ``voxel_mm3`` is needed and missing.
    """
    postprocessed = labels_ZYX.copy()
    values = [value for step in steps for value in step.labels]
    boxes = Boxes(labels_ZYX, values)
    for step in steps:
        if box := boxes.around(step.labels):
            _apply_step(postprocessed, box, step, labels.values[0], voxel_mm3)
            if step.action == "holes":
                boxes = Boxes(postprocessed, values)
    return postprocessed


class Boxes:
    """Bounding boxes of some label values, found in one pass. Removing keeps them valid; filling holes may enlarge one."""

    def __init__(self, labels_ZYX: Integers, values: Sequence[int]) -> None:
        self._whole = tuple(slice(0, n) for n in labels_ZYX.shape)
        self._found = ndimage.find_objects(labels_ZYX, max(values)) if max(values, default=0) > 0 else []

    def around(self, values: Sequence[int]) -> Boxed | None:
        """The box around some of the values; None if none of them occurs."""
        if min(values) < 1:  # SciPy finds positive values only
            return self._whole
        boxes = [box for value in values if (box := self._found[value - 1])]
        if not boxes:
            return None
        return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def mask_of(labels_ZYX: Integers, values: Sequence[int]) -> Mask:
    """The voxels of a label map with any of some values."""
    mask = np.empty(labels_ZYX.shape, bool)
    for z, plane in enumerate(labels_ZYX):  # slice by slice, as below, since NumPy's index arrays are eight times as large
        mask[z] = plane == values[0] if len(values) == 1 else np.isin(plane, values)
    return mask


def components(mask: Mask) -> Components:
    """The connected components of a mask."""
    numbers, n = ndimage.label(mask, TOUCHING)
    return Components(numbers=numbers, sizes=_sizes(numbers, n))


def flat_axes(labels_ZYX: Integers) -> tuple[bool, ...]:
    """For each axis, whether the label map has a single voxel along it."""
    return tuple(n == 1 for n in labels_ZYX.shape)


def removed_components(sizes: npt.NDArray[Any], step: PostprocessingStep, voxel_mm3: float | None) -> Mask:
    """Which components a step removes, by their sizes in voxels: all but the largest (ties are kept), or all below a volume."""
    if step.action == "largest":
        return np.asarray(sizes < sizes.max(initial=0))
    if step.mm3 is None or voxel_mm3 is None:
        raise ValueError("removing components below a volume needs the volume of a voxel")
    return np.asarray(sizes < math.ceil(step.mm3 / voxel_mm3 - ROUNDING))


def find_holes(mask: Mask, *, flat: tuple[bool, ...] = (False, False, False)) -> Mask:
    """Voxels outside a mask from which no path through shared faces leads out of the box.

    Args:
        mask: (Z, Y, X), the whole object.
        flat: axes along which the label map has a single voxel, and which no path follows.
    """
    rim = [(0, 0) if single else (1, 1) for single in flat]
    outside = np.pad(mask, rim)
    numbers, _ = ndimage.label(np.logical_not(outside, out=outside))
    np.greater(numbers, 0, out=outside)
    outside &= numbers != numbers.flat[0]
    return outside[tuple(slice(before, size - after) for (before, after), size in zip(rim, numbers.shape, strict=True))]


def _apply_step(postprocessed: Integers, box: Boxed, step: PostprocessingStep, background: int, voxel_mm3: float | None) -> None:
    """Apply a step to the box of a label map that contains the whole object."""
    part = postprocessed[box]
    mask = mask_of(part, step.labels)
    if step.action == "holes":
        inside = find_holes(mask, flat=flat_axes(postprocessed))
        inside &= part == background
        part[inside] = step.fill
        return
    found = components(mask)
    removed = removed_components(found.sizes, step, voxel_mm3) & (found.sizes > 0)
    if removed.any():
        for plane, numbers in zip(part, found.numbers, strict=True):
            plane[removed[numbers]] = background


def _sizes(numbers: npt.NDArray[np.int32], n: int) -> npt.NDArray[np.int64]:
    sizes = np.zeros(n + 1, np.int64)
    for plane in numbers:
        sizes += np.bincount(plane.ravel(), minlength=n + 1)
    sizes[0] = 0
    return sizes
