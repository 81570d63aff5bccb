"""Blocks of depthwise-separable convolutions, which take several times fewer multiplications than full ones.

Sources: Chollet 2017, Xception, arXiv:1610.02357, for the separation and the shortcut; Roy et al. 2023, MedNeXt, arXiv:2303.09975,
for such blocks in encoder and decoder of a U-Net.
"""

from __future__ import annotations

from nnseg.core.plan import Steps
from nnseg.network.blocks import NO_ACTIVATION, ConvNorm, ResidualBlock


class SeparableBlock(ResidualBlock):
    """A convolution of each channel by itself, and one of single voxels over all channels, beside a shortcut."""

    @staticmethod
    def layers(channels: tuple[int, int], kernel: Steps, stride: Steps) -> tuple[ConvNorm, ConvNorm]:
        """What is computed beside the shortcut."""
        before, _ = channels
        ones = (1,) * len(kernel)
        depthwise = ConvNorm((before, before), kernel, stride=stride, slope=NO_ACTIVATION, groups=before)
        return depthwise, ConvNorm(channels, ones, stride=ones, slope=NO_ACTIVATION)
