"""Volumes onto another number of voxels. Source: nnU-Net's default resampling (Isensee et al. 2021, supplement 3).

Images follow a spline (order 3), labels the arg-max over linearly resized indicators, probabilities a linear interpolation. Where
one axis is much coarser than the others its slices are resized on their own, and missing slices are repeated rather than blended:
between slices far apart a spline would invent anatomy. Voxel centres keep their half-voxel alignment, edges repeat, and nothing
is smoothed before downsampling: nnU-Net does not, and networks trained either way must see alike images.

Order 1 is computed here, one axis after the other, which gives SciPy's numbers several times sooner and starts without torch;
orders 0 and 3 by scikit-image, nnU-Net's own choice; labels by batchgenerators, whose rule it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from batchgenerators.augmentations.utils import resize_segmentation
from skimage.transform import resize

from nnseg.core.geometry import Shape, Vector
from nnseg.core.image import Floats

Voxels = npt.NDArray[Any]
Rule = Callable[[Voxels, Sequence[int]], Voxels]


def resample_image(image_CZYX: Floats, shape: Shape, *, order: int, separate: int | None = None) -> Floats:
    """The image, or probabilities, on ``shape`` voxels; the input itself if that is its shape.

    Args:
        order: 0 nearest, 1 linear, 3 cubic spline clipped to the range of its input.
        separate: the axis of space whose slices are resized one by one.
    """
    if image_CZYX.shape[1:] == shape:
        return image_CZYX
    rule: Rule = _linear if order == 1 else partial(_spline, order=order)
    result = np.empty((len(image_CZYX), *shape), np.float32)
    for resized, channel in zip(result, image_CZYX, strict=True):
        resized[...] = _resized(channel, shape, rule, separate)
    return result


def resample_labels(labels_ZYX: npt.NDArray[np.int16], shape: Shape, *, separate: int | None = None) -> npt.NDArray[np.int16]:
    """The label map on ``shape`` voxels: each voxel gets the label whose linearly resized indicator is largest there."""
    if labels_ZYX.shape == shape:
        return labels_ZYX
    return np.ascontiguousarray(_resized(labels_ZYX, shape, _likeliest, separate))


def separate_axis(current: Vector, new: Vector, ratio: float) -> int | None:
    """The axis to resample on its own, if there is one.

    It is the coarsest axis of the first spacing, of ``current`` and ``new``, whose coarsest and finest axes differ by more than
    ``ratio``; none if two axes are equally coarse there.
    """
    for spacing in (current, new):
        if max(spacing) / min(spacing) > ratio:
            return spacing.index(max(spacing)) if spacing.count(max(spacing)) == 1 else None
    return None


def _resized(volume: Voxels, shape: Shape, rule: Rule, separate: int | None) -> Voxels:
    if separate is None:
        return rule(volume, shape)
    slices = np.moveaxis(volume, separate, 0)
    in_plane = [n for axis, n in enumerate(shape) if axis != separate]
    wanted = _nearest(len(slices), shape[separate])
    made = {i: slices[i] if list(slices.shape[1:]) == in_plane else rule(slices[i], in_plane) for i in set(wanted)}
    return np.stack([made[i] for i in wanted], axis=separate)


def _nearest(old: int, new: int) -> list[int]:
    """For each of ``new`` positions the one of ``old`` whose centre is nearest, both spread over the same extent."""
    return [min(old - 1, math.floor(old / new * (i + 0.5))) for i in range(new)]


def _spline(volume: Voxels, shape: Sequence[int], *, order: int) -> Voxels:
    fine = volume.astype(np.float64)
    return np.asarray(resize(fine, shape, order, mode="edge", clip=True, anti_aliasing=False), np.float32)


def _linear(volume: Voxels, shape: Sequence[int]) -> Voxels:
    """Shrinking axes first, so that later ones have less to do."""
    result: Voxels = volume.astype(np.float32)
    for axis in sorted(range(volume.ndim), key=lambda a: shape[a] / volume.shape[a]):
        if shape[axis] != volume.shape[axis]:
            result = _linear_along(result, axis, shape[axis])
    return result


def _linear_along(volume: Voxels, axis: int, new: int) -> Voxels:
    old = volume.shape[axis]
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.minimum(places.astype(np.intp), max(old - 2, 0))
    share = (places - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
    below: Voxels = volume.take(low, axis)
    above: Voxels = volume.take(np.minimum(low + 1, old - 1), axis)
    above -= below
    above *= share
    above += below
    return above


def _likeliest(volume: Voxels, shape: Sequence[int]) -> Voxels:
    return np.asarray(resize_segmentation(volume, tuple(shape), order=1))
