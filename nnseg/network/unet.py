"""U-Nets, 2D and 3D, of the blocks of their kind.

Sources: Ronneberger et al. 2015 (U-Net); Isensee et al. 2021 (nnU-Net's plain U-Net); Isensee et al. 2024 (residual presets).
Parameters of plain and residual ones correspond one to one to those of nnU-Net's PlainConvUNet and ResidualEncoderUNet;
`nnseg.interop.nnunet` has the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from nnseg.core.network_kinds import KINDS, Block
from nnseg.core.plan import Network, Steps
from nnseg.network.blocks import (
    CONVOLUTIONS,
    AttentionGate,
    ChannelDropout,
    ConvNorm,
    UpConvolution,
    channels_last_on_cpu,
    initialize,
)

MakeBlocks = Callable[[tuple[int, int], Steps, int, Steps], list[nn.Module]]
"""A function of channels before and after, kernel, number of blocks, and stride of the first, to the blocks of a stage."""


class UNet(nn.Module):
    """Logits from an image, by an encoder and a decoder.

    Args:
        divisor: of each axis of an image, in voxels.

    Attributes:
        deep_supervision: True for a list of the logits of all decoder stages, finest first; False (the default) for the finest
            alone, as a tensor. Heads of all stages exist either way.
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder, *, divisor: Steps) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.divisor = divisor
        self.deep_supervision = False

    @property
    def heads(self) -> list[nn.Module]:
        """The layers that make the logits of each stage, finest first."""
        return list(self.decoder.heads)[::-1]

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, K, *space) of an image (B, C, *space).

        Raises:
            ValueError: the image has another number of axes, or one that the divisor does not divide.
        """
        space = tuple(image.shape[2:])
        if len(space) != len(self.divisor) or any(n % d for n, d in zip(space, self.divisor, strict=True)):
            raise ValueError(f"an image of {space} voxels does not fit a network whose axes must be divisible by {self.divisor}")
        features = self.encoder(channels_last_on_cpu(image))
        outputs = cast(list[Tensor], self.decoder(features, all_stages=self.deep_supervision))
        return outputs if self.deep_supervision else outputs[0]


class Encoder(nn.Module):
    """Features of an image at every stage.

    Args:
        stem: applied before the first stage, if the architecture has one.
    """

    def __init__(self, stages: list[nn.Sequential], stem: nn.Module | None = None) -> None:
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all stages, finest first."""
        if hasattr(self, "stem"):
            x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Logits from the encoder's features; its stages are numbered in the order of computation, coarsest first.

    A network of one stage has no decoder stage: its only head follows the encoder.
    """

    def __init__(self, network: Network, heads: int, blocks: Mapping[Block, MakeBlocks]) -> None:
        super().__init__()
        dimensions = len(network.strides[0])
        ones = (1,) * dimensions
        coarse_to_fine = list(range(len(network.features) - 1))[::-1]
        self.ups = nn.ModuleList(
            UpConvolution((network.features[s + 1], network.features[s]), network.strides[s + 1]) for s in coarse_to_fine
        )
        gates = coarse_to_fine if network.attention_gates else []
        self.gates = nn.ModuleList(
            AttentionGate((network.features[s + 1], network.features[s]), network.strides[s + 1]) for s in gates
        )
        make = blocks[KINDS[network.kind].decoder]
        self.stages = nn.ModuleList(
            _stage(
                make((2 * network.features[s], network.features[s]), network.kernels[s], network.decoder_blocks[s], ones),
                network,
                s,
            )
            for s in coarse_to_fine
        )
        self.heads = nn.ModuleList(CONVOLUTIONS[dimensions](network.features[s], heads, 1) for s in coarse_to_fine or [0])

    def forward(self, features: list[Tensor], *, all_stages: bool) -> list[Tensor]:
        """Logits, finest first: of all stages, or a list of the finest alone."""
        x = features[-1]
        results = []
        for number, (up, stage, finer) in enumerate(zip(self.ups, self.stages, features[-2::-1], strict=True)):
            x = stage(up(x, self.gates[number](finer, x) if self.gates else finer))
            results.append(x)
        results = results or [x]
        chosen = range(len(results) - 1, -1, -1) if all_stages else [len(results) - 1]
        return [self.heads[i](results[i]) for i in chosen]


def build_encoder(network: Network, channels: int, blocks: Mapping[Block, MakeBlocks]) -> Encoder:
    """Stages of the blocks of the network's kind, the first of each strided, after a stem where the kind has one."""
    kind, stem, width = KINDS[network.kind], None, channels
    if kind.stem:
        ones = (1,) * len(network.strides[0])
        stem, width = ConvNorm((channels, network.features[0]), network.kernels[0], stride=ones), network.features[0]
    stages = []
    for number, (features, kernel, count, stride) in enumerate(
        zip(network.features, network.kernels, network.blocks, network.strides, strict=True)
    ):
        make = blocks[kind.encoder_block(number, len(network.features))]
        stages.append(_stage(make((width, features), kernel, count, stride), network, number))
        width = features
    return Encoder(stages, stem)


def assemble_unet(network: Network, blocks: Mapping[Block, MakeBlocks], *, channels: int, heads: int) -> UNet:
    """A U-Net with random weights, the same after the same ``torch.manual_seed``.

    Args:
        network: its kind and topology.
        blocks: the functions that build the blocks of a stage.
        channels: of the image.
        heads: labels or regions that have a channel of the logits each.
    """
    encoder, decoder = build_encoder(network, channels, blocks), Decoder(network, heads, blocks)
    return UNet(encoder, decoder, divisor=network.divisor).apply(initialize)


def _stage(blocks: list[nn.Module], network: Network, number: int) -> nn.Sequential:
    """The blocks of a stage, and dropout after them where the network has it, but not in the finest stage (number 0).

    Source: Kendall et al. 2017, arXiv:1511.02680, section 4: best in the deeper half of encoder and decoder.
    """
    if network.dropout and number:
        return nn.Sequential(*blocks, ChannelDropout(network.features[number], network.dropout))
    return nn.Sequential(*blocks)
