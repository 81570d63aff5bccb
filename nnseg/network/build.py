"""The network of a plan, built by its kind.

A U-Net of other blocks is an entry of `nnseg.core.network_kinds.KINDS`, and its blocks one of `BLOCKS`. Any other network is a
function of the plan in `NETWORKS`. Both have a name in `nnseg.core.plan.NetworkKind`. What the function returns takes images
(B, ``plan.input_channels``, *space), whose axes ``plan.network.divisor`` divides, and returns logits (B, K, *space) with one
channel for each of ``plan.labels.heads``. It may also

- have the attributes of `DeeplySupervised`, to be trained on the logits of several stages;
- have a part called ``encoder``, so that ``--freeze encoder`` finds it;
- have ``heads`` as a part of the names of its last layers, so that `nnseg.network.transfer` finds the weights of each label;
- apply `nnseg.network.blocks.channels_last_on_cpu` and `initialize`, as the U-Nets do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from torch import nn

from nnseg.core.errors import PlanError
from nnseg.core.network_kinds import ATROUS, CONVOLUTION, KINDS, RESIDUAL, SEPARABLE, TRANSFORMER, Block
from nnseg.core.plan import Network, NetworkKind, Plan
from nnseg.core.validation import function_table
from nnseg.network.atrous import atrous_blocks
from nnseg.network.blocks import ConvNorm, ResidualBlock, initialize, repeated
from nnseg.network.resnet import ResNetEncoder
from nnseg.network.separable import SeparableBlock
from nnseg.network.transformer import transformer_blocks
from nnseg.network.unet import Decoder, MakeBlocks, UNet, assemble_unet


@runtime_checkable
class DeeplySupervised(Protocol):
    """A network that can return the logits of its coarser stages too.

    Attributes:
        deep_supervision: whether it returns a list of the logits of all stages, finest first, or the finest ones alone.
        heads: the layers that make the logits of each stage, finest first.
    """

    deep_supervision: bool

    @property
    def heads(self) -> Sequence[nn.Module]: ...  # noqa: D102


def build_network(plan: Plan) -> nn.Module:
    """The plan's network with random weights, the same after the same ``torch.manual_seed``."""
    return NETWORKS[plan.network.kind](plan)


def unet(plan: Plan) -> UNet:
    """A U-Net of the plan's kind of blocks."""
    return build_unet(plan.network, channels=plan.input_channels, heads=len(plan.labels.heads))


def build_unet(network: Network, *, channels: int, heads: int) -> UNet:
    """A U-Net of a kind and topology, see `assemble_unet`."""
    return assemble_unet(network, BLOCKS, channels=channels, heads=heads)


BLOCKS: dict[Block, MakeBlocks] = {
    CONVOLUTION: partial(repeated, ConvNorm),
    RESIDUAL: partial(repeated, ResidualBlock),
    SEPARABLE: partial(repeated, SeparableBlock),
    ATROUS: atrous_blocks,
    TRANSFORMER: transformer_blocks,
}
"""The functions that build the blocks of a stage."""


def resnet(plan: Plan) -> UNet:
    """A ResNet as encoder, with the decoder of a plain U-Net.

    Raises:
        PlanError: the plan is 3D.
    """
    if plan.dimensions != 2:
        raise PlanError(f"a network of the kind {plan.network.kind} is 2D, and the plan {plan.name} 3D; choose another kind")
    plain = plan.network.model_copy(update={"kind": "plain"})
    decoder = Decoder(plain, len(plan.labels.heads), BLOCKS).apply(initialize)
    return UNet(ResNetEncoder(plan), decoder, divisor=plan.network.divisor)


UNETS = dict.fromkeys(KINDS, unet)
RESNETS = dict.fromkeys(("resnet", "bottleneck_resnet", "cifar_resnet"), resnet)

NETWORKS: dict[str, Callable[[Plan], nn.Module]] = function_table(NetworkKind, {**UNETS, **RESNETS})
