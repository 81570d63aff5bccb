"""The volumes of an answer, filled block by block."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, Integers
from nnseg.inference.postprocess import apply
from nnseg.inference.restore import Block, Voxels, mean
from nnseg.inference.uncertainty import UncertaintyStats, tempered
from nnseg.network.bundle import Model

IN_MEMORY_BYTES = 2**28
"""Probabilities above this size are kept in a file."""


@dataclass(frozen=True, kw_only=True)
class RequestedOutputs:
    """What is asked for beside a label map.

    Args:
        probabilities: of every voxel.
        uncertainty: of every voxel.
        confidence: in the whole.
        sample: voxels whose untempered probabilities are drawn, with confidence.
        scratch: folder for what is too large to be held; the system's if absent.
    """

    probabilities: bool = False
    uncertainty: bool = False
    confidence: bool = False
    sample: int = 0
    scratch: Path | None = None


class OutputVolumes:
    """The volumes of one answer.

    Args:
        model: whose labels and trust count.
        grid: the scan's canonical one.
        weights: of the parts that each block comes in; what weighs nothing is left out.
        wanted: beside the label map.
    """

    def __init__(self, model: Model, grid: Grid, weights: Sequence[float], wanted: RequestedOutputs) -> None:
        self._model, self._labels, self._grid = model, model.labels, grid
        self._temperature = model.trust.temperature if model.trust else 1.0
        self.weights, self.seconds = tuple(weights), 0.0
        self.labels = np.full(grid.shape, model.labels.values[0], model.labels.dtype)
        self.tally = UncertaintyStats(model.labels, model.trust, sample=wanted.sample) if wanted.confidence else None
        self.uncertainty = np.zeros(grid.shape, np.float32) if wanted.uncertainty else None
        self.probabilities: Floats | None = None
        if wanted.probabilities:
            self.probabilities = _empty((len(model.labels.heads), *grid.shape), wanted.scratch)
            self.probabilities[:] = 0
            if not model.labels.regions:
                self.probabilities[0] = 1  # outside the crop the background is certain

    @property
    def only_labels(self) -> bool:
        """True if nothing is asked for that takes probabilities."""
        return self.probabilities is None and self.tally is None

    def frame(self, view: Callable[[Voxels], Voxels]) -> None:
        """Say which part of the volumes blocks lie in, and how it is turned."""
        self._label_view = view(self.labels)
        self._view = None if self.probabilities is None else view(self.probabilities)
        self._uncertainty_view = None if self.uncertainty is None else view(self.uncertainty)

    def paint(self, block: Block, values: Voxels) -> None:
        """Set the labels of a block."""
        self._label_view[block] = values

    def paint_mean(self, block: Block, parts: Sequence[Tensor]) -> None:
        """Set a block to what the weighted mean of its parts (K, z, y, x), probabilities, decides."""
        start = time.perf_counter()
        answer = mean(parts, self.weights)
        self._label_view[block] = self._labels.decide(answer.cpu().numpy())
        if self._view is not None:
            kept = tempered(answer, self._temperature, regions=bool(self._labels.regions))
            self._view[(slice(None), *block)] = kept.cpu().numpy()
        if self.tally:
            doubt = self.tally.add(answer, (block[0].start, block[1].start, block[2].start))
            if self._uncertainty_view is not None:
                self._uncertainty_view[block] = doubt.cpu().numpy()
        self.seconds += time.perf_counter() - start

    def postprocessed(self) -> Integers:
        """The labels after the model's postprocessing."""
        start = time.perf_counter()
        labels = apply(self.labels, self._model.postprocessing, self._labels, voxel_mm3=math.prod(self._grid.spacing))
        self.seconds += time.perf_counter() - start
        return labels


def _empty(shape: tuple[int, ...], scratch: Path | None) -> Floats:
    """An array, in a file without a name if it is large."""
    if math.prod(shape) * 4 <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # keeps the file open as long as it lives
