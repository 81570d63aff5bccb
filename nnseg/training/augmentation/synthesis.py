"""Patches whose intensities are drawn anew for each label, so that a network learns shapes and no contrast.

Each label gets a normal distribution of its own, whose mean and spread are random; the background gets several, for parts of it
of unlike intensities. Then neighbours are mixed, as at borders of tissues in a scan. All other changes are the plan's.

Source: Billot et al. 2023, Medical Image Analysis 86 (SynthSeg), also for parts of the background by their intensities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from nnseg.core.plan import Augmentation
from nnseg.network.blocks import POOLS
from nnseg.training.augmentation.mri import is_drawn

PARTS: Final = 4
"""Parts of the background, by quartiles of intensity."""

MEANS: Final = (-2.0, 2.0)
SPREADS: Final = (0.05, 0.4)
MIXED: Final = (0.2, 0.9)
"""Ranges of mean and standard deviation of a class, in units of a normalized image, and of the share of a voxel's neighbours."""

MOST_SAMPLES: Final = 20_000
"""Voxels of which quartiles are taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Synthesis:
    """What a patch is made from anew.

    Args:
        means, spreads: of each class, (C, classes): parts of the background first, then the labels.
        mixed: share of the mean of a voxel's neighbourhood, 3 voxels a side, (C,).
        seed: of the noise.
    """

    means: np.ndarray
    spreads: np.ndarray
    mixed: np.ndarray
    seed: int


def draw_synthesis(rng: np.random.Generator, settings: Augmentation, *, channels: int, labels: int) -> Synthesis | None:
    """Random intensities of one patch; None if it stays as it is.

    Args:
        labels: number of them, with the background.
    """
    if not is_drawn(rng, settings.synthesis_probability):
        return None
    shape = (channels, PARTS + labels - 1)
    means, spreads, mixed = rng.uniform(*MEANS, shape), rng.uniform(*SPREADS, shape), rng.uniform(*MIXED, channels)
    return Synthesis(means=means, spreads=spreads, mixed=mixed, seed=int(rng.integers(2**31)))


def synthesize(image: Tensor, labels: Tensor, drawn: Sequence[Synthesis | None], *, whole: Sequence[int]) -> None:
    """Draw the intensities of some patches of a batch anew, in place. Voxels that are zero in all channels stay zero.

    Args:
        image: float32 (B, C, *space).
        labels: int64 (B, *space), -1 where ignored, which counts as background.
        drawn: for each patch, from `draw_synthesis`.
        whole: for each label the one that it is drawn as: the borders of a label's objects as the label.
    """
    for patch, indices, synthesis in zip(image, labels, drawn, strict=True):
        if synthesis is None:
            continue
        outside, found = (patch == 0).all(0), torch.tensor(whole, device=indices.device)[indices.clamp(min=0)]
        classes = torch.where(found > 0, found + PARTS - 1, _parts(patch[0], (found == 0) & ~outside))
        means, spreads = (torch.from_numpy(values).to(patch)[:, classes] for values in (synthesis.means, synthesis.spreads))
        generator = torch.Generator(patch.device).manual_seed(synthesis.seed)
        noise = torch.randn(patch.shape, generator=generator, device=patch.device)
        drawn_anew, shares = means + spreads * noise, torch.from_numpy(synthesis.mixed).to(patch)
        near = POOLS[indices.ndim](3, stride=1, padding=1, count_include_pad=False)(drawn_anew)
        mixed = torch.lerp(drawn_anew, near, shares.view(-1, *[1] * indices.ndim))
        patch.copy_(mixed.masked_fill(outside, 0.0))


def _parts(channel: Tensor, background: Tensor) -> Tensor:
    """The part of the background, 0 to `PARTS` - 1, that each voxel would belong to by its intensity."""
    values = channel[background]
    if not len(values):
        return torch.zeros_like(channel, dtype=torch.int64)
    sample = values[:: -(-len(values) // MOST_SAMPLES)]
    limits = torch.quantile(sample, torch.linspace(0, 1, PARTS + 1, device=sample.device)[1:-1])
    return torch.bucketize(channel.contiguous(), limits)
