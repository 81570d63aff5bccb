"""Volumes of the labels in a label map: numbers of voxels times their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.population import volume_ml
from nnseg.core.units import in_unit, length_in, length_name, volume_name

MOST_BINS = 2**20
"""Range of label values above which they are counted by sorting."""


def volumes_of(label_map: LabelMap, labels: Labels) -> dict[str, float]:
    """Volume in ml of each label or region of the foreground: number of voxels times the volume of a voxel."""
    return _sizes(label_map, labels, label_map.grid.voxel_ml)


def sizes_in_unit(label_map: LabelMap, labels: Labels, source: Source) -> tuple[dict[str, float], str]:
    """Size of each label or region of the foreground, and its unit: volumes in ml or what stands for it, areas of 2D images.

    Args:
        label_map: on the canonical grid of the scan.
        source: of the scan, whose unit of length is taken.
    """
    unit = source.shown_unit
    if source.is_2d:
        _, y, x = in_unit(label_map.grid.spacing, unit)
        return _sizes(label_map, labels, y * x), "pixels" if unit == "pixel" else f"{length_name(unit)}²"
    return _sizes(label_map, labels, label_map.grid.voxel_ml * length_in(unit, 1.0) ** 3), volume_name(unit)


def _sizes(label_map: LabelMap, labels: Labels, voxel: float) -> dict[str, float]:
    counts = _counts(label_map.labels)
    values = labels.foreground_values
    return {name: volume_ml(sum(counts.get(value, 0) for value in set(those)), voxel) for name, those in values.items()}


def _counts(labels: npt.NDArray[Any]) -> dict[int, int]:
    """Number of voxels of each value, counted slice by slice to save memory."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= MOST_BINS:
        values, counts = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    bins = sum(np.bincount(plane.ravel().astype(np.int64) - low, minlength=high - low + 1) for plane in labels)
    return {low + i: int(count) for i, count in enumerate(np.asarray(bins)) if count}
