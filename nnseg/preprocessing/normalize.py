"""Intensities on a common scale, one scheme per channel. Source: Isensee et al. 2021, supplement 3 (intensity normalization).

A scan's channel is only ever compared with itself ("zscore", "rescale_to_0_1"), with the whole dataset ("ct", whose numbers mean
the same tissue everywhere), or with its format ("rgb_to_0_1").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes

from nnseg.core.errors import ScanError
from nnseg.core.image import Floats
from nnseg.core.plan import Normalization, NormalizationScheme
from nnseg.core.validation import function_table

Mask = npt.NDArray[np.bool_]
Normalizer = Callable[[Floats, Normalization, Mask | None], Floats]

SMALLEST_DIVISOR = 1e-8
"""A constant channel has no spread to divide by; it becomes zeros."""


def normalize(image_CZYX: Floats, normalization: Sequence[Normalization]) -> Floats:
    """The image with every channel scaled by its own scheme; a new array.

    Raises:
        ScanError: a channel's values are outside what its scheme is for.
    """
    schemes = [NORMALIZERS[n.scheme] for n in normalization]
    inside = filled_mask(image_CZYX) if any(n.masked for n in normalization) else None
    result = np.empty_like(image_CZYX, dtype=np.float32)
    for scaled, channel, scheme, numbers in zip(result, image_CZYX, schemes, normalization, strict=True):
        scaled[...] = scheme(channel, numbers, inside if numbers.masked else None)
    return result


def filled_mask(image_CZYX: Floats) -> Mask:
    """Where the scan shows something: voxels with any channel not zero, and the holes they enclose in three dimensions."""
    return np.asarray(binary_fill_holes((image_CZYX != 0).any(axis=0)), dtype=bool)


def ct(channel: Floats, numbers: Normalization, inside: Mask | None) -> Floats:
    """Z-scores by the dataset's foreground mean and std, of values clipped to its 0.5 and 99.5 percentiles (``low``, ``high``)."""
    clipped = np.clip(channel, np.float32(numbers.low), np.float32(numbers.high))
    return _only(inside, (clipped - np.float32(numbers.mean)) / _divisor(numbers.std))


def zscore(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """The channel minus its mean, over its std; with ``inside`` both are taken there, and the rest is zero."""
    values = channel if inside is None else channel[inside]
    if not values.size:
        return np.zeros_like(channel)
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)  # float32 sums drift over 10^8 voxels
    return _only(inside, (channel - np.float32(mean)) / _divisor(std))


def rescale_to_0_1(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """The channel stretched so that its least value (of those ``inside``) is 0 and its greatest 1."""
    values = channel if inside is None else channel[inside]
    if not values.size:
        return np.zeros_like(channel)
    return _only(inside, (channel - values.min()) / _divisor(float(values.max()) - float(values.min())))


def rgb_to_0_1(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """An 8-bit channel over 255.

    Raises:
        ScanError: values beyond 0 and 255.
    """
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise ScanError(
            f"values reach from {low:g} to {high:g}, but the plan's rgb_to_0_1 is for 8-bit images (0 to 255); "
            "convert the image to 8 bits as the training images were"
        )
    return _only(inside, channel / np.float32(255))


def unchanged(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """The channel as it is."""
    return _only(inside, channel)


def _only(inside: Mask | None, channel: Floats) -> Floats:
    return channel if inside is None else np.where(inside, channel, np.float32(0))


def _divisor(spread: float) -> np.float32:
    return np.float32(max(spread, SMALLEST_DIVISOR))


NORMALIZERS: dict[str, Normalizer] = function_table(
    NormalizationScheme,
    {"ct": ct, "zscore": zscore, "rescale_to_0_1": rescale_to_0_1, "rgb_to_0_1": rgb_to_0_1, "none": unchanged},
)
