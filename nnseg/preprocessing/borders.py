"""`add_borders` makes the edge of each object a label of its own, by which a network tells objects apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.geometry import TOUCHING, Vector
from nnseg.core.image import Integers
from nnseg.core.labels import Labels

FAR = 1e6
"""Spacing of an axis across which no border is drawn."""


def add_borders(
    indices_ZYX: npt.NDArray[np.int16], objects_ZYX: Integers | None, labels: Labels, *, width: float, spacing: Vector
) -> npt.NDArray[np.int16]:
    """Label indices in which the edge of each object has the index of its label's border.

    Border is what lies within ``width``, or one voxel, of a voxel outside the object, but not more than half as far inside as the
    object's innermost voxel: an object of any size keeps an interior.

    Args:
        indices_ZYX: label indices, -1 where ignored.
        objects_ZYX: numbers of the objects, 0 where there is none; None for connected components.
        labels: with ``borders``.
        width: of the border.
        spacing: of the voxels, in the unit of ``width``; `FAR` along an axis across which there is no border.
    """
    result = indices_ZYX.copy()
    least = max(width, min(spacing))
    for border, name in labels.borders.items():
        mask, edge = indices_ZYX == labels.names.index(name), labels.names.index(border)
        numbers = _compact(mask, objects_ZYX)
        for number, box in enumerate(ndimage.find_objects(numbers), 1):
            around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
            inside = numbers[around] == number
            if inside.all():  # the image's only object has no edge
                continue
            depth = ndimage.distance_transform_edt(inside, sampling=spacing)
            result[around][inside & (depth <= min(least, depth.max() / 2))] = edge
    return result


def _compact(mask: npt.NDArray[np.bool_], objects_ZYX: Integers | None) -> npt.NDArray[np.int32]:
    """The objects in a mask, numbered 1, 2, 3, ... without gaps."""
    if objects_ZYX is None:
        numbers: npt.NDArray[np.int32] = ndimage.label(mask, TOUCHING)[0]
        return numbers
    inside = mask & (objects_ZYX != 0)
    numbers = np.zeros(mask.shape, np.int32)
    numbers[inside] = np.unique(objects_ZYX[inside], return_inverse=True)[1] + 1
    return numbers
