"""The learning curve of a model: an inverse power law through the mean Dice of trainings on parts of the cases.

Sources: Mukherjee et al. 2003, doi:10.1089/106652703321825928, and Figueroa et al. 2012, doi:10.1186/1472-6947-12-8 (the law).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.learning_curve import CurvePoint, ExpectedGain
from nnseg.evaluation.statistics import bootstrap_weights, interval

RATES = np.geomspace(0.1, 2.0, 100)
"""Exponents that are tried."""


def measure_points(cases: Sequence[int], dice: npt.NDArray[Any]) -> tuple[CurvePoint, ...]:
    """The mean Dice after each training.

    Args:
        cases: number of training cases of each, ascending.
        dice: (trainings, held-out cases), finite.
    """
    means = _draws(dice)
    return tuple(
        CurvePoint(cases=n, dice=float(of.mean()), interval=interval(drawn))
        for n, of, drawn in zip(cases, dice, means.T, strict=True)
    )


def estimate_gain(cases: Sequence[int], dice: npt.NDArray[Any], more: int) -> ExpectedGain:
    """What further cases would add to the mean Dice after the largest training.

    Dice(n) = a - b n^-c with b >= 0 is fitted by least squares to all trainings, in each bootstrap draw of the held-out cases anew;
    where the Dice does not grow with the number of cases, the gain is 0.

    Args:
        cases, dice: as for `measure_points`, of at least three trainings.
        more: number of further cases.
    """
    expected = _gains(cases, dice.mean(1)[None], more)
    return ExpectedGain(cases=more, dice=float(expected[0]), interval=interval(_gains(cases, _draws(dice), more)))


def _draws(dice: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Bootstrap means (draws, trainings); the same cases are drawn for all trainings."""
    held_out = dice.shape[1]
    return np.asarray(bootstrap_weights(held_out) @ dice.T / held_out, np.float64)


def _gains(cases: Sequence[int], means: npt.NDArray[Any], more: int) -> npt.NDArray[np.float64]:
    """The gain by each row of mean Dice (rows, trainings)."""
    sizes = np.asarray(cases, np.float64)
    shrunk = sizes ** -RATES[:, None]  # (rates, trainings)
    centred = shrunk - shrunk.mean(1, keepdims=True)
    around = means - means.mean(1, keepdims=True)
    slopes = np.minimum(around @ centred.T / np.square(centred).sum(1), 0.0)  # (rows, rates): -b
    residuals = np.square(around[:, None] - slopes[..., None] * centred).sum(-1)
    best = residuals.argmin(1)
    steps = (sizes[-1] + more) ** -RATES - sizes[-1] ** -RATES
    gains: npt.NDArray[np.float64] = slopes[np.arange(len(means)), best] * steps[best]
    return np.minimum(gains, 1.0 - means[:, -1])
