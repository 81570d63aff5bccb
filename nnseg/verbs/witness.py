"""What the references of held-out cases say of their predictions, kept with these: no second pass over the networks is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Case
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels
from nnseg.core.trust import TEMPERATURES
from nnseg.inference.predict import Prediction, Predictor, Prepared
from nnseg.inference.uncertainty import Sample
from nnseg.network.bundle import Model
from nnseg.storage.images import read_label_map

Numbers = npt.NDArray[np.float64]

SAMPLE = 4000
"""Voxels drawn from each case, to find the temperature."""


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """What works as a predictor does, with more or something else to its answers.

    Args:
        predictor: whose work it is.
    """

    predictor: Predictor

    @property
    def model(self) -> Model:
        """The predictor's."""
        return self.predictor.model

    def prepare(self, scan: Scan) -> Prepared:
        """The scan preprocessed."""
        return self.predictor.prepare(scan)

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM that a scan takes at most."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=uncertainty)


@dataclass(frozen=True, kw_only=True)
class Witness(Wrapped):
    """Keeps with each prediction what its reference says of it.

    Args:
        cases: that are predicted. References which do not show every label are not asked, since elsewhere no probability is wrong.
    """

    cases: tuple[Case, ...]

    def answer(
        self, prepared: Prepared, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The prediction, with its confidence whether or not it was asked for."""
        prediction = self.predictor.answer(prepared, probabilities=probabilities, uncertainty=True, sample=SAMPLE, scratch=scratch)
        files = prepared.scan.source.files
        places = {*files, *files[0].parents}  # a case of a DICOM series is its folder
        file = next((c.labels for c in self.cases if places & set(c.images) and c.annotated is None), None)
        if prediction.confidence and prediction.sample and file:
            surprise = surprises(prediction.sample, read_label_map(file), self.model.labels)
            prediction = replace(prediction, confidence=prediction.confidence.model_copy(update={"surprise": surprise}))
        return prediction if uncertainty else replace(prediction, uncertainty=None)

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = True) -> float:
        """RAM that a scan takes at most; confidence is always asked for."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=True)


def surprises(sample: Sample, reference: LabelMap, labels: Labels) -> tuple[float, ...]:
    """Mean over voxels of -log(probability of the reference), at each of the `TEMPERATURES`; nothing if all are ignored."""
    z, y, x = sample.voxels.T
    truth = labels.encode(reference.labels[z, y, x])
    known = truth >= 0
    if not known.any():
        return ()
    right = labels.members()[:, truth[known]].T
    weights = sample.weights[known]
    shares = np.clip(sample.probabilities[known].astype(np.float64), 1e-7, 1.0)
    if labels.regions:
        shares, right = np.stack([shares, 1.0 - shares.clip(max=1 - 1e-7)], -1), np.stack([right, ~right], -1)
    losses = [_loss(np.log(shares) / t, right) for t in TEMPERATURES]
    return tuple(float(np.average(loss, weights=weights)) for loss in losses)


def _loss(logs: Numbers, right: npt.NDArray[np.bool_]) -> Numbers:
    """-log(probability of what is right) of each voxel (n, ...), summed over its regions, from scaled logarithms (..., choices)."""
    top = logs.max(-1, keepdims=True)
    total = top[..., 0] + np.log(np.exp(logs - top).sum(-1))
    loss: Numbers = total - np.where(right, logs, 0.0).sum(-1)
    return loss if loss.ndim == 1 else loss.sum(1)
