"""U-Nets, plain and with a residual encoder, 2D and 3D.

Sources: Ronneberger et al. 2015 (U-Net); Isensee et al. 2021 (nnU-Net's plain U-Net); Isensee et al. 2024 (residual presets).
Parameters correspond one to one to those of nnU-Net's PlainConvUNet and ResidualEncoderUNet; `nnseg.interop.nnunet` has the names.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from nnseg.core.plan import Network, Steps
from nnseg.network.blocks import (
    CONVOLUTIONS,
    ChannelDropout,
    ConvNorm,
    ResidualBlock,
    UpConvolution,
    channels_last_on_cpu,
    initialize,
)


class UNet(nn.Module):
    """Logits from an image, by an encoder and a decoder.

    Args:
        divisor: of each axis of an image, in voxels.

    Attributes:
        deep_supervision: True for a list of the logits of all decoder stages, finest first; False (the default) for the finest
            alone, as a tensor. Heads of all stages exist either way.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, divisor: Steps) -> None:
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

    def __init__(self, network: Network, heads: int) -> None:
        super().__init__()
        dimensions = len(network.strides[0])
        ones = (1,) * dimensions
        coarse_to_fine = list(range(len(network.features) - 1))[::-1]
        self.ups = nn.ModuleList(
            UpConvolution((network.features[s + 1], network.features[s]), network.strides[s + 1]) for s in coarse_to_fine
        )
        self.stages = nn.ModuleList(
            _stage(
                _convolutions((2 * network.features[s], network.features[s]), network.kernels[s], network.decoder_blocks[s], ones),
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
        for up, stage, finer in zip(self.ups, self.stages, features[-2::-1], strict=True):
            x = stage(up(x, finer))
            results.append(x)
        results = results or [x]
        chosen = range(len(results) - 1, -1, -1) if all_stages else [len(results) - 1]
        return [self.heads[i](results[i]) for i in chosen]


def plain_encoder(network: Network, channels: int) -> Encoder:
    """Stages of convolutions, the first of each strided."""
    widths = zip((channels, *network.features), network.features, strict=False)
    settings = zip(widths, network.kernels, network.blocks, network.strides, strict=True)
    return Encoder([_stage(_convolutions(*setting), network, number) for number, setting in enumerate(settings)])


def residual_encoder(network: Network, channels: int) -> Encoder:
    """A convolution at full resolution, then stages of residual blocks, the first of each strided."""
    ones = (1,) * len(network.strides[0])
    stem = ConvNorm((channels, network.features[0]), network.kernels[0], stride=ones)
    stages, width = [], network.features[0]
    settings = zip(network.features, network.kernels, network.blocks, network.strides, strict=True)
    for number, (features, kernel, blocks, stride) in enumerate(settings):
        strided = ResidualBlock((width, features), kernel, stride=stride)
        others = [ResidualBlock((features, features), kernel, stride=ones) for _ in range(blocks - 1)]
        stages.append(_stage([strided, *others], network, number))
        width = features
    return Encoder(stages, stem)


def build_unet(network: Network, *, channels: int, heads: int) -> UNet:
    """A U-Net with random weights, the same after the same ``torch.manual_seed``.

    Args:
        network: its topology; a ``kind`` of "residual" has a residual encoder.
        channels: of the image.
        heads: labels or regions that have a channel of the logits each.
    """
    encoder = residual_encoder if network.kind == "residual" else plain_encoder
    result = UNet(encoder(network, channels), Decoder(network, heads), divisor=network.divisor)
    return result.apply(initialize)


def _stage(blocks: list[nn.Module], network: Network, number: int) -> nn.Sequential:
    """The blocks of a stage, and dropout after them where the network has it, but not in the finest stage (number 0).

    Source: Kendall et al. 2017, arXiv:1511.02680, section 4: best in the deeper half of encoder and decoder.
    """
    if network.dropout and number:
        return nn.Sequential(*blocks, ChannelDropout(network.features[number], network.dropout))
    return nn.Sequential(*blocks)


def _convolutions(channels: tuple[int, int], kernel: Steps, count: int, stride: Steps) -> list[nn.Module]:
    before, after = channels
    ones = (1,) * len(kernel)
    first = ConvNorm((before, after), kernel, stride=stride)
    return [first, *(ConvNorm((after, after), kernel, stride=ones) for _ in range(count - 1))]
