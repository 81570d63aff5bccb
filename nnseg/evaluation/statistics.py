"""How sure a difference is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

EXACT = 13
"""Up to this many pairs all 2^n signs are tried."""
DRAWS = 4999
"""Random signs beyond that."""


def sign_flip(differences: npt.NDArray[Any], *, seed: int = 0) -> float:
    """The chance that paired differences sum to as much as they do, or more, if each could as well have had the other sign.

    A one-sided test: small where the second of the pair is larger. Zeros say nothing and are left out; n pairs give 2^-n at best,
    so that few cases prove nothing. Source: Fisher 1935, The Design of Experiments, section 21.

    Args:
        differences: second minus first, one a pair, finite.
        seed: of the random signs, where there are too many to try all; another seed moves p by about 0.003 at p = 0.05.
    """
    sizes = np.abs(differences[differences != 0])
    seen, n = float(differences.sum()), len(sizes)
    tolerance = 1e-9 * float(sizes.sum())  # sums of the same numbers in another order
    if n <= EXACT:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean((1 - 2 * flips) @ sizes >= seen - tolerance))
    flips = np.random.default_rng(seed).integers(0, 2, (DRAWS, n), dtype=np.int8)
    return float((1 + np.count_nonzero((1 - 2 * flips) @ sizes >= seen - tolerance)) / (1 + DRAWS))
