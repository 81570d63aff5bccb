"""Objects of the labels whose borders a network has learned: their interiors are apart, and grow until they meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.segmentation import watershed
from torch import Tensor

from nnseg.core.decisions import ObjectRule
from nnseg.core.geometry import TOUCHING
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.inference.postprocess import ROUNDING, Boxes, Mask

Numbers = npt.NDArray[np.int32]

FULL = 255
"""Level of a voxel whose label's probability is all of the interior."""

LEAST = 1e-12
"""Smaller probabilities of a label are raised to this before they divide."""


def merge_borders(probabilities: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Probabilities (K, z, y, x) of `Labels.whole`, and the level of the interior (z, y, x), uint8.

    A border's probability is added to that of its label. The level is the interior's share of this sum, 255 for all of it, where
    the label is the most probable one, and 0 elsewhere.

    Args:
        probabilities: of the labels with their borders.
        labels: with borders.
    """
    places = torch.tensor(labels.whole_indices, device=probabilities.device)
    merged = probabilities.new_zeros((len(labels.whole.names), *probabilities.shape[1:])).index_add_(0, places, probabilities)
    decided, level = merged.argmax(0), torch.zeros(probabilities.shape[1:], dtype=torch.uint8, device=probabilities.device)
    for name in labels.borders.values():
        place, interior = labels.whole.names.index(name), probabilities[labels.names.index(name)]
        share = (FULL * interior / merged[place].clamp(min=LEAST)).round().clamp(max=FULL).to(torch.uint8)
        level = torch.where(decided == place, share, level)
    return merged, level


def number_objects(
    labels_ZYX: Integers,
    interior_ZYX: npt.NDArray[np.uint8],
    labels: Labels,
    rules: Mapping[str, ObjectRule],
    *,
    voxel_mm3: float = 1.0,
) -> Integers:
    """Numbers of the objects in a label map (Z, Y, X): 1, 2, 3, ... over all labels, 0 where there is none; uint16, or uint32.

    Objects begin where the interior's level reaches the rule's, and grow over their label by falling level until they meet. A
    component in which none begins is one object.

    Args:
        labels_ZYX: label values.
        interior_ZYX: as `merge_borders` gives it.
        labels: of the label map.
        rules: by name of the label.
        voxel_mm3: volume of a voxel.
    """
    numbers, count = np.zeros(labels_ZYX.shape, np.int32), 0
    boxes = Boxes(labels_ZYX, [labels.by_name[name] for name in rules])
    for name, rule in rules.items():
        value = labels.by_name[name]
        if box := boxes.around([value]):
            mask = labels_ZYX[box] == value
            least = math.ceil(min(rule.smallest_mm3 / voxel_mm3, mask.size + 1.0) - ROUNDING)
            found = _grow(mask, interior_ZYX[box], rule.seed, least)
            numbers[box][found > 0] = found[found > 0] + count
            count += int(found.max())
    return as_small(numbers)


def as_small(numbers: Integers) -> Integers:
    """Numbers of objects in 16 bits, or in 32 where these do not suffice."""
    return numbers.astype(np.uint16 if numbers.max(initial=0) < 2**16 else np.uint32)


def count_objects(objects_ZYX: Integers, labels_ZYX: Integers, labels: Labels) -> dict[str, int]:
    """The number of objects of each label with a border.

    Args:
        objects_ZYX: numbers from 1, 0 where there is none.
        labels_ZYX: label values.
        labels: with borders.
    """
    return {
        name: np.unique(objects_ZYX[(labels_ZYX == labels.by_name[name]) & (objects_ZYX > 0)]).size
        for name in labels.borders.values()
    }


def mean_intensities(objects_ZYX: Integers, image_CZYX: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean intensity (n, C) of each object in each channel.

    Args:
        objects_ZYX: numbers from 1 to n, 0 where there is none.
        image_CZYX: of the scan.
    """
    flat = objects_ZYX.ravel()
    sizes = np.bincount(flat)[1:]
    sums = [np.bincount(flat, channel.ravel(), minlength=len(sizes) + 1)[1:] for channel in image_CZYX]
    return np.stack(sums, 1) / np.maximum(sizes, 1)[:, None]


def _grow(mask: Mask, interior: npt.NDArray[Any], seed: float, least: int) -> Numbers:
    """The objects in a mask, numbered without gaps; those of fewer than ``least`` voxels give way to their neighbours, or go."""
    seeds, _ = ndimage.label(mask & (interior >= seed * FULL), TOUCHING)
    numbers = _flood(seeds, mask, interior)
    sizes = np.bincount(numbers.ravel())
    if (sizes[1:] < least).any():
        kept = sizes >= least
        kept[0] = False
        numbers = _flood(np.where(kept[seeds], seeds, 0), mask, interior)
        sizes = np.bincount(numbers.ravel())
    kept = sizes >= max(least, 1)
    kept[0] = False
    return np.asarray(np.where(kept, np.cumsum(kept), 0)[numbers], np.int32)


def _flood(seeds: Numbers, mask: Mask, interior: npt.NDArray[Any]) -> Numbers:
    """Seeds grown over a mask by falling level of the interior; a component without any is one object."""
    parts, _ = ndimage.label(mask, TOUCHING)
    seeded = np.zeros(int(parts.max()) + 1, bool)
    seeded[parts[seeds > 0]] = True
    alone = mask & ~seeded[parts]
    begun = np.where(alone, parts + int(seeds.max()), seeds)
    return np.asarray(watershed(FULL - interior.astype(np.int16), begun, connectivity=TOUCHING, mask=mask), np.int32)
