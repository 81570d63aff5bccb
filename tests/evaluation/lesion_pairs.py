"""Random masks with lesions, for `match_lesions` and for its oracle: needs nothing but NumPy and SciPy."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PAIRS = 100


def lesion_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference (Z, Y, X): blobs moved, split, merged, missed and made up; every fourth pair is a single slice."""
    rng = np.random.default_rng(seed)
    shape = (1, 48, 48) if seed % 4 == 0 else (14, 24, 24)
    field = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.7, 1.5), mode="constant")
    other = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.7, 1.5), mode="constant")
    blurred = field / field.std() + rng.uniform(0, 0.6) * other / other.std()
    share = rng.uniform(0.02, 0.25)
    reference = field > np.quantile(field, 1 - share)
    prediction = blurred > np.quantile(blurred, 1 - share * rng.uniform(0.5, 1.6))
    return np.roll(prediction, seed % 2, axis=2), reference
