"""Whether probabilities say how often they are right, on held-out cases.

Counted are all voxels of the scans, most of which are background that nobody doubts: the error is small for every model, and two
models can be compared on the same scans only. The curve shows the doubtful ones, whatever their number. All cases weigh the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import FrozenModel
from nnseg.core.scores import Interval
from nnseg.core.trust import RELIABILITY_TEMPERATURES, Reliability
from nnseg.evaluation.averages import FEW
from nnseg.evaluation.statistics import bootstrap_weights, interval

Numbers = npt.NDArray[np.float64]


class Bin(FrozenModel):
    """Voxels of which the model is about as sure.

    Args:
        confidence: mean probability of what was decided.
        accuracy: how often that was right.
        share: of all voxels.
    """

    confidence: float
    accuracy: float
    share: float


class Calibrated(FrozenModel):
    """How well probabilities say how often they are right, at one temperature.

    Args:
        temperature: that logits are divided by.
        ece: expected calibration error: the mean distance of confidence from accuracy over 15 bins of equal width, each weighing
            as many voxels as it holds; 0 is perfect.
        brier: half the mean squared distance of the probabilities from the truth; 0 is perfect.
        ece_interval, brier_interval: 95 %, bootstrap over cases; the error's is rather too high, since chance adds to it.
        curve: the reliability curve: bins with voxels, by rising confidence.
    """

    temperature: float
    ece: float
    brier: float
    ece_interval: Interval
    brier_interval: Interval
    curve: tuple[Bin, ...]


class Calibration(FrozenModel):
    """Held-out probabilities as the networks gave them, and at the model's temperature.

    Args:
        n: how many cases.
        before: at temperature 1.
        after: at the model's.
    """

    n: int
    before: Calibrated
    after: Calibrated


def calibration(cases: Sequence[Reliability], temperature: float) -> Calibration | None:
    """How well calibrated a model is; None for fewer than `FEW` cases, which nothing can be said of.

    Args:
        cases: what was kept of each held-out case (`Confidence.reliability`).
        temperature: of the model (`Trust.temperature`). It was found on the same cases, one number from all of them.
    """
    if len(cases) < FEW:
        return None
    sums, brier = np.stack([c.sums for c in cases]), np.stack([c.brier for c in cases])
    return Calibration(n=len(cases), before=_calibrated(sums, brier, 1.0), after=_calibrated(sums, brier, temperature))


def _calibrated(sums: Numbers, brier: Numbers, temperature: float) -> Calibrated:
    """Of sums (cases, temperatures, bins, 3) and Brier scores (cases, temperatures)."""
    parts, squares = _at(temperature, sums), _at(temperature, brier)
    weights = np.concatenate([np.ones((1, len(sums))), bootstrap_weights(len(sums))]) / len(sums)
    pooled = np.tensordot(weights, parts, 1)
    errors, scores = np.abs(pooled[..., 1]).sum(-1), weights @ squares
    ece_interval, brier_interval = interval(errors[1:]), interval(scores[1:])
    assert ece_interval and brier_interval
    return Calibrated(
        temperature=temperature,
        ece=float(errors[0]),
        brier=float(scores[0]),
        ece_interval=ece_interval,
        brier_interval=brier_interval,
        curve=tuple(_bin(*part) for part in pooled[0].tolist() if part[0] > 0),
    )


def _bin(share: float, surer: float, right: float) -> Bin:
    return Bin(confidence=min(1.0, (right + surer) / share), accuracy=min(1.0, right / share), share=share)


def _at(temperature: float, values: Numbers) -> Numbers:
    """Values (cases, temperatures, ...) at a temperature: between two that were measured, in proportion to its logarithm."""
    place = float(np.interp(np.log(temperature), np.log(RELIABILITY_TEMPERATURES), np.arange(len(RELIABILITY_TEMPERATURES))))
    below = min(int(place), len(RELIABILITY_TEMPERATURES) - 2)
    return values[:, below] + (place - below) * (values[:, below + 1] - values[:, below])
