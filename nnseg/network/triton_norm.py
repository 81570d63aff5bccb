"""Instance norm and leaky ReLU of channels-last volumes on CUDA, in Triton: each value is read twice and written once.

`torch.instance_norm` copies such volumes to another layout and back. Volumes are seen as rows (B, N, C): N voxels of a sample, of C
channels each. Statistics are float32, whatever the type of the values. Sums over voxels are computed in two stages, each program
summing some rows, so that the same values always give the same bits. The mean and the sum of squares around it are combined by
Chan's formula: differences of large numbers would fail where a mean is many times the spread.

Imports triton, which comes with torch's builds for CUDA: to be imported only where there is one. With ``TRITON_INTERPRET=1`` the
kernels run on a CPU, slowly, in tests.

Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnseg.network.blocks import EPSILON, InstanceNorm

TILE = 4096
"""Values that a program holds at a time."""

MOST_CHANNELS = 64
"""Channels of a tile."""

PROGRAMS = 1024
"""Programs that sum, over all samples and channels: enough to occupy a card."""


def use_triton_norm(network: nn.Module) -> None:
    """Let a 3D network on CUDA compute channels-last, with the kernels of this module in all its instance norms."""
    cast(Any, network).to(memory_format=torch.channels_last_3d)  # which its types lack
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.kernel = norm_activation


def norm_activation(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Instance norm with scale and offset, then leaky ReLU, as `nnseg.network.blocks.InstanceNorm` defines them.

    Args:
        x: (B, C, Z, Y, X); copied if it is not channels-last.
        weight, bias: (C,).
        slope: of the leaky ReLU below zero.

    Returns:
        Of the shape and type of ``x``, channels-last.
    """
    result: Tensor = _TritonNormActivation.apply(x, weight, bias, slope)
    return result


