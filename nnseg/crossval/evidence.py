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
from nnseg.core.reliability import BINS, RELIABILITY_TEMPERATURES, Reliability
from nnseg.core.trust import TEMPERATURES
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import DrawnVoxels, Prediction, PreparedScan
from nnseg.network.bundle import Model
from nnseg.storage.images.read import read_label_map

Numbers = npt.NDArray[np.float64]

SAMPLE = 4000
"""Voxels drawn from each case, to find the temperature."""


@dataclass(frozen=True, kw_only=True)
class PredictorWrapper:
    """What works as a predictor does, with more or something else to its answers.

    Args:
        predictor: whose work it is.
    """

    predictor: Predictor

    @property
    def model(self) -> Model:
        """The predictor's."""
        return self.predictor.model

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed."""
        return self.predictor.prepare(scan)

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM that a scan takes at most."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=uncertainty)


@dataclass(frozen=True, kw_only=True)
class CalibratingPredictor(PredictorWrapper):
    """Keeps with each prediction what its reference says of it.

    Args:
        cases: that are predicted. References which do not show every label are not asked, since elsewhere no probability is wrong.
    """

    cases: tuple[Case, ...]

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The prediction, with its confidence whether or not it was asked for."""
        prediction = self.predictor.infer(prepared, probabilities=probabilities, uncertainty=True, sample=SAMPLE, scratch=scratch)
        prediction = self.with_calibration(prediction, self.read_reference(prepared.scan))
        return prediction if uncertainty else replace(prediction, uncertainty=None)

    def find_case(self, scan: Scan) -> Case | None:
        """The case that a scan was read from."""
        files = scan.source.files
        places = {*files, *files[0].parents}  # a case of a DICOM series is its folder
        return next((case for case in self.cases if places & set(case.images)), None)

    def read_reference(self, scan: Scan) -> LabelMap | None:
        """The label map of a scan's case, if it shows every label."""
        case = self.find_case(scan)
        return read_label_map(case.labels) if case and case.labels and case.annotated is None else None

    def with_calibration(self, prediction: Prediction, reference: LabelMap | None) -> Prediction:
        """The prediction, whose confidence says what the reference does."""
        known = evidence(prediction.sample, reference, self.model.labels) if prediction.sample and reference else None
        if not prediction.confidence or not known:
            return prediction
        said = {"surprise": surprises(known), "reliability": reliability(known)}
        return replace(prediction, confidence=prediction.confidence.model_copy(update=said))

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = True) -> float:
        """RAM that a scan takes at most; confidence is always asked for."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=True)


@dataclass(frozen=True, kw_only=True)
class VoxelSample:
    """Drawn voxels whose truth is known, of labels (n, K) or of regions, each a choice of two (n, R, 2).

    Args:
        logs: logarithms of the probabilities.
        right: which of the choices is right.
        weights: float64 (n,), how many voxels each stands for.
    """

    logs: Numbers
    right: npt.NDArray[np.bool_]
    weights: Numbers

    def probabilities(self, temperature: float) -> Numbers:
        """Of logits divided by a temperature, (..., choices)."""
        scaled = self.logs / temperature
        raised = np.exp(scaled - scaled.max(-1, keepdims=True))
        shares: Numbers = raised / raised.sum(-1, keepdims=True)
        return shares


def evidence(sample: DrawnVoxels, reference: LabelMap, labels: Labels) -> VoxelSample | None:
    """What the reference says of the drawn voxels; None if all are ignored."""
    z, y, x = sample.voxels.T
    truth = labels.encode(reference.labels[z, y, x])
    known = truth >= 0
    if not known.any():
        return None
    right = labels.members()[:, truth[known]].T
    shares = np.clip(sample.probabilities[known].astype(np.float64), 1e-7, 1.0)
    if labels.regions:
        shares, right = np.stack([shares, 1.0 - shares.clip(max=1 - 1e-7)], -1), np.stack([right, ~right], -1)
    return VoxelSample(logs=np.log(shares), right=right, weights=sample.weights[known])


def surprises(found: VoxelSample) -> tuple[float, ...]:
    """Mean over voxels of -log(probability of the reference), summed over regions, at each of the `TEMPERATURES`."""
    losses = [-np.log((found.probabilities(t) * found.right).sum(-1)) for t in TEMPERATURES]
    return tuple(float(np.average(x if x.ndim == 1 else x.sum(1), weights=found.weights)) for x in losses)


def reliability(found: VoxelSample) -> Reliability:
    """How often the decided label is right where the probability says so, and how far all probabilities are from the truth.

    Each region is a decision of its own. The squared distance is Brier's, halved: it is 1 at most, and for two labels the same as
    for a region. Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    decisions = found.right[..., 0].size // len(found.weights)
    weights = np.repeat(found.weights / (decisions * found.weights.sum()), decisions)
    sums, brier = np.zeros((len(RELIABILITY_TEMPERATURES), BINS, 3)), np.zeros(len(RELIABILITY_TEMPERATURES))
    for i, temperature in enumerate(RELIABILITY_TEMPERATURES):
        shares = found.probabilities(temperature)
        sure, right = shares.max(-1).ravel(), np.take_along_axis(found.right, shares.argmax(-1)[..., None], -1).ravel()
        place = (np.ceil(sure * BINS).astype(int) - 1).clip(0, BINS - 1)
        parts = (weights, weights * (sure - right), weights * right)
        sums[i] = np.stack([np.bincount(place, part, minlength=BINS) for part in parts], 1)
        brier[i] = weights @ (0.5 * np.square(shares - found.right).sum(-1)).ravel()
    return Reliability.of(sums, brier)
