"""Masked autoencoding: a network learns from scans without labels to fill in the blocks that are masked in them.

Sources: He et al. 2022, CVPR, Masked autoencoders are scalable vision learners; Wald et al. 2025, CVPR, Revisiting MAE pre-training
for 3D medical image segmentation, for convolutional U-Nets: masked voxels are zero, and they alone count in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Plan, Steps
from nnseg.training.context import TrainingContext
from nnseg.training.learner import fresh_network
from nnseg.training.losses import OwnLoss

MASKED = 0.6
"""Share of the blocks that are masked."""

LARGEST_BLOCK, FEWEST_BLOCKS = 16, 4
"""Voxels along the edge of a block at most, and blocks along an axis of a patch at least."""

NETWORK = "network."
"""Begins the names of the network's weights in those of a `MaskedAutoencoder`."""


def pretraining_plan(plan: Plan) -> Plan:
    """The plan of a network's training without labels: as the plan's own, with patches anywhere.

    Raises:
        PlanError: the network takes label maps.
    """
    if plan.previous:
        raise PlanError(f"the network of {plan.name} takes the label maps of {plan.previous}; pretrain that of {plan.previous}")
    changes = {
        "foreground_share": 0.0,
        "empty_share": None,
        "distillation": 0.0,
        "class_weights": (),
        "deep_supervision": False,
        "patience": None,
    }
    return plan.model_copy(update={"training": plan.training.model_copy(update=changes)})


def masked_autoencoding(context: TrainingContext) -> tuple[nn.Module, OwnLoss]:
    """A network of the context's plan that fills in masked blocks, and its loss."""
    channels = len(context.plan.channels)
    values = tuple(range(max(2, channels)))
    labels = Labels(names=tuple(map(str, values)), values=values)  # a head for each channel
    network = fresh_network(replace(context, plan=context.plan.model_copy(update={"labels": labels})))
    numbers = (context.plan.training.seed, context.fold, context.ranks.rank)
    return MaskedAutoencoder(network, block=block_of(context.plan), seed=numbers), _mean


def block_of(plan: Plan) -> Steps:
    """Edges of the masked blocks: those of a voxel of the network's coarsest features, within limits."""
    pairs = zip(plan.patch, plan.network.divisor, strict=True)
    return tuple(max(1, min(divisor, LARGEST_BLOCK, edge // FEWEST_BLOCKS)) for edge, divisor in pairs)


class MaskedAutoencoder(nn.Module):
    """Squared errors (B, C, *space) of a network in masked blocks of images, scaled so that their mean is that of these blocks.

    Args:
        network: from images (B, C, *space) to C channels or more, of which the first ones count.
        block: edges of the blocks in voxels.
        seed: numbers that the masks depend on, besides the number of batches so far, which is stored with the weights.
    """

    batches: Tensor

    def __init__(self, network: nn.Module, *, block: Steps, seed: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.block, self.seed = network, block, seed
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor) -> Tensor:
        """The errors for images (B, C, *space)."""
        mask = self.mask(image)
        self.batches += 1
        restored: Tensor = self.network(image * (1 - mask))[:, : image.shape[1]]
        return (restored.float() - image) ** 2 * mask / mask.mean()

    def mask(self, image: Tensor) -> Tensor:
        """1 in the masked blocks of the next batch, else 0, (B, 1, *space)."""
        space = image.shape[2:]
        grid = [-(-edge // block) for edge, block in zip(space, self.block, strict=True)]
        numbers = [number % 2**64 for number in (*self.seed, int(self.batches))]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        ranks = torch.rand((len(image), int(np.prod(grid))), generator=generator).argsort(1).argsort(1)
        masked = (ranks < max(1, round(MASKED * ranks.shape[1]))).view(len(image), 1, *grid)
        return nn.functional.interpolate(masked.to(image), size=tuple(space))


def weights_of(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network alone, from those of a `MaskedAutoencoder`, without heads, which later labels do not share."""
    named = {name.removeprefix(NETWORK): value for name, value in trained.items() if name.startswith(NETWORK)}
    return {name: value for name, value in named.items() if "heads" not in name.split(".")}


def _mean(errors: Tensor, _: Tensor) -> Tensor:
    return errors.mean()
