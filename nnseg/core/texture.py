"""How images differ between neighbouring voxels: noise, blur, and seams of what was put together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Triple = tuple[float, float, float]

SAMPLE = 1_000_000
"""Voxels, at least, of which differences of neighbours are taken."""


def measure_texture(image: npt.NDArray[Any]) -> tuple[Triple, Triple]:
    """Roughness and seams of an image (Z, Y, X), each along z, y and x.

    Roughness is the mean squared difference of neighbours over twice the variance: 1 for noise, near 0 for smooth images. Seams are
    the largest mean of a plane between neighbours over the median one: 1 for an even image, large where a plane divides two that do
    not belong together. Both are 0 along an axis without differences.
    """
    rough, seams = zip(*(_along(image, axis) for axis in range(3)), strict=True)
    return (rough[0], rough[1], rough[2]), (seams[0], seams[1], seams[2])


def _along(image: npt.NDArray[Any], axis: int) -> tuple[float, float]:
    step = max(1, math.isqrt(image.size // SAMPLE))
    some = image[tuple(slice(None, None, 1 if other == axis else step) for other in range(3))].astype(np.float64)
    planes = np.square(np.diff(some, axis=axis)).mean(tuple(other for other in range(3) if other != axis))
    variance = float(some.var())
    if not planes.size or variance == 0 or not planes.any():
        return 0.0, 0.0
    return float(planes.mean()) / (2.0 * variance), float(planes.max() / max(float(np.median(planes)), 1e-9 * variance))
