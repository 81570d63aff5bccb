"""Correction of volumes for the size of the head (intracranial volume), as both usual methods do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from nnseg.core.frozen import FrozenModel
from nnseg.core.options import HeadMethod
from nnseg.core.validation import Number, Positive

FEWEST_HEADS = 20
"""Least number of people of whom both head size and volume are known."""


class HeadCorrection(FrozenModel):
    """What a volume would be in a head of average size.

    Args:
        method: "ratio" multiplies by average over own head size, "residual" subtracts what a regression expects of the difference.
        mean_ml: average head size of the population.
        people: number of people with a known head size.
        slopes: of "residual", by label: ml that a structure is larger for each ml of head.

    Source: O'Brien et al. 2011, doi:10.1016/j.pscychresns.2011.01.007; residuals, Mathalon et al. 1993,
    doi:10.1016/0925-4927(93)90016-9.
    """

    method: HeadMethod
    mean_ml: Positive
    people: int = Field(ge=FEWEST_HEADS)
    slopes: dict[str, Number] = Field(default_factory=dict)

    def corrected(self, label: str, ml: float, head_ml: float | None) -> float | None:
        """The volume in a head of average size, not below 0; None if the head size or the regression of the label is not known.

        Example:
            ``HeadCorrection(method="ratio", mean_ml=1500, people=20).corrected("a", 4.0, 1200.0) == 5.0``
        """
        if not head_ml:
            return None
        if self.method == "ratio":
            return ml * self.mean_ml / head_ml
        slope = self.slopes.get(label)
        return None if slope is None else max(0.0, ml - slope * (head_ml - self.mean_ml))


def regression_slope(heads_ml: Sequence[float], volumes_ml: Sequence[float]) -> float | None:
    """The slope of the least-squares line of volumes over head sizes; None for fewer than 20 people, or heads all of one size."""
    heads = np.array(heads_ml)
    if len(heads) < FEWEST_HEADS or heads.std() == 0:
        return None
    apart = heads - heads.mean()
    return float(apart @ np.array(volumes_ml) / (apart @ apart))
