"""Calibration of the probabilities on held-out cases: how often predicted labels are right, given their probability.

All voxels of the scans count, most of which are certain background: the error is small for every model, and comparable between
models on the same scans only. The reliability curve shows the uncertain voxels, however few. All cases weigh the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import FrozenModel
from nnseg.core.reliability import RELIABILITY_TEMPERATURES, Reliability
from nnseg.core.scores import Interval
from nnseg.evaluation.averages import FEW
from nnseg.evaluation.statistics import bootstrap_weights, interval

Numbers = npt.NDArray[np.float64]


class Bin(FrozenModel):
    """Voxels of similar confidence.

    Args:
        confidence: mean probability of the predicted label.
        accuracy: share whose predicted label is right.
        share: of all voxels.
    """

    confidence: float
    accuracy: float
    share: float


class Calibrated(FrozenModel):
    """Calibration at one temperature.

    Args:
        temperature: the divisor of logits.
        ece: expected calibration error: mean difference of confidence and accuracy over 15 bins of equal width, weighted by their
            voxels; 0 is perfect.
        brier: half the mean squared difference of probabilities and truth; 0 is perfect.
        ece_interval, brier_interval: 95 %, bootstrap over cases; that of the ECE is biased upwards, since chance adds to it.
        curve: the reliability curve: bins with voxels, by rising confidence.
    """

    temperature: float
    ece: float
    brier: float
    ece_interval: Interval
    brier_interval: Interval
    curve: tuple[Bin, ...]


class Calibration(FrozenModel):
    """Calibration of the networks' own probabilities, and at the model's temperature.

    Args:
        n: number of cases.
        before: at temperature 1.
        after: at the model's.
    """

    n: int
    before: Calibrated
    after: Calibrated


def calibration(cases: Sequence[Reliability], temperature: float) -> Calibration | None:
    """The calibration of a model; None for fewer than `FEW` cases.

    Args:
        cases: statistics of each held-out case (`Confidence.reliability`).
        temperature: of the model (`Trust.temperature`), one number fitted to the same cases.
    """
    if len(cases) < FEW:
        return None
    sums, brier = np.stack([c.sums for c in cases]), np.stack([c.brier for c in cases])
    return Calibration(n=len(cases), before=_calibrated(sums, brier, 1.0), after=_calibrated(sums, brier, temperature))


def _calibrated(sums: Numbers, brier: Numbers, temperature: float) -> Calibrated:
    """From sums (cases, temperatures, bins, 3) and Brier scores (cases, temperatures)."""
    bins, squares = _interpolated(temperature, sums), _interpolated(temperature, brier)
    weights = np.concatenate([np.ones((1, len(sums))), bootstrap_weights(len(sums))]) / len(sums)
    pooled = np.tensordot(weights, bins, 1)
    errors, scores = np.abs(pooled[..., 1]).sum(-1), weights @ squares
    ece_interval, brier_interval = interval(errors[1:]), interval(scores[1:])
    assert ece_interval and brier_interval
    return Calibrated(
        temperature=temperature,
        ece=float(errors[0]),
        brier=float(scores[0]),
        ece_interval=ece_interval,
        brier_interval=brier_interval,
        curve=tuple(
            Bin(confidence=min(1.0, (right + excess) / share), accuracy=min(1.0, right / share), share=share)
            for share, excess, right in pooled[0].tolist()
            if share > 0
        ),
    )


def _interpolated(temperature: float, values: Numbers) -> Numbers:
    """Values (cases, temperatures, ...) at a temperature, interpolated linearly in its logarithm."""
    place = float(np.interp(np.log(temperature), np.log(RELIABILITY_TEMPERATURES), np.arange(len(RELIABILITY_TEMPERATURES))))
    below = min(int(place), len(RELIABILITY_TEMPERATURES) - 2)
    return values[:, below] + (place - below) * (values[:, below + 1] - values[:, below])