class _RowTiles(NamedTuple):
    """How the rows of a volume are divided among programs.

    Args:
        rows, channels: of a tile.
        tiles: that each program sums.
        parts: programs of a sample and some channels.
        blocks: of channels.
    """

    rows: int
    channels: int
    tiles: int
    parts: int
    blocks: int

    @classmethod
    def of(cls, samples: int, count: int, channels: int) -> _RowTiles:
        wide = min(MOST_CHANNELS, triton.next_power_of_2(channels))
        rows, blocks = TILE // wide, triton.cdiv(channels, wide)
        all_tiles = triton.cdiv(count, rows)
        tiles = triton.cdiv(all_tiles, max(1, PROGRAMS // (samples * blocks)))
        return cls(rows, wide, tiles, triton.cdiv(all_tiles, tiles), blocks)


class _TritonNormActivation(torch.autograd.Function):
    """The sign before the activation is computed again in the backward pass, so that only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        samples, channels, count = x.shape[0], x.shape[1], x[0, 0].numel()
        tiling, y = _RowTiles.of(samples, count, channels), torch.empty_like(x)
        partial = torch.empty(2, samples, tiling.parts, channels, dtype=torch.float32, device=x.device)
        saved = torch.empty(4, samples, channels, dtype=torch.float32, device=x.device)  # as `_combine` says
        summing = (samples, tiling.parts, tiling.blocks)
        _moments[summing](x, partial, count, channels, tiling.tiles, samples, tiling.rows, tiling.channels)
        per_part = tiling.tiles * tiling.rows
        _combine[(samples, tiling.blocks)](
            partial, weight, bias, saved, count, channels, per_part, tiling.parts, samples, EPSILON, tiling.channels
        )
        applying = (triton.cdiv(count, tiling.rows), samples, tiling.blocks)
        _apply[applying](x, saved, y, count, channels, samples, slope, tiling.rows, tiling.channels)
        ctx.save_for_backward(x, saved)
        ctx.slope, ctx.tiling = slope, tiling
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, saved = ctx.saved_tensors
        tiling: _RowTiles = ctx.tiling
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        samples, channels, count = x.shape[0], x.shape[1], x[0, 0].numel()
        partial = torch.empty(2, samples, tiling.parts, channels, dtype=torch.float32, device=x.device)
        summing = (samples, tiling.parts, tiling.blocks)
        _gradient_sums[summing](
            x, gradient, saved, partial, count, channels, tiling.tiles, samples, ctx.slope, tiling.rows, tiling.channels
        )
        sums, of_x = partial.sum(2), torch.empty_like(x)
        applying = (triton.cdiv(count, tiling.rows), samples, tiling.blocks)
        _gradient[applying](x, gradient, saved, sums, of_x, count, channels, samples, ctx.slope, tiling.rows, tiling.channels)
        of_bias, of_weight = sums.sum(1)
        return of_x, of_weight, of_bias, None


@triton.jit
def _moments(x, partial, count, channels, tiles, samples, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean, and sum of squares around it, of a program's rows: partial (2, B, parts, C)."""
    sample, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = columns < channels
    start = x + sample.to(tl.int64) * count * channels
    known = 0.0
    mean, squares = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for tile in range(tiles):
        rows = (part * tiles + tile) * ROWS + tl.arange(0, ROWS)
        wanted = (rows < count)[:, None] & inside[None, :]
        values = tl.load(start + rows.to(tl.int64)[:, None] * channels + columns[None, :], mask=wanted, other=0.0).to(tl.float32)
        number = tl.sum((rows < count).to(tl.float32), 0)
        divisor = tl.maximum(number, 1.0)
        own_mean = tl.sum(values, 0) / divisor
        distance = tl.where(wanted, values - own_mean[None, :], 0.0)
        own_squares = tl.sum(distance * distance, 0)
        total = tl.maximum(known + number, 1.0)
        shift = own_mean - mean
        squares += own_squares + shift * shift * (known * number / total)
        mean += shift * (number / total)
        known += number
    place = (sample * tl.num_programs(1) + part) * channels + columns
    tl.store(partial + place, mean, mask=inside)
    tl.store(partial + samples * tl.num_programs(1) * channels + place, squares, mask=inside)


@triton.jit
def _combine(partial, weight, bias, saved, count, channels, per_part, parts, samples, epsilon, CHANNELS: tl.constexpr):
    """Mean, 1 / standard deviation, scale and offset of whole samples: saved (4, B, C)."""
    sample, block = tl.program_id(0), tl.program_id(1)
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = columns < channels
    known = 0.0
    mean, squares = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for part in range(parts):
        place = (sample * parts + part) * channels + columns
        own_mean = tl.load(partial + place, mask=inside, other=0.0)
        own_squares = tl.load(partial + samples * parts * channels + place, mask=inside, other=0.0)
        number = tl.minimum(count - part * per_part, per_part).to(tl.float32)
        total = known + number
        shift = own_mean - mean
        squares += own_squares + shift * shift * (known * number / total)
        mean += shift * (number / total)
        known = total
    inverse = 1.0 / tl.sqrt(squares / count + epsilon)
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) * inverse
    offset = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    place, size = sample * channels + columns, samples * channels
    tl.store(saved + place, mean, mask=inside)
    tl.store(saved + size + place, inverse, mask=inside)
    tl.store(saved + 2 * size + place, scale, mask=inside)
    tl.store(saved + 3 * size + place, offset, mask=inside)


@triton.jit
def _apply(x, saved, y, count, channels, samples, slope, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The output of a tile."""
    tile, sample, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = columns < channels
    wanted = (rows < count)[:, None] & inside[None, :]
    place, size = sample * channels + columns, samples * channels
    mean = tl.load(saved + place, mask=inside, other=0.0)
    scale = tl.load(saved + 2 * size + place, mask=inside, other=0.0)
    offset = tl.load(saved + 3 * size + place, mask=inside, other=0.0)
    at = sample.to(tl.int64) * count * channels + rows.to(tl.int64)[:, None] * channels + columns[None, :]
    values = tl.load(x + at, mask=wanted, other=0.0).to(tl.float32)
    result = (values - mean[None, :]) * scale[None, :] + offset[None, :]
    result = tl.where(result > 0, result, result * slope)
    tl.store(y + at, result.to(y.dtype.element_ty), mask=wanted)


@triton.jit
def _before_activation(x, gradient, at, wanted, mean, scale, offset, slope):
    """Of a tile: distance from the mean, and gradient before the activation."""
    distance = tl.load(x + at, mask=wanted, other=0.0).to(tl.float32) - mean[None, :]
    upstream = tl.load(gradient + at, mask=wanted, other=0.0).to(tl.float32)
    positive = distance * scale[None, :] + offset[None, :] > 0
    return distance, tl.where(positive, upstream, upstream * slope)


@triton.jit
def _gradient_sums(x, gradient, saved, partial, count, channels, tiles, samples, slope, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums over a program's rows of the gradient before the activation, and of it times the normalized values: (2, B, parts, C)."""
    sample, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = columns < channels
    place, size = sample * channels + columns, samples * channels
    mean = tl.load(saved + place, mask=inside, other=0.0)
    inverse = tl.load(saved + size + place, mask=inside, other=0.0)
    scale = tl.load(saved + 2 * size + place, mask=inside, other=0.0)
    offset = tl.load(saved + 3 * size + place, mask=inside, other=0.0)
    first, second = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for tile in range(tiles):
        rows = (part * tiles + tile) * ROWS + tl.arange(0, ROWS)
        wanted = (rows < count)[:, None] & inside[None, :]
        at = sample.to(tl.int64) * count * channels + rows.to(tl.int64)[:, None] * channels + columns[None, :]
        distance, upstream = _before_activation(x, gradient, at, wanted, mean, scale, offset, slope)
        first += tl.sum(upstream, 0)
        second += tl.sum(upstream * distance * inverse[None, :], 0)
    to = (sample * tl.num_programs(1) + part) * channels + columns
    tl.store(partial + to, first, mask=inside)
    tl.store(partial + samples * tl.num_programs(1) * channels + to, second, mask=inside)


@triton.jit
def _gradient(x, gradient, saved, sums, of_x, count, channels, samples, slope, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The gradient of a tile of the input; sums (2, B, C) are those of `_gradient_sums` over whole samples."""
    tile, sample, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = columns < channels
    wanted = (rows < count)[:, None] & inside[None, :]
    place, size = sample * channels + columns, samples * channels
    mean = tl.load(saved + place, mask=inside, other=0.0)
    inverse = tl.load(saved + size + place, mask=inside, other=0.0)
    scale = tl.load(saved + 2 * size + place, mask=inside, other=0.0)
    offset = tl.load(saved + 3 * size + place, mask=inside, other=0.0)
    first = tl.load(sums + place, mask=inside, other=0.0) / count
    second = tl.load(sums + size + place, mask=inside, other=0.0) / count
    at = sample.to(tl.int64) * count * channels + rows.to(tl.int64)[:, None] * channels + columns[None, :]
    distance, upstream = _before_activation(x, gradient, at, wanted, mean, scale, offset, slope)
    normalized = distance * inverse[None, :]
    result = scale[None, :] * (upstream - first[None, :] - normalized * second[None, :])
    tl.store(of_x + at, result.to(of_x.dtype.element_ty), mask=wanted)
