"""The previous answer in a cascade's training patches: kept whole, and spoiled, so that the network does not learn to trust it.

The answers shown in training are those of networks that had not seen the case, and still they are better than some that prediction
meets. So borders are moved, gaps closed, bridges cut and small pieces lost. Distances are in voxels, whatever their spacing.

Source: nnU-Net 2 (Isensee et al. 2021, and the transforms of its cascade), for what is done and how often.
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
from nnseg.network.build import network_input

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int16]

MORPHOLOGY_PROBABILITY: Final = 0.4
REMOVAL_PROBABILITY: Final = 0.2
LABEL_PROBABILITY: Final = 0.5
"""Chance of a patch to be changed at all, in two ways, and of each label that it then is one of those changed."""

RADIUS: Final = (1.0, 8.0)
"""Of the ball that borders are moved by, in voxels."""

SMALL: Final = 0.15
"""Only pieces that cover less of the patch than this get lost."""


def cascade_input(scan: Tensor, previous: Tensor, generators: Sequence[np.random.Generator], plan: Plan) -> Tensor:
    """A batch as a cascade's network sees it: the scan's channels, then the spoiled answer, one channel a label.

    Args:
        scan: float32 (B, C, *space).
        previous: (B, 1, *space), label indices.
        generators: of each patch.
        plan: of the cascade.
    """
    patches = zip(previous[:, 0].to("cpu", torch.int16).numpy(), generators, strict=True)
    spoiled = np.stack([corrupt(rng, indices, labels=len(plan.labels.values)) for indices, rng in patches])
    return network_input(torch.cat([scan, torch.from_numpy(spoiled).to(scan)[:, None]], dim=1), plan)


def corrupt(rng: np.random.Generator, indices: Indices, *, labels: int) -> Indices:
    """The previous answer in one patch, changed as chance wants; a new array if at all.

    Args:
        rng: of the patch.
        indices: (*space) of labels.
        labels: how many there are, the background among them.
    """
    return remove_pieces(rng, move_borders(rng, indices, labels), labels)


def move_borders(rng: np.random.Generator, indices: Indices, labels: int) -> Indices:
    """The label map after some labels were dilated, eroded, closed or opened with a ball, one after the other in random order.

    Voxels that a label gains are taken from the others; those it loses become background.
    """
    if rng.random() >= MORPHOLOGY_PROBABILITY:
        return indices
    for label in rng.permutation(_chosen(rng, labels)):
        change, radius = OPERATORS[int(rng.integers(len(OPERATORS)))], float(rng.uniform(*RADIUS))
        mask = indices == label
        if mask.any():
            indices = np.where(_near(mask, radius, change), label, np.where(mask, 0, indices)).astype(np.int16)
    return indices


def remove_pieces(rng: np.random.Generator, indices: Indices, labels: int) -> Indices:
    """The label map after one small piece (voxels that touch, corners included) of some labels became background."""
    if rng.random() >= REMOVAL_PROBABILITY:
        return indices
    for label in _chosen(rng, labels):
        pieces, count = ndimage.label(indices == label, structure=np.ones((3,) * indices.ndim))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        small = [piece for piece in range(1, count + 1) if sizes[piece] < SMALL * indices.size]
        if small:
            indices = np.where(pieces == small[int(rng.integers(len(small)))], np.int16(0), indices)
    return indices


def dilated(mask: Mask, radius: float) -> Mask:
    """The voxels within ``radius`` of one of the mask's."""
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius) if mask.any() else mask


def eroded(mask: Mask, radius: float) -> Mask:
    """The mask's voxels that are further than ``radius`` from any other; what lies beyond the patch counts as the mask's."""
    return np.asarray(ndimage.distance_transform_edt(mask) > radius) if not mask.all() else mask


def closed(mask: Mask, radius: float) -> Mask:
    """Dilated, then eroded."""
    return eroded(dilated(mask, radius), radius)


def opened(mask: Mask, radius: float) -> Mask:
    """Eroded, then dilated."""
    return dilated(eroded(mask, radius), radius)


Operator = Callable[[Mask, float], Mask]
OPERATORS: Final[tuple[Operator, ...]] = (dilated, eroded, closed, opened)


def _chosen(rng: np.random.Generator, labels: int) -> list[int]:
    return [label for label in range(1, labels) if rng.random() < LABEL_PROBABILITY]


def _near(mask: Mask, radius: float, change: Operator) -> Mask:
    """The changed mask, computed in the box that it can reach: distances are dear."""
    reach = int(radius) + 1
    box = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in ndimage.find_objects(mask.astype(np.int8))[0])
    changed = np.zeros_like(mask)
    changed[box] = change(mask[box], radius)
    return changed
