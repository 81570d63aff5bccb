"""MRI artefacts: motion, ghosting, thick slices, bias fields and Rician noise.

Functions to draw and apply changes, for `nnseg.training.augmentation.intensity`. Nothing is drawn from the generator for changes
of probability zero, so that the other draws do not depend on which changes exist. Intensities may have any offset, because
normalization moves zero: changes of a magnitude apply to the intensity above a row's minimum.

Everything is computed in image space: a change of the lines of k-space along one axis is a convolution along that axis. Fourier
transforms would be slower here, and their last bits depend on the number of threads.

Sources: Shaw et al. 2019 (MIDL) for motion as a mixture of lines of moved copies; Pérez-García et al. 2021 (TorchIO) for the
choice of artefacts; Van Leemput et al. 1999 (IEEE TMI 18) for bias fields as exponentials of polynomials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.plan import Augmentation

Strength = tuple[float, ...]
Shape = tuple[int, ...]

SMALLEST: Final = 1e-7
"""Lower limit of ranges and standard deviations that are divided by."""


Draw = Callable[[np.random.Generator, Augmentation, Shape], dict[int, Strength]]
"""Of a generator, the settings and a patch's shape (C, *space): the strength for each channel to be changed."""


class IntensityChange(NamedTuple):
    """One kind of change: how it is drawn, and how it is applied to rows (N, *space) with a strength for each."""

    draw: Draw
    apply: Callable[[Tensor, Sequence[Strength]], Tensor]


def column(values: Sequence[float], rows: Tensor) -> Tensor:
    """One value for each row, shaped to be multiplied with rows."""
    values_there = torch.tensor(values, dtype=rows.dtype).to(rows.device, non_blocking=True)
    return values_there.view(-1, *[1] * (rows.ndim - 1))


def mean_of(rows: Tensor) -> Tensor:
    """The mean of each row, one axis after the other: a sum over all axes at once would depend on the number of threads."""
    for axis in range(rows.ndim - 1, 0, -1):
        rows = rows.mean(axis, keepdim=True)
    return rows


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each row."""
    axes = tuple(range(1, rows.ndim))
    return rows.amin(axes, keepdim=True), rows.amax(axes, keepdim=True)


def is_drawn(rng: np.random.Generator, probability: float) -> bool:
    """True with a probability; for zero nothing is drawn."""
    return probability > 0 and rng.random() < probability


Table = npt.NDArray[np.float64]

MOST_GHOSTS: Final = 5
DEGREE: Final = 3
"""Of the polynomial that is the logarithm of a bias field."""


def draw_motion(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """For one channel: the axis of the lines, the shares of lines before the first and the second move, and a shift for each."""
    if not is_drawn(rng, settings.motion_probability):
        return {}
    first = _first_axis(settings, shape)
    axis, moves = rng.integers(first, len(shape) - 1), np.sort(rng.uniform(0.2, 0.95, 2))
    shifts = np.rint(rng.uniform(*settings.motion) * rng.uniform(-1, 1, (2, len(shape) - 1)))
    shifts[:, :first] = 0
    return {int(rng.integers(shape[0])): (float(axis), *moves.tolist(), *shifts.ravel().tolist())}


def apply_motion(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows whose outer lines of k-space are those of the object after it moved, acquired from the centre outwards."""
    for row, (along, first, second, *shifts) in zip(rows, strengths, strict=True):
        axis, axes = int(along), tuple(range(row.ndim))
        bands = _bands(row.shape[axis], (first, second))
        moved = [row.roll([int(s) for s in shift], axes) - row for shift in (shifts[: row.ndim], shifts[row.ndim :])]
        lines = torch.cat([m.movedim(axis, 0).flatten(1) for m in moved])
        change = torch.from_numpy(bands).to(row.device, non_blocking=True) @ lines
        row.movedim(axis, 0).add_(change.view(row.movedim(axis, 0).shape))
    return rows


