"""Augmentation of the previous stage's segmentation, which a cascade's network has as an input.

The segmentations in training are of networks that were not trained on the case, and better than some in prediction. So that the
network does not rely on them, borders are moved, gaps closed, bridges cut and small components removed. Distances are in voxels.

Source: nnU-Net 2 (Isensee et al. 2021, and the transforms of its cascade), for the changes and their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from nnseg.core.plan import Plan
from nnseg.network.inputs import network_input

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int16]

MORPHOLOGY_PROBABILITY: Final = 0.4
REMOVAL_PROBABILITY: Final = 0.2
LABEL_PROBABILITY: Final = 0.5
"""Probability that the borders, or the components, of a patch are changed, and of each label to be among the changed ones."""

RADIUS: Final = (1.0, 8.0)
"""Range of the radius of the ball that borders are moved by, in voxels."""

SMALL: Final = 0.15
"""Share of the patch above which a component is never removed."""


def cascade_input(scan: Tensor, previous: Tensor, generators: Sequence[np.random.Generator], plan: Plan) -> Tensor:
    """The input of a cascade's network: the scan's channels, then one for each label of the changed previous segmentation.

    Args:
        scan: float32 (B, C, *space).
        previous: (B, 1, *space), label indices.
        generators: one for each patch.
        plan: of the cascade.
    """
    patches = zip(previous[:, 0].to("cpu", torch.int16).numpy(), generators, strict=True)
    corrupted = np.stack([corrupt(rng, indices, labels=len(plan.labels.values)) for indices, rng in patches])
    return network_input(torch.cat([scan, torch.from_numpy(corrupted).to(scan)[:, None]], dim=1), plan)


def corrupt(rng: np.random.Generator, indices: Indices, *, labels: int) -> Indices:
    """The previous segmentation of one patch with random errors; a new array if anything changes.

    Args:
        rng: of the patch.
        indices: (*space) of labels.
        labels: their number, with the background.
    """
    return remove_components(rng, move_borders(rng, indices, labels), labels)


def move_borders(rng: np.random.Generator, indices: Indices, labels: int) -> Indices:
    """The label map with some labels dilated, eroded, closed or opened with a ball, one after the other in random order.

    Voxels that a label gains are taken from the others; those it loses become background.
    """
    if rng.random() >= MORPHOLOGY_PROBABILITY:
        return indices
    for label in rng.permutation(_draw_labels(rng, labels)):
        change, radius = OPERATORS[int(rng.integers(len(OPERATORS)))], float(rng.uniform(*RADIUS))
        mask = indices == label
        if mask.any():
            indices = np.where(_change_in_box(mask, radius, change), label, np.where(mask, 0, indices)).astype(np.int16)
    return indices


def remove_components(rng: np.random.Generator, indices: Indices, labels: int) -> Indices:
    """The label map without one small connected component (26 neighbours in 3D) of some labels."""
    if rng.random() >= REMOVAL_PROBABILITY:
        return indices
    for label in _draw_labels(rng, labels):
        components, count = ndimage.label(indices == label, structure=np.ones((3,) * indices.ndim))
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        small = [number for number in range(1, count + 1) if sizes[number] < SMALL * indices.size]
        if small:
            indices = np.where(components == small[int(rng.integers(len(small)))], np.int16(0), indices)
    return indices


def dilated(mask: Mask, radius: float) -> Mask:
    """The voxels within ``radius`` of the mask."""
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius) if mask.any() else mask


def eroded(mask: Mask, radius: float) -> Mask:
    """The mask's voxels further than ``radius`` from all others; the space around the patch counts as mask."""
    return np.asarray(ndimage.distance_transform_edt(mask) > radius) if not mask.all() else mask


def closed(mask: Mask, radius: float) -> Mask:
    """Dilated, then eroded."""
    return eroded(dilated(mask, radius), radius)


def opened(mask: Mask, radius: float) -> Mask:
    """Eroded, then dilated."""
    return dilated(eroded(mask, radius), radius)


Operator = Callable[[Mask, float], Mask]
OPERATORS: Final[tuple[Operator, ...]] = (dilated, eroded, closed, opened)


def _draw_labels(rng: np.random.Generator, labels: int) -> list[int]:
    return [label for label in range(1, labels) if rng.random() < LABEL_PROBABILITY]


def _change_in_box(mask: Mask, radius: float, change: Operator) -> Mask:
    """The changed mask, computed only in the box it can reach, because distance transforms are slow."""
    reach = int(radius) + 1
    box = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in ndimage.find_objects(mask.astype(np.int8))[0])
    changed = np.zeros_like(mask)
    changed[box] = change(mask[box], radius)
    return changed
