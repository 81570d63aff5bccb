"""The volumes of a prediction, filled block by block."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnseg.core.decisions import ObjectRule, ObjectRules
from nnseg.core.errors import WriteError
from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, Integers
from nnseg.inference.instances import as_small, count_objects, merge_borders, number_objects
from nnseg.inference.lesions import add_components, apply_thresholds, find_distinct, object_scores, probability_levels
from nnseg.inference.postprocess import postprocess
from nnseg.inference.prediction import NumberedObjects
from nnseg.inference.restore import Block, Voxels, weighted_mean
from nnseg.inference.uncertainty import UncertaintyStats, apply_temperature
from nnseg.network.bundle import Model
from nnseg.storage.files import FULL

IN_MEMORY_BYTES = 2**28
"""Larger volumes of probabilities, and label maps of large images, are kept in a file."""


@dataclass(frozen=True, kw_only=True)
class RequestedOutputs:
    """What a prediction contains besides the label map.

    Args:
        objects: tell the objects apart whose borders the networks have learned.
        sample: number of voxels sampled with their probabilities, together with the confidence.
        scratch: folder for large arrays; the system's if absent.
    """

    probabilities: bool = False
    uncertainty: bool = False
    confidence: bool = False
    objects: bool = False
    sample: int = 0
    scratch: Path | None = None


class OutputVolumes:
    """The volumes of one prediction, on the scan's canonical grid.

    Args:
        weights: of the groups of networks; those with weight 0 are not used.
        view: gives the part of a volume that blocks index, in their axis order.
    """

    def __init__(
        self, model: Model, grid: Grid, weights: Sequence[float], requested: RequestedOutputs, view: Callable[[Voxels], Voxels]
    ) -> None:
        self._model, self._labels, self._grid = model, model.labels, grid
        self._temperature = model.trust.temperature if model.trust else 1.0
        self._objects = requested.objects
        self.weights, self.seconds = tuple(weights), 0.0
        self.labels = np.full(grid.shape, model.labels.values[0], model.labels.dtype)
        self.stats = UncertaintyStats(model.labels, model.trust, sample=requested.sample) if requested.confidence else None
        self.uncertainty = np.zeros(grid.shape, np.float32) if requested.uncertainty else None
        self.probabilities: Floats | None = None
        if requested.probabilities:
            self.probabilities = empty_array((len(model.labels.heads), *grid.shape), np.float32, requested.scratch)
            self.probabilities[:] = 0
            if not model.labels.regions:
                self.probabilities[0] = 1  # outside the crop everything is background
        self.interior = np.zeros(grid.shape, np.uint8) if model.learned.borders else None
        self.counted = (*dict.fromkeys(model.learned.borders.values()), *model.lesions)
        self.levels = np.zeros((len(self.counted), *grid.shape), np.uint8) if self.counted else None
        self._label_view, self._probability_view, self._uncertainty_view, self._interior_view, self._level_view = (
            None if volume is None else view(volume)
            for volume in (self.labels, self.probabilities, self.uncertainty, self.interior, self.levels)
        )

    @property
    def only_labels(self) -> bool:
        """True if no probabilities are needed."""
        return self.probabilities is None and self.stats is None and self.levels is None

    def set_labels(self, block: Block, values: Voxels) -> None:
        """Set the label values of a block."""
        assert self._label_view is not None
        self._label_view[block] = values

    def set_mean(self, block: Block, probabilities: Sequence[Tensor]) -> None:
        """Set a block from the weighted mean of each group's probabilities (K, z, y, x)."""
        start = time.perf_counter()
        mean = weighted_mean(probabilities, self.weights)
        if self._interior_view is not None:
            mean, interior = merge_borders(mean, self._model.learned)
            self._interior_view[block] = interior.cpu().numpy()
        self.set_labels(block, self._labels.decide(self._with_levels(block, mean).cpu().numpy()))
        if self._probability_view is not None:
            calibrated = apply_temperature(mean, self._temperature, regions=bool(self._labels.regions))
            self._probability_view[(slice(None), *block)] = calibrated.cpu().numpy()
        if self.stats:
            uncertainty = self.stats.add(mean, (block[0].start, block[1].start, block[2].start))
            if self._uncertainty_view is not None:
                self._uncertainty_view[block] = uncertainty.cpu().numpy()
        self.seconds += time.perf_counter() - start

    def _with_levels(self, block: Block, mean: Tensor) -> Tensor:
        """Keep the levels of the labels whose objects are counted; what the block's labels are decided by."""
        if self._level_view is None:
            return mean
        levels = probability_levels(mean, self._labels, self.counted)
        self._level_view[(slice(None), *block)] = levels.cpu().numpy()
        thresholds = self._model.objects.thresholds if self._model.objects else {}
        return apply_thresholds(mean, levels, self._labels, self.counted, thresholds)

    def postprocessed(self) -> Integers:
        """The label map after the model's postprocessing."""
        start = time.perf_counter()
        labels = postprocess(self.labels, self._model.postprocessing, self._labels, voxel_mm3=math.prod(self._grid.spacing))
        self.seconds += time.perf_counter() - start
        return labels

    def numbered(self, labels_ZYX: Integers) -> NumberedObjects | None:
        """The objects in the postprocessed label map; None if not requested, or no label has any."""
        if self.levels is None or not self._objects:
            return None
        start, rules = time.perf_counter(), self._model.objects or ObjectRules(rules={})
        borders = dict.fromkeys(self._model.learned.borders.values(), ObjectRule())
        numbers, counts = np.zeros(labels_ZYX.shape, np.uint32), dict[str, int]()
        if self.interior is not None:
            voxel_mm3 = math.prod(self._grid.spacing)
            numbers = number_objects(labels_ZYX, self.interior, self._labels, borders | rules.rules, voxel_mm3=voxel_mm3)
            counts = count_objects(numbers, labels_ZYX, self._model.learned)
        if lesions := find_distinct(self._labels, self._model.lesions):
            numbers = numbers.astype(np.uint32)
            counts |= add_components(numbers, labels_ZYX, self._labels, lesions)
            numbers = as_small(numbers)
        scores = object_scores(numbers, self.levels, self.counted, counts)
        self.seconds += time.perf_counter() - start
        return NumberedObjects(numbers=numbers, counts=counts, scores=scores)


def empty_array(shape: tuple[int, ...], dtype: npt.DTypeLike, scratch: Path | None) -> npt.NDArray[Any]:
    """An array, in an unnamed file if it is large.

    Raises:
        WriteError: the disk is full. Space is reserved, since the system ends a process that writes a mapped file to a full disk.
    """
    needed = np.dtype(dtype).itemsize * math.prod(shape)
    if needed <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=scratch) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if error.errno in FULL:  # others are of file systems that reserve no space
                place = scratch or tempfile.gettempdir()
                found = f"cannot keep results in {place}: {error.strerror} ({needed / 1e6:.1f} MB are needed)"
                raise WriteError(f"{found}; free some space, and repeat the command") from error
        return np.memmap(file, dtype, "w+", shape=shape)  # keeps the file open as long as it lives
