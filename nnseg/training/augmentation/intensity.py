"""Random changes of intensity, the same code on CPU and GPU.

Each change is two functions: one draws the strength for each channel of one patch to be changed, the other applies it to all these
channels of a batch. A row is one channel of one patch; no change mixes rows, so a patch does not depend on the others in its batch.

Source: nnU-Net (Isensee et al. 2021), supplement 4, for the changes and their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.mri import (
    MRI_CHANGES,
    SMALLEST,
    Draw,
    IntensityChange,
    Shape,
    Strength,
    column,
    extremes,
    is_drawn,
    mean_of,
)

Strengths = Mapping[str, Mapping[int, Strength]]
"""For one patch: by change and channel, how strong it is; without the channels that stay."""


def draw_strengths(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> Strengths:
    """Random strengths of all changes for one patch of shape (C, *space)."""
    return {name: change.draw(rng, settings, shape) for name, change in CHANGES.items()}


def augment(image: Tensor, drawn: Sequence[Strengths], *, masked: Sequence[int] = ()) -> None:
    """Change a batch in place.

    Args:
        image: contiguous float32 (B, C, *space).
        drawn: for each patch, from `draw_strengths`.
        masked: channels normalized inside the object only; they stay zero where all channels are zero.
    """
    channels = image.shape[1]
    outside = (image == 0).all(1) if masked else None
    rows = image.view(-1, *image.shape[2:])
    for name, change in CHANGES.items():
        chosen = {b * channels + c: strength for b, patch in enumerate(drawn) for c, strength in patch[name].items()}
        if chosen:
            index = torch.tensor(list(chosen)).to(image.device, non_blocking=True)
            rows.index_copy_(0, index, change.apply(rows.index_select(0, index), list(chosen.values())))
    if outside is not None:
        for channel in masked:
            image[:, channel].masked_fill_(outside, 0.0)


def draw_noise(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """(standard deviation, seed) of all channels; the deviation is the same."""
    if rng.random() >= settings.noise_probability:
        return {}
    deviation = rng.uniform(*settings.noise)
    return {channel: (deviation, int(rng.integers(2**31))) for channel in range(shape[0])}


def apply_noise(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows plus Gaussian noise, each from its own seed."""
    for row, (deviation, seed) in zip(rows, strengths, strict=True):
        generator = torch.Generator(rows.device).manual_seed(int(seed))
        row.add_(torch.randn(row.shape, generator=generator, device=rows.device), alpha=deviation)
    return rows


