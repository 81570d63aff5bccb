"""Objects that are connected components of a label, such as lesions: found from a threshold of its probability on, with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from nnseg.core.geometry import TOUCHING
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.inference.instances import FULL, mean_intensities


def probability_levels(probabilities: Tensor, labels: Labels, names: Sequence[str]) -> Tensor:
    """Levels (n, z, y, x), uint8, of the probabilities of some labels, 255 for 1.

    Args:
        probabilities: (K, z, y, x), of ``labels.heads``.
        names: of labels or regions.
    """
    return (FULL * probabilities[[labels.heads.index(name) for name in names]]).round().clamp(0, FULL).to(torch.uint8)


def apply_thresholds(
    probabilities: Tensor, levels: Tensor, labels: Labels, names: Sequence[str], thresholds: Mapping[str, float | None]
) -> Tensor:
    """Numbers (K, z, y, x) of which `Labels.decide` makes the label map with thresholds; the probabilities if there are none.

    A voxel gets a label with a threshold if its probability reaches it, of several the most probable one; if none does, the most
    probable label without one. Levels are compared, so that held-out cases show what a threshold does.

    Args:
        probabilities: (K, z, y, x), of ``labels.heads``.
        levels: of the probabilities of ``names``.
        thresholds: by name; None for a label that gets the voxels where it is the most probable.
    """
    decided = probabilities
    for name, threshold in thresholds.items():
        if threshold is not None:
            decided = probabilities.clone() if decided is probabilities else decided
            head, reached = labels.heads.index(name), levels[names.index(name)] >= threshold * FULL
            decided[head] = torch.where(reached, 1.0 + probabilities[head], -1.0)
    return decided


def find_distinct(labels: Labels, names: Sequence[str]) -> tuple[str, ...]:
    """Of some labels or regions those that share no label with an earlier one, whose objects can be numbered in one map."""
    found: dict[str, tuple[str, ...]] = {}
    parts = labels.parts()
    for name in names:
        if not any(set(parts[name]) & set(of) for of in found.values()):
            found[name] = parts[name]
    return tuple(found)


def add_components(numbers_ZYX: Integers, labels_ZYX: Integers, labels: Labels, names: Sequence[str]) -> dict[str, int]:
    """Number the connected components of some labels in a map of numbers, after those that are there; how many each label has.

    Args:
        numbers_ZYX: of objects, changed here.
        labels_ZYX: label values.
        labels: of the label map.
        names: of labels or regions that share no voxel, see `find_distinct`.
    """
    counts: dict[str, int] = {}
    first = int(numbers_ZYX.max(initial=0))
    for name in names:
        found, counts[name] = ndimage.label(labels.mask(name, labels_ZYX), TOUCHING)
        numbers_ZYX[found > 0] = found[found > 0] + first
        first += counts[name]
    return counts


def object_scores(
    objects_ZYX: Integers, levels: npt.NDArray[np.uint8], names: Sequence[str], counts: Mapping[str, int]
) -> npt.NDArray[np.float64]:
    """The score (n,) of each object: the mean probability of its label in it.

    Args:
        objects_ZYX: numbers from 1 to n, 0 where there is none.
        levels: of the probabilities of ``names`` (labels, Z, Y, X).
        counts: number of objects of each label, in the order of their numbers.
    """
    rows = np.repeat([names.index(name) for name in counts], list(counts.values())).astype(int)
    means = mean_intensities(objects_ZYX, levels)
    return np.asarray(means[np.arange(len(rows)), rows] / FULL)
