"""How often the probabilities of a case with a known reference are right, in a form small enough for a JSON file."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from nnseg.core.frozen import FrozenModel

Numbers = npt.NDArray[np.float64]

BINS = 15
"""Bins of confidence of equal width from 0 to 1; a bin includes its upper end."""

RELIABILITY_TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(19))
"""Temperatures from 0.5 to 4 for which sums are kept: the best is known only after all cases. Between two, sums change evenly."""

_SCALE = 2.0**15
_SHAPE = (len(RELIABILITY_TEMPERATURES), 3 * BINS + 1)


class Reliability(FrozenModel):
    """Sums over the voxels of one case, which together weigh 1, at each of the `RELIABILITY_TEMPERATURES`.

    Args:
        packed: the sums in half precision, little-endian, in base64: a twentieth of the size of their text.
    """

    packed: str

    @field_validator("packed")
    @classmethod
    def _is_finite(cls, packed: str) -> str:
        if not np.isfinite(_unpacked(packed)).all():
            raise ValueError("the sums must be numbers")
        return packed

    @classmethod
    def of(cls, sums: Numbers, brier: Numbers) -> Reliability:
        """The sums in half precision.

        Args:
            sums: (temperatures, bins, 3), as ``sums`` returns them.
            brier: (temperatures,), as ``brier`` returns it.
        """
        table = np.concatenate([sums.reshape(len(sums), -1), brier[:, None]], 1) * _SCALE
        return cls(packed=base64.b64encode(table.astype("<f2").tobytes()).decode("ascii"))

    @property
    def sums(self) -> Numbers:
        """(temperatures, bins, 3): weight of the voxels; weighted sum of confidence minus correctness; and of correctness."""
        return _unpacked(self.packed)[:, :-1].reshape(len(RELIABILITY_TEMPERATURES), BINS, 3)

    @property
    def brier(self) -> Numbers:
        """(temperatures,): Brier score, the mean squared distance of the probabilities from the truth."""
        return _unpacked(self.packed)[:, -1]


def _unpacked(packed: str) -> Numbers:
    table = np.frombuffer(base64.b64decode(packed, validate=True), "<f2").astype(np.float64) / _SCALE
    return table.reshape(_SHAPE)
