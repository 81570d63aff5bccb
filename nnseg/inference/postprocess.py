"""Mending label maps: connected components removed, holes filled. Which, the model says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.image import Integers
from nnseg.core.labels import Labels

Mask = npt.NDArray[np.bool_]
Boxed = tuple[slice, ...]

TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a corner belong together (26 neighbours, 8 in a single slice), as nnU-Net has it."""
ROUNDING = 1e-6
"""Of a volume in voxels, which comes from a spacing that was rounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """The connected components of an object.

    Args:
        numbers: int32 (Z, Y, X), from 1; 0 is outside.
        sizes: voxels of each number, that of 0 is 0.
    """

    numbers: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]


def apply(
    labels_ZYX: Integers, mendings: Sequence[PostprocessingStep], labels: Labels, *, voxel_mm3: float | None = None
) -> Integers:
    """The label map with all mendings applied in order; what is removed becomes background. The input stays as it is.

    Besides the answer it takes at most eight bytes a voxel of the box around the object.

    Args:
        labels_ZYX: stored values.
        mendings: of the model.
        labels: what the values mean.
        voxel_mm3: volume of a voxel; only "smaller" asks for it.

    Raises:
        ValueError: a volume is to be compared and ``voxel_mm3`` is missing.
    """
    postprocessed = labels_ZYX.copy()
    values = [value for mending in mendings for value in mending.labels]
    boxes = Boxes(labels_ZYX, values)
    for mending in mendings:
        if box := boxes.around(mending.labels):
            _apply_step(postprocessed, box, mending, labels.values[0], voxel_mm3)
            if mending.action == "holes":
                boxes = Boxes(postprocessed, values)
    return postprocessed


class Boxes:
    """Where each of some label values lies, found in one pass. Removing never leaves a box; filling may grow another's."""

    def __init__(self, labels_ZYX: Integers, values: Sequence[int]) -> None:
        self._whole = tuple(slice(0, n) for n in labels_ZYX.shape)
        self._found = ndimage.find_objects(labels_ZYX, max(values)) if max(values, default=0) > 0 else []

    def around(self, values: Sequence[int]) -> Boxed | None:
        """The box around some of the values; None if none of them occurs."""
        if min(values) < 1:  # the search knows positive values only
            return self._whole
        boxes = [box for value in values if (box := self._found[value - 1])]
        if not boxes:
            return None
        return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def where(labels_ZYX: Integers, values: Sequence[int]) -> Mask:
    """Where a label map shows any of some values."""
    mask = np.empty(labels_ZYX.shape, bool)
    for z, plane in enumerate(labels_ZYX):  # slice by slice, as is all below, for NumPy's index arrays are eight times as large
        mask[z] = plane == values[0] if len(values) == 1 else np.isin(plane, values)
    return mask


def components(mask: Mask) -> Components:
    """The connected components of a mask."""
    numbers, n = ndimage.label(mask, TOUCHING)
    return Components(numbers=numbers, sizes=_sizes(numbers, n))


def flat_axes(labels_ZYX: Integers) -> tuple[bool, ...]:
    """Along which axes a label map has a single voxel."""
    return tuple(n == 1 for n in labels_ZYX.shape)


def removed_components(sizes: npt.NDArray[Any], mending: PostprocessingStep, voxel_mm3: float | None) -> Mask:
    """Which components a mending removes, by their sizes in voxels: all but the largest, ties kept, or all below a volume."""
    if mending.action == "largest":
        return np.asarray(sizes < sizes.max(initial=0))
    if mending.mm3 is None or voxel_mm3 is None:
        raise ValueError("removing components below a volume needs to know the volume of a voxel")
    return np.asarray(sizes < math.ceil(mending.mm3 / voxel_mm3 - ROUNDING))


def enclosed(mask: Mask, *, flat: tuple[bool, ...] = (False, False, False)) -> Mask:
    """Voxels outside of a mask from which no path through shared faces leads out of the box.

    Args:
        mask: (Z, Y, X), the whole object.
        flat: axes along which the label map has a single voxel, so that nothing leads out.
    """
    rim = [(0, 0) if single else (1, 1) for single in flat]
    outside = np.pad(mask, rim)
    numbers, _ = ndimage.label(np.logical_not(outside, out=outside))
    np.greater(numbers, 0, out=outside)
    outside &= numbers != numbers.flat[0]
    return outside[tuple(slice(before, size - after) for (before, after), size in zip(rim, numbers.shape, strict=True))]


def _apply_step(postprocessed: Integers, box: Boxed, mending: PostprocessingStep, background: int, voxel_mm3: float | None) -> None:
    """Change the box of a label map that holds the whole object."""
    part = postprocessed[box]
    mask = where(part, mending.labels)
    if mending.action == "holes":
        inside = enclosed(mask, flat=flat_axes(postprocessed))
        inside &= part == background
        part[inside] = mending.fill
        return
    found = components(mask)
    goes = removed_components(found.sizes, mending, voxel_mm3) & (found.sizes > 0)
    if goes.any():
        for plane, numbers in zip(part, found.numbers, strict=True):
            plane[goes[numbers]] = background


def _sizes(numbers: npt.NDArray[np.int32], n: int) -> npt.NDArray[np.int64]:
    sizes = np.zeros(n + 1, np.int64)
    for plane in numbers:
        sizes += np.bincount(plane.ravel(), minlength=n + 1)
    sizes[0] = 0
    return sizes
