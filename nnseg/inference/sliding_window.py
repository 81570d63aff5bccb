"""A network's answer for a whole volume, tile by tile.

Logits are averaged over tiles (weighted by importance) and over mirrored copies, in float32; then they become probabilities.
Source: nnU-Net (Isensee 2021, Methods, "Inference"); averaging over members is different, see `nnseg.inference.ensemble`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.geometry import tile_starts
from nnseg.core.plan import Steps
from nnseg.core.sides import Pairs, permutation

Box = tuple[slice, slice, slice, slice]
Flips = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a volume is cut into tiles.

    Args:
        patch: shape of a tile in voxels: two values for networks that see slices, along axis 0 of the volume; or three.
        heads: channels of the network's answer.
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes of the patch mirrored in all combinations; the logits are averaged.
        sigmoid: heads are regions, each with a probability of its own; otherwise they share one (softmax).
        swap_axis: axis of the patch from one side of the body to the other; None where no heads are swapped.
        swaps: pairs of heads that change places in copies mirrored along ``swap_axis``: left and right.
        previous_swaps: pairs of label indices that do in the image's last channel, if that is the previous answer of a cascade.
        batch: tiles, or mirrored copies of them, that go through the network together; changes speed and memory only.
        dtype: of autocast; float32 for none.
    """

    patch: Steps
    heads: int
    step: float = 0.5
    mirror_axes: Steps = ()
    sigmoid: bool = False
    swap_axis: int | None = None
    swaps: Pairs = ()
    previous_swaps: Pairs = ()
    batch: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def tile(self) -> Steps:
        """Shape (z, y, x) of a tile, one slice thick for networks that see slices."""
        return (1, *self.patch) if len(self.patch) == 2 else self.patch

    @property
    def flips(self) -> tuple[Flips, ...]:
        """The axes of a tile (C, z, y, x) to reverse for each mirrored copy, the unmirrored first."""
        axes = [a + 4 - len(self.patch) for a in self.mirror_axes]
        return tuple(chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n))

    def crosses(self, flips: Flips) -> bool:
        """True for copies in which left is right."""
        return self.swap_axis is not None and self.swap_axis + 4 - len(self.patch) in flips


def importance(patch: Steps) -> Tensor:
    """The weight of each voxel of a tile, float32: a Gaussian around its centre with sigma patch/8, one at most and never zero."""
    weight = torch.ones((), dtype=torch.float64)
    for length in patch:
        distance = torch.arange(length, dtype=torch.float64) - length // 2
        weight = weight[..., None] * torch.exp(-0.5 * (distance / (length / 8)) ** 2)
    weight = weight.to(torch.float32)
    return weight.clamp(min=float(weight[weight > 0].min()))


def sliding_window(network: Callable[[Tensor], Tensor], image: Tensor, window: Window) -> Tensor:
    """Probabilities (K, Z, Y, X), float32, of an image (C, Z, Y, X), on the image's device.

    Args:
        network: logits (B, K, z, y, x) of tiles (B, C, z, y, x), or without z for a patch of two axes.
        image: float32; one smaller than the patch is padded with zeros on both sides.
        window: how to cut it.
    """
    missing = [max(t - n, 0) for t, n in zip(window.tile, image.shape[1:], strict=True)]
    pads = [p for m in reversed(missing) for p in (m // 2, m - m // 2)]
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))
    with torch.inference_mode():
        logits = _mean_logits(network, F.pad(image, pads), window)[(slice(None), *inner)].contiguous()
        return logits.sigmoid_() if window.sigmoid else _softmax_in_place(logits)


def batch_for(patch: Steps, features: int, device: torch.device) -> int:
    """How many tiles to send through the network together.

    A CPU's caches want few values at a time. Measured in bfloat16 on one core: eight 40 x 56 x 40 tiles through a U-Net that starts
    with 16 features took 0.22 s one or two at once and 0.28 s all together; slices of 256 x 256 with 32 features are fastest
    alone, of 64 x 64 eight at once. A GPU wants to be filled; its numbers are an estimate, not measured.

    Args:
        patch: shape of a tile in voxels.
        features: channels of the network's finest stage.
        device: where it computes.
    """
    values, most = (3_000_000, 8) if device.type == "cpu" else (100_000_000, 32)
    return max(1, min(most, values // (features * math.prod(patch))))


def _mean_logits(network: Callable[[Tensor], Tensor], image: Tensor, window: Window) -> Tensor:
    weight = importance(window.tile).to(image.device)
    total = image.new_zeros((window.heads, *image.shape[1:]))
    weights = image.new_zeros((1, *image.shape[1:]))
    copies = [(box, flips) for box in _boxes(image, window) for flips in window.flips]
    for first in range(0, len(copies), window.batch):
        chunk = copies[first : first + window.batch]
        tiles = torch.stack([_mirrored(image[box], flips, window) for box, flips in chunk])
        for (box, flips), logits in zip(chunk, _answer(network, tiles, window), strict=True):
            heads = logits[list(permutation(window.swaps, window.heads))] if window.crosses(flips) else logits
            total[box].addcmul_(heads.flip(flips), weight)
            weights[box] += weight
    return total.div_(weights)


def _mirrored(tile: Tensor, flips: Flips, window: Window) -> Tensor:
    """A copy of a tile (C, z, y, x) as training shows mirrored patches."""
    tile = tile.flip(flips)
    if window.previous_swaps and window.crosses(flips):
        before = tile[-1].clone()
        for left, right in window.previous_swaps:
            tile[-1].masked_fill_(before == left, right).masked_fill_(before == right, left)
    return tile


def _boxes(image: Tensor, window: Window) -> Iterator[Box]:
    steps = (1.0, window.step, window.step) if len(window.patch) == 2 else (window.step,) * 3
    starts = [tile_starts(n, t, s) for n, t, s in zip(image.shape[1:], window.tile, steps, strict=True)]
    for corner in product(*starts):
        z, y, x = (slice(a, a + t) for a, t in zip(corner, window.tile, strict=True))
        yield slice(None), z, y, x


def _answer(network: Callable[[Tensor], Tensor], tiles: Tensor, window: Window) -> Tensor:
    """Logits (B, K, z, y, x), float32, of tiles (B, C, z, y, x)."""
    with torch.autocast(tiles.device.type, dtype=window.dtype, enabled=window.dtype != torch.float32):
        logits = network(tiles.squeeze(2)).unsqueeze(2) if len(window.patch) == 2 else network(tiles)
    return logits.float()


def _softmax_in_place(logits: Tensor) -> Tensor:
    """Softmax over axis 0 in the memory of its argument, which for many labels is most of what there is."""
    logits.sub_(logits.amax(0, keepdim=True)).exp_()
    return logits.div_(logits.sum(0, keepdim=True))