def draw_ghosting(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """For one channel: the axis, the number of ghosts (the object included), and their share of the signal."""
    if not is_drawn(rng, settings.ghosting_probability):
        return {}
    axis, ghosts = rng.integers(_first_axis(settings, shape), len(shape) - 1), rng.integers(2, MOST_GHOSTS + 1)
    return {int(rng.integers(shape[0])): (float(axis), float(ghosts), float(rng.uniform(*settings.ghosting)))}


def apply_ghosting(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows without a share of every ``ghosts``-th line of k-space except the central one.

    What they lose is the mean of the row's copies, shifted by equal parts of its length, minus its mean along the axis.
    """
    for row, (along, ghosts, share) in zip(rows, strengths, strict=True):
        axis, count = int(along), int(ghosts)
        lost = row - count * row.mean(axis, keepdim=True)
        for ghost in range(1, count):
            lost += row.roll(round(ghost * row.shape[axis] / count), axis)
        row.sub_(lost, alpha=share / count)
    return rows


def draw_slice_thickness(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """For one channel: the thickness in voxels; none in 2D or where slices are thick already."""
    if len(shape) < 4 or settings.in_plane or not is_drawn(rng, settings.slice_thickness_probability):
        return {}
    return {int(rng.integers(shape[0])): (float(rng.uniform(*settings.slice_thickness)),)}


def apply_slice_thickness(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows averaged over thicker slices along the first axis, the coarsest, and interpolated linearly."""
    for row, (thickness,) in zip(rows, strengths, strict=True):
        flat = row.reshape(1, 1, len(row), -1)
        thick = F.interpolate(flat, size=(max(1, round(len(row) / thickness)), flat.shape[-1]), mode="area")
        row.copy_(F.interpolate(thick, size=flat.shape[2:], mode="bilinear", align_corners=False).view(row.shape))
    return rows


def draw_bias_field(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """For each channel the coefficients of a polynomial in coordinates from -1 to 1, with mean 0 and a random deviation."""
    if not is_drawn(rng, settings.bias_field_probability):
        return {}
    return {channel: _coefficients(rng, rng.uniform(*settings.bias_field), len(shape) - 1) for channel in range(shape[0])}


def apply_bias_field(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows, above their minimum, times the exponential of a polynomial."""
    low, _ = extremes(rows)
    for row, base, coefficients in zip(rows, low, strengths, strict=True):
        row.sub_(base).mul_(_polynomial(coefficients, row).exp_()).add_(base)
    return rows


def draw_rician_noise(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:
    """(standard deviation, seed) of all channels; the deviation is the same."""
    if not is_drawn(rng, settings.rician_noise_probability):
        return {}
    deviation = float(rng.uniform(*settings.rician_noise))
    return {channel: (deviation, int(rng.integers(2**31))) for channel in range(shape[0])}


def apply_rician_noise(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Rows, above their minimum, as the magnitude of a complex signal with Gaussian noise in both parts.

    Source: Gudbjartsson and Patz 1995, The Rician distribution of noisy MRI data, eq. 1.
    """
    low, _ = extremes(rows)
    deviations = column([s[0] for s in strengths], rows)
    parts = torch.stack([_gaussian_pair(row, seed) for row, (_, seed) in zip(rows, strengths, strict=True)], 1) * deviations
    return (rows - low + parts[0]).square_().add_(parts[1].square_()).sqrt_().add_(low)


MRI_CHANGES: Final = {
    "motion": IntensityChange(draw_motion, apply_motion),
    "ghosting": IntensityChange(draw_ghosting, apply_ghosting),
    "slice_thickness": IntensityChange(draw_slice_thickness, apply_slice_thickness),
    "bias_field": IntensityChange(draw_bias_field, apply_bias_field),
    "rician_noise": IntensityChange(draw_rician_noise, apply_rician_noise),
}
"""All of them, in the order of application."""


def _first_axis(settings: Augmentation, shape: Shape) -> int:
    """The first axis for k-space lines and motion: 1 where axis 0 is that of thick slices."""
    return 1 if settings.in_plane and len(shape) == 4 else 0


def _bands(length: int, bounds: Sequence[float]) -> npt.NDArray[np.float32]:
    """(length, 2 * length): two convolution matrices side by side, for the lines beyond the first bound, and beyond the second."""
    frequency = np.abs(np.fft.fftfreq(length)) * 2
    kept = [(frequency > bounds[0]) & (frequency <= bounds[1]), frequency > bounds[1]]
    places = (np.arange(length)[:, None] - np.arange(length)) % length
    return np.concatenate([np.fft.ifft(k).real[places] for k in kept], axis=1).astype(np.float32)


def _coefficients(rng: np.random.Generator, deviation: float, axes: int) -> Strength:
    orders = np.indices((DEGREE + 1,) * axes).sum(0)
    drawn = np.where((orders > 0) & (orders <= DEGREE), rng.standard_normal(orders.shape), 0.0)
    values = drawn
    for powers in [_powers(9)] * axes:  # a few points suffice for a polynomial's mean and deviation
        values = np.tensordot(values, powers, (0, 0))
    drawn[(0,) * axes] = -values.mean()
    return tuple((drawn * (deviation / values.std())).ravel().tolist())


def _powers(length: int) -> Table:
    """(degree + 1, length) of coordinates from -1 to 1."""
    return np.asarray(np.linspace(-1.0, 1.0, length) ** np.arange(DEGREE + 1)[:, None])


def _polynomial(coefficients: Strength, row: Tensor) -> Tensor:
    """Its values over a row's voxels: over all axes but the first in double precision, along the first by Horner's rule."""
    inner = np.reshape(coefficients, (DEGREE + 1,) * row.ndim)
    for axis in range(1, row.ndim):
        powers = _powers(row.shape[axis])
        inner = np.sum([inner.take([k], axis) * _along(p, axis, row.ndim) for k, p in enumerate(powers)], axis=0)
    terms = torch.from_numpy(inner.astype(np.float32)).to(row.device, non_blocking=True)
    place = torch.linspace(-1.0, 1.0, len(row), device=row.device).view(-1, *[1] * (row.ndim - 1))
    values = terms[DEGREE] * place
    for k in range(DEGREE - 1, 0, -1):
        values = values.add_(terms[k]).mul_(place)
    return values.add_(terms[0])


def _along(values: Table, axis: int, axes: int) -> Table:
    return values.reshape([-1 if a == axis else 1 for a in range(axes)])


def _gaussian_pair(row: Tensor, seed: float) -> Tensor:
    """(2, *space) from the seed."""
    generator = torch.Generator(row.device).manual_seed(int(seed))
    return torch.randn((2, *row.shape), generator=generator, device=row.device)
