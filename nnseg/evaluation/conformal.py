"""Split-conformal intervals: bounds that the error of one more case lies within as often as stated, whatever its distribution.

Cases must be exchangeable: those of the calibration and the new ones are of the same kind, none chosen by its error.
Source: Lei et al. 2018, doi:10.1080/01621459.2017.1307116; Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ROUNDING = 1e-9
"""Added before a number is rounded down, so that 0.1 * 10 is 1."""


def conformal_bounds(errors: Sequence[float], level: float) -> tuple[float, float] | None:
    """Bounds that hold for the error of one more case with at least the probability ``level``; None for too few errors.

    Of the n + 1 equally probable ranks of the new error, the share 1 - ``level`` lies outside, half of it at each end, an odd one
    above. With a single rank outside (9 to 18 errors at a level of 0.9) the bounds are those of the absolute error.

    Args:
        errors: of the calibration; may be infinite.

    Example:
        >>> conformal_bounds(range(19), 0.9)  # 1 of 20 ranks below, 1 above
        (0, 18)
    """
    ordered, outside = sorted(errors), math.floor((len(errors) + 1) * (1.0 - level) + ROUNDING)
    if outside < 1:
        return None
    if outside == 1:
        bound = max(abs(error) for error in ordered)
        return -bound, bound
    below = outside // 2
    return ordered[below - 1], ordered[len(ordered) - (outside - below)]


def fewest_errors(level: float) -> int:
    """The number of errors from which on there are bounds.

    Example:
        >>> fewest_errors(0.9)
        9
    """
    return math.ceil(1.0 / (1.0 - level) - 1.0 - ROUNDING)
