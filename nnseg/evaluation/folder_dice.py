"""The mean Dice of a folder of scans without references, estimated from what is expected of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from scipy.special import stdtrit

from nnseg.core.trust import INTERVAL_LEVEL, Confidence, FolderDice


def estimate_folder_dice(confidences: Sequence[Confidence]) -> FolderDice | None:
    """The mean Dice that is expected of scans, with an interval; None without scans.

    Errors of single scans average out over the N scans of a folder, an error that all have in common does not: it is known from the
    n held-out cases only. With a standard deviation s of errors the mean is known to s sqrt(1/N + 1/n), times Student's quantile,
    with one degree of freedom less than there are patients. Of foreign scans nothing is known: each may have any Dice from 0 to 1.

    Args:
        confidences: of the scans, in predictions of the same model.

    Source: the prediction interval of the mean of N further values of a normal distribution.
    """
    if not confidences:
        return None
    known, calibrated = [c.quality for c in confidences if not c.foreign], [c.errors for c in confidences if c.errors]
    foreign, expected = len(confidences) - len(known), fmean(c.quality for c in confidences)
    errors = max(calibrated, key=lambda e: e.spread, default=None)
    if errors is None:
        return FolderDice(scans=len(confidences), foreign=foreign, expected=expected, interval=None)
    low, high = 0.0, 0.0
    if known:
        quantile = float(stdtrit(errors.patients - 1, 0.5 + INTERVAL_LEVEL / 2))
        reach = quantile * errors.spread * math.sqrt(1.0 / len(known) + 1.0 / errors.cases)
        middle = fmean(known) + errors.mean
        low, high = (min(max(end, 0.0), 1.0) * len(known) for end in (middle - reach, middle + reach))
    interval = low / len(confidences), (high + foreign) / len(confidences)
    return FolderDice(scans=len(confidences), foreign=foreign, expected=expected, interval=interval)
