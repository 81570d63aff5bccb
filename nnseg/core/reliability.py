"""How often one answer's probabilities are right: sums over its voxels, small enough to be kept with every prediction."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

Numbers = npt.NDArray[np.float64]

BINS = 15
"""Of equal width, from no confidence to full; a bin includes its upper end."""

RELIABILITY_TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(19))
"""That sums are kept at, 0.5 to 4: the temperature is known only once all cases are. Between two of them the sums change evenly."""

_SCALE = 2.0**15
_SHAPE = (len(RELIABILITY_TEMPERATURES), 3 * BINS + 1)


class Reliability(BaseModel):
    """Sums of one case whose reference is known, at each of the `RELIABILITY_TEMPERATURES`; its voxels weigh 1 together.

    Args:
        packed: the sums in half precision, little-endian, in base64: a twentieth of their text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    packed: str

    @field_validator("packed")
    @classmethod
    def _whole(cls, packed: str) -> str:
        if not np.isfinite(_unpacked(packed)).all():
            raise ValueError("the sums must be numbers")
        return packed

    @classmethod
    def of(cls, sums: Numbers, brier: Numbers) -> Reliability:
        """The noun of what `sums` and `brier` give back, to half precision.

        Args:
            sums: (temperatures, bins, 3).
            brier: (temperatures,).
        """
        table = np.concatenate([sums.reshape(len(sums), -1), brier[:, None]], 1) * _SCALE
        return cls(packed=base64.b64encode(table.astype("<f2").tobytes()).decode("ascii"))

    @property
    def sums(self) -> Numbers:
        """(temperatures, bins, 3): weight of the voxels; of it, how much surer than right (confidence - right); how much right."""
        return _unpacked(self.packed)[:, :-1].reshape(len(RELIABILITY_TEMPERATURES), BINS, 3)

    @property
    def brier(self) -> Numbers:
        """(temperatures,): mean squared distance of the probabilities from the truth."""
        return _unpacked(self.packed)[:, -1]


def _unpacked(packed: str) -> Numbers:
    table = np.frombuffer(base64.b64decode(packed, validate=True), "<f2").astype(np.float64) / _SCALE
    return table.reshape(_SHAPE)
