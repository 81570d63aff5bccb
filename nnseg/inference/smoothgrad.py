"""SmoothGrad by captum, an extra: the only module that imports it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor


def smoothgrad(
    objective: Callable[[Tensor], Tensor], tile: Tensor, *, copies: int, batch: int, deviation: float, seed: int
) -> Tensor:
    """The mean gradient (C, z, y, x) of an objective with respect to a tile, over copies of the tile with Gaussian noise.

    Args:
        objective: of tiles (B, C, z, y, x), a number for each.
        tile: float32 (C, z, y, x).
        copies: with noise.
        batch: copies in one pass.
        deviation: standard deviation of the noise.
        seed: of the noise.

    Source: Smilkov et al. 2017, arXiv:1706.03825.
    """
    with torch.random.fork_rng([tile.device] if tile.is_cuda else []):
        torch.manual_seed(seed)
        gradient: Tensor = NoiseTunnel(Saliency(objective)).attribute(
            tile[None].clone().requires_grad_(),
            nt_type="smoothgrad",
            nt_samples=copies,
            nt_samples_batch_size=batch,
            stdevs=deviation,
            abs=False,
        )
    return gradient[0].detach()
