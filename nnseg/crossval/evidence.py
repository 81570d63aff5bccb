"""Calibration statistics of held-out cases, computed from the references while the cases are predicted."""

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
from nnseg.storage.images.read import read_labels_of

Numbers = npt.NDArray[np.float64]

SAMPLE = 4000
"""Voxels drawn from each case for these statistics."""


@dataclass(frozen=True, kw_only=True)
class PredictorWrapper:
    """A predictor that uses another one and changes its predictions.

    Args:
        predictor: that is used.
    """

    predictor: Predictor

    @property
    def model(self) -> Model:
        """The model of the predictor."""
        return self.predictor.model

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed."""
        return self.predictor.prepare(scan)

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM that a scan takes at most."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=uncertainty)


@dataclass(frozen=True, kw_only=True)
class CalibratingPredictor(PredictorWrapper):
    """Adds calibration statistics to the confidence of each prediction.

    Args:
        cases: that are predicted. A reference without all labels is not used, since the truth of some probabilities is unknown.
    """

    cases: tuple[Case, ...]

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The prediction, always with its confidence; its objects are not told apart."""
        prediction = self.predictor.infer(
            prepared, probabilities=probabilities, uncertainty=True, objects=False, sample=SAMPLE, scratch=scratch
        )
        prediction = self.with_calibration(prediction, self.read_reference(prepared.scan))
        return prediction if uncertainty else replace(prediction, uncertainty=None)

    def find_case(self, scan: Scan) -> Case | None:
        """The case to which a scan belongs; None if it is none of them."""
        files = scan.source.files
        places = {*files, *files[0].parents}  # of a DICOM series the case names the folder
        return next((case for case in self.cases if places & set(case.images)), None)

    def read_reference(self, scan: Scan) -> LabelMap | None:
        """The reference of a scan, if it was annotated with all labels."""
        case = self.find_case(scan)
        return read_labels_of(case.labels, scan) if case and case.labels and case.annotated is None else None

    def with_calibration(self, prediction: Prediction, reference: LabelMap | None) -> Prediction:
        """The prediction with calibration statistics in its confidence, if there is a reference for them."""
        sample = sample_truth(prediction.sample, reference, self.model.labels) if prediction.sample and reference else None
        if not prediction.confidence or not sample:
            return prediction
        statistics = {"surprise": cross_entropies(sample), "reliability": reliability(sample)}
        return replace(prediction, confidence=prediction.confidence.model_copy(update=statistics))

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = True) -> float:
        """RAM that a scan takes at most, with its confidence."""
        return self.predictor.memory_gb(grid, probabilities=probabilities, uncertainty=True)


@dataclass(frozen=True, kw_only=True)
class VoxelSample:
    """Drawn voxels whose reference is known, with labels (n, K), or with regions (n, R, 2): inside and outside.

    Args:
        logs: logarithms of the probabilities.
        right: True for the label, or the side, of the reference.
        weights: float64 (n,), how many voxels each stands for.
    """

    logs: Numbers
    right: npt.NDArray[np.bool_]
    weights: Numbers

    def probabilities(self, temperature: float) -> Numbers:
        """The probabilities for logits divided by a temperature, shaped like ``logs``."""
        scaled = self.logs / temperature
        raised = np.exp(scaled - scaled.max(-1, keepdims=True))
        shares: Numbers = raised / raised.sum(-1, keepdims=True)
        return shares


def sample_truth(sample: DrawnVoxels, reference: LabelMap, labels: Labels) -> VoxelSample | None:
    """The drawn voxels with their reference, without those of the ignore value; None if none is left."""
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


def cross_entropies(sample: VoxelSample) -> tuple[float, ...]:
    """Mean over voxels of -log(probability of the reference), summed over regions, at each of the `TEMPERATURES`."""
    losses = [-np.log((sample.probabilities(t) * sample.right).sum(-1)) for t in TEMPERATURES]
    return tuple(float(np.average(x if x.ndim == 1 else x.sum(1), weights=sample.weights)) for x in losses)


def reliability(sample: VoxelSample) -> Reliability:
    """Sums for a reliability diagram of the predicted label, and the Brier score of all probabilities, by temperature.

    Each region is a decision of its own. The Brier score is halved: it is 1 at most, and for two labels the same as for a region.
    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    decisions = sample.right[..., 0].size // len(sample.weights)
    weights = np.repeat(sample.weights / (decisions * sample.weights.sum()), decisions)
    sums, brier = np.zeros((len(RELIABILITY_TEMPERATURES), BINS, 3)), np.zeros(len(RELIABILITY_TEMPERATURES))
    for i, temperature in enumerate(RELIABILITY_TEMPERATURES):
        shares = sample.probabilities(temperature)
        sure, right = shares.max(-1).ravel(), np.take_along_axis(sample.right, shares.argmax(-1)[..., None], -1).ravel()
        place = (np.ceil(sure * BINS).astype(int) - 1).clip(0, BINS - 1)
        parts = (weights, weights * (sure - right), weights * right)
        sums[i] = np.stack([np.bincount(place, part, minlength=BINS) for part in parts], 1)
        brier[i] = weights @ (0.5 * np.square(shares - sample.right).sum(-1)).ravel()
    return Reliability.of(sums, brier)
