"""Agreement of predicted and reference volumes: limits of agreement, and the intraclass correlation.

Overlap measures something else: errors that cancel out within a case lower Dice and not the volume. A mask counts where the
prediction or the reference contains it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from nnseg.core.frozen import FrozenModel
from nnseg.core.scores import Interval, LabelScore, Number, Scores

FEWEST = 3
"""Least number of cases."""

Numbers = npt.NDArray[np.float64]

_Z = 1.96  # of 95 % of a normal distribution, as Bland and Altman rounded it


class VolumeAgreement(FrozenModel):
    """Predicted against reference volumes of one label, ml.

    Args:
        n: cases with the label in the prediction or in the reference.
        mean_reference_ml: of their reference volumes.
        bias_ml: mean of predicted minus reference.
        limits_ml: limits of agreement, between which 95 % of such differences are expected.
        bias_interval, lower_interval, upper_interval: 95 %, of the bias and of each limit.
        icc: intraclass correlation ICC(2,1), absolute agreement of single measurements; 1 is perfect. None if all cases are equal.
        icc_interval: 95 %.
    """

    n: int
    mean_reference_ml: float
    bias_ml: float
    bias_interval: Interval
    limits_ml: Interval
    lower_interval: Interval
    upper_interval: Interval
    icc: Number
    icc_interval: Interval | None


def agreement(scores: Scores) -> dict[str, VolumeAgreement]:
    """The agreement of volumes by label; labels in fewer than `FEWEST` cases are left out."""
    found = {label: volumes([case.labels[label] for case in scores.cases]) for label in scores.labels}
    return {label: volume_agreement(pairs) for label, pairs in found.items() if len(pairs) >= FEWEST}


def volumes(masks: list[LabelScore]) -> Numbers:
    """Predicted and reference volumes (n, 2), ml, of annotated masks that are not empty on both sides."""
    pairs = [(m.volume_ml, m.reference_ml) for m in masks if m.tp + m.fp + m.fn]
    return np.array([p for p in pairs if None not in p], np.float64).reshape(-1, 2)


def volume_agreement(pairs: Numbers) -> VolumeAgreement:
    """The agreement of predicted and reference volumes (n, 2), ml; n is at least `FEWEST`.

    Source: Bland and Altman 1999, doi:10.1177/096228029900800204, section 2 (limits and their standard errors).
    """
    n, differences = len(pairs), pairs[:, 0] - pairs[:, 1]
    bias, spread = float(differences.mean()), float(differences.std(ddof=1))
    t = float(stats.t.ppf(0.975, n - 1))
    of_bias, of_limit = t * spread / n**0.5, t * spread * (1 / n + _Z**2 / (2 * (n - 1))) ** 0.5
    low, high = bias - _Z * spread, bias + _Z * spread
    icc, icc_interval = intraclass_correlation(pairs)
    return VolumeAgreement(
        n=n,
        mean_reference_ml=float(pairs[:, 1].mean()),
        bias_ml=bias,
        bias_interval=(bias - of_bias, bias + of_bias),
        limits_ml=(low, high),
        lower_interval=(low - of_limit, low + of_limit),
        upper_interval=(high - of_limit, high + of_limit),
        icc=icc,
        icc_interval=icc_interval,
    )


def intraclass_correlation(ratings: npt.NDArray[Any]) -> tuple[float | None, Interval | None]:
    """ICC(2,1) and its 95 % interval: two-way random effects, absolute agreement, single rater. None if subjects are equal.

    The interval of a negative value is approximate and may not contain it.

    Args:
        ratings: (n, k), of n subjects by k raters each; 2 or more of both.

    Source: Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; the interval as in McGraw and Wong 1996,
    doi:10.1037/1082-989X.1.1.30, table 7, case 2A.
    """
    n, k = ratings.shape
    if np.ptp(ratings.mean(1)) <= 1e-9 * np.abs(ratings).max():
        return None, None
    rows, columns, rest = _mean_squares(np.asarray(ratings, np.float64))
    icc = (rows - rest) / (rows + (k - 1) * rest + k * (columns - rest) / n)
    if icc >= 1:
        return 1.0, (1.0, 1.0)
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    freedom = (a * columns + b * rest) ** 2 / ((a * columns) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1)))
    freedom = max(freedom, 1e-2)  # near 0 where raters disagree more than subjects differ
    below, above = 1 / stats.f.ppf(0.975, n - 1, freedom), stats.f.ppf(0.975, freedom, n - 1)
    both = k * columns + (k * n - k - n) * rest
    low, high = n * (rows * below - rest) / (both + n * rows * below), n * (rows * above - rest) / (both + n * rows * above)
    return float(icc), (float(low), float(high))


def _mean_squares(ratings: Numbers) -> tuple[float, float, float]:
    """Mean squares between subjects, between raters, and residual (two-way analysis of variance without replication)."""
    n, k = ratings.shape
    of_rows, of_columns, mean = ratings.mean(1), ratings.mean(0), ratings.mean()
    rest = ratings - of_rows[:, None] - of_columns + mean
    between_rows = k * np.square(of_rows - mean).sum() / (n - 1)
    between_columns = n * np.square(of_columns - mean).sum() / (k - 1)
    return float(between_rows), float(between_columns), float(np.square(rest).sum() / ((n - 1) * (k - 1)))
