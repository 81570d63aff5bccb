"""Intensity normalization, one scheme per channel. Source: Isensee et al. 2021, supplement 3 (intensity normalization).

A channel is scaled by its own statistics ("zscore", "rescale_to_0_1"), by the dataset's ("ct", whose values mean the same tissue in
every scan), or by the range of its format ("rgb_to_0_1").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
"""Least divisor: a constant channel becomes zeros."""


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """Mean, standard deviation, least and greatest value of a channel."""

    mean: float
    std: float
    low: float
    high: float


def measure_channels(parts: Iterable[npt.NDArray[Any]]) -> tuple[ChannelStatistics, ...]:
    """The statistics of the channels of an image, of which one part is held at a time.

    Args:
        parts: (C, ...), finite values alone count.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance" (means and squares of parts).
    """
    rows = [[_moments(channel) for channel in part] for part in parts]
    count, mean, squares, low, high = np.moveaxis(np.array(rows, np.float64), -1, 0)  # each (parts, C)
    total = np.maximum(count.sum(axis=0), 1)
    whole = (count * mean).sum(axis=0) / total
    std = np.sqrt((squares + count * (mean - whole) ** 2).sum(axis=0) / total)
    ends = np.where(count.sum(axis=0) > 0, (low.min(axis=0), high.max(axis=0)), 0.0)
    return tuple(ChannelStatistics(mean=m, std=s, low=a, high=b) for m, s, a, b in zip(whole, std, *ends, strict=True))


def _moments(values: npt.NDArray[Any]) -> tuple[float, ...]:
    """Number, mean, squared deviations from it, least and greatest of the finite values."""
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not values.size:
        return 0.0, 0.0, 0.0, np.inf, -np.inf
    return values.size, values.mean(dtype=np.float64), values.var(dtype=np.float64) * values.size, values.min(), values.max()


def fix_statistics(normalization: Sequence[Normalization], statistics: Sequence[ChannelStatistics]) -> tuple[Normalization, ...]:
    """The normalization of parts of an image as that of the whole, whose channels have these statistics."""
    return tuple(_fixed(settings, channel) for settings, channel in zip(normalization, statistics, strict=True))


def _fixed(settings: Normalization, channel: ChannelStatistics) -> Normalization:
    mean, std = (channel.mean, channel.std) if settings.scheme == "zscore" else (channel.low, channel.high - channel.low)
    if settings.scheme not in OF_THE_IMAGE:
        return settings
    return Normalization(scheme="ct", masked=settings.masked, mean=mean, std=std, low=channel.low, high=channel.high)


OF_THE_IMAGE = ("zscore", "rescale_to_0_1")
"""Schemes that scale a channel by its own statistics."""


def normalize(image_CZYX: Floats, normalization: Sequence[Normalization]) -> Floats:
    """A new image, float32, with every channel normalized by its own scheme.

    Raises:
        ScanError: a channel's values are outside the range of its scheme.
    """
    inside = filled_mask(image_CZYX) if any(n.masked for n in normalization) else None
    result = np.empty_like(image_CZYX, dtype=np.float32)
    for normalized, channel, settings in zip(result, image_CZYX, normalization, strict=True):
        normalized[...] = NORMALIZERS[settings.scheme](channel, settings, inside if settings.masked else None)
    return result


def filled_mask(image_CZYX: Floats) -> Mask:
    """Voxels where any channel is not zero, with the 3D holes they enclose, (Z, Y, X)."""
    return np.asarray(binary_fill_holes((image_CZYX != 0).any(axis=0)), dtype=bool)


def ct(channel: Floats, settings: Normalization, inside: Mask | None) -> Floats:
    """Values clipped to the dataset's 0.5 and 99.5 foreground percentiles (``low``, ``high``), minus its mean, over its std."""
    clipped = np.clip(channel, np.float32(settings.low), np.float32(settings.high))
    return _only(inside, (clipped - np.float32(settings.mean)) / _divisor(settings.std))


def zscore(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """The channel minus its mean, over its std; with ``inside`` both are computed there, and the rest is zero."""
    values = channel if inside is None else channel[inside]
    if not values.size:
        return np.zeros_like(channel)
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)  # float32 sums drift over 10^8 voxels
    return _only(inside, (channel - np.float32(mean)) / _divisor(std))


def rescale_to_0_1(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """The channel scaled linearly so that its least value (``inside``) is 0 and its greatest 1."""
    values = channel if inside is None else channel[inside]
    if not values.size:
        return np.zeros_like(channel)
    return _only(inside, (channel - values.min()) / _divisor(float(values.max()) - float(values.min())))


def rgb_to_0_1(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:
    """An 8-bit channel divided by 255.

    Raises:
        ScanError: values outside 0 to 255.
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