def draw_blur(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """A sigma in voxels for each axis; each channel with probability 1/2."""
    if rng.random() >= settings.blur_probability:
        return {}
    return {c: tuple(rng.uniform(*settings.blur, len(shape) - 1)) for c in range(shape[0]) if rng.random() < 0.5}


def apply_blur(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows blurred by a Gaussian, cut off at three sigma and reflected at the borders."""
    for axis, sigmas in enumerate(zip(*strengths, strict=True), start=1):
        weights = _gaussian(np.array(sigmas))
        radius, length = len(weights) - 1, rows.shape[axis]
        mirrored = np.pad(np.arange(length), radius, mode="reflect")
        padded = rows.index_select(axis, torch.from_numpy(mirrored).to(rows.device, non_blocking=True))
        shares = [column(w.tolist(), rows) for w in weights]
        rows = rows * shares[0]
        for k in range(1, radius + 1):
            rows += shares[k] * (padded.narrow(axis, radius - k, length) + padded.narrow(axis, radius + k, length))
    return rows


def apply_brightness(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows times their factors."""
    return rows * _factors(strengths, rows)


def draw_stain(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """A factor of the optical density for each channel."""
    if not is_drawn(rng, settings.stain_probability):
        return {}
    return {channel: (_around_one(rng, *settings.stain),) for channel in range(shape[0])}


def apply_stain(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows whose optical density is multiplied; a row's maximum is unstained, its minimum stays.

    Density is the negative logarithm of the light that passes, so that a factor of it is an exponent of that share. With factors of
    their own for red, green and blue, colours shift as between laboratories.

    Source: Ruifrok and Johnston 2001 for optical density; Tellez et al. 2018 (IEEE TMI 37) for its random change in training.
    """
    low, high = extremes(rows)
    return _power((rows - low) / (high - low).clamp(min=SMALLEST), strengths) * (high - low) + low


def apply_contrast(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows with deviations from the mean times a factor, clipped to the old range."""
    mean = mean_of(rows)
    low, high = extremes(rows)
    return ((rows - mean) * _factors(strengths, rows) + mean).clamp(low, high)


def draw_low_resolution(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """A zoom for each axis, the same for all axes that lose resolution; each channel with probability 1/2."""
    if rng.random() >= settings.low_resolution_probability:
        return {}
    kept = 1 if settings.in_plane and len(shape) == 4 else 0
    zooms = rng.uniform(*settings.low_resolution, shape[0])
    return {c: (1.0,) * kept + (zooms[c],) * (len(shape) - 1 - kept) for c in range(shape[0]) if rng.random() < 0.5}


def apply_low_resolution(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows as if scanned on a coarser grid: nearest voxel down, linear up."""
    linear = "trilinear" if rows.ndim == 4 else "bilinear"
    for row, zooms in zip(rows, strengths, strict=True):
        size = [max(1, round(n * zoom)) for n, zoom in zip(row.shape, zooms, strict=True)]
        small = F.interpolate(row[None, None], size=size, mode="nearest-exact")
        row.copy_(F.interpolate(small, size=list(row.shape), mode=linear, align_corners=False)[0, 0])
    return rows


def apply_inverted_gamma(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """`apply_gamma` of the negative image, negated."""
    return -apply_gamma(-rows, strengths)


def apply_gamma(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows scaled to 0..1, raised to their exponents, and given their old mean and standard deviation."""
    mean = mean_of(rows)
    deviation = mean_of((rows - mean).square()).sqrt()
    low, high = extremes(rows)
    share = (rows - low) / (high - low).clamp(min=SMALLEST)
    curved = _power(share, strengths) * (high - low)
    curved -= mean_of(curved)
    return curved * (deviation / mean_of(curved.square()).sqrt().clamp(min=SMALLEST)) + mean


def draw_channel_dropout(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """The channels that are left out: each by chance, and never all of them."""
    if not settings.channel_dropout_probability:
        return {}
    lost = rng.random(shape[0]) < settings.channel_dropout_probability
    if lost.all():
        lost[rng.integers(shape[0])] = False
    return {int(channel): () for channel in np.flatnonzero(lost)}


def apply_channel_dropout(rows: Tensor, _: Sequence[Strength]) -> Tensor:
    """Zeros, what `nnseg.preprocessing.preprocess` makes of a missing channel."""
    return torch.zeros_like(rows)


def _factors_for(change: str, bounds: str) -> Draw:
    """A draw function: a factor for each channel, below and above 1 with equal probability.

    Args:
        change: name of the change, and of the setting of its probability.
        bounds: name of the setting of the range.
    """

    def draw(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
        if rng.random() >= getattr(settings, f"{change}_probability"):
            return {}
        return {channel: (_around_one(rng, *getattr(settings, bounds)),) for channel in range(shape[0])}

    return draw


def _around_one(rng: np.random.Generator, low: float, high: float) -> float:
    below = low < 1.0 and (high <= 1.0 or rng.random() < 0.5)
    return float(rng.uniform(low, min(1.0, high)) if below else rng.uniform(max(1.0, low), high))


def _gaussian(sigmas: np.ndarray) -> np.ndarray:
    """(1 + largest radius, N): the weight of the middle voxel, of its neighbours on either side, and so on, for each row."""
    radii = np.ceil(3 * sigmas)
    steps = np.arange(int(radii.max()) + 1)[:, None]
    heights = np.where(steps <= radii, np.exp(-0.5 * (steps / np.maximum(sigmas, SMALLEST)) ** 2), 0.0)
    return np.asarray(heights / (heights[0] + 2 * heights[1:].sum(0)))


def _power(shares: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows of 0..1, which are overwritten, to the power of their strengths."""
    # Not `shares ** factors`, whose last bit depends on where a thread's part of the tensor ends.
    return (shares.log_() * _factors(strengths, shares)).exp_()


def _factors(strengths: Sequence[Strength], rows: Tensor) -> Tensor:
    return column([s[0] for s in strengths], rows)


CHANGES: Final[dict[str, IntensityChange]] = {
    **MRI_CHANGES,
    "stain": IntensityChange(draw_stain, apply_stain),
    "noise": IntensityChange(draw_noise, apply_noise),
    "blur": IntensityChange(draw_blur, apply_blur),
    "brightness": IntensityChange(_factors_for("brightness", "brightness"), apply_brightness),
    "contrast": IntensityChange(_factors_for("contrast", "contrast"), apply_contrast),
    "low_resolution": IntensityChange(draw_low_resolution, apply_low_resolution),
    "inverted_gamma": IntensityChange(_factors_for("inverted_gamma", "gamma"), apply_inverted_gamma),
    "gamma": IntensityChange(_factors_for("gamma", "gamma"), apply_gamma),
    "channel_dropout": IntensityChange(draw_channel_dropout, apply_channel_dropout),
}
"""Every change, in the order of application: artefacts of the scanner come first, then the stain; what is left out stays zero."""
