"""A coarsest stage with dilated convolutions, which see more of an image without a coarser grid.

Sources: Yu & Koltun 2016, arXiv:1511.07122, for the dilated convolutions; Zhou et al. 2018, D-LinkNet, CVPR workshops, for their
place between encoder and decoder, each beside a shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn

from nnseg.core.network_kinds import DILATIONS
from nnseg.core.plan import Steps
from nnseg.network.blocks import ConvNorm, repeated


class DilatedBlock(nn.Module):
    """A dilated convolution with norm and activation, beside a shortcut.

    Args:
        channels: in and out.
        kernel: edges.
        dilation: distance of the kernel's elements.
    """

    def __init__(self, channels: int, kernel: Steps, dilation: int) -> None:
        super().__init__()
        self.layers = ConvNorm((channels, channels), kernel, stride=(1,) * len(kernel), dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features, (B, C, *space)."""
        result: Tensor = x + self.layers(x)
        return result


def atrous_blocks(channels: tuple[int, int], kernel: Steps, count: int, stride: Steps) -> list[nn.Module]:
    """Convolutions, then dilated ones; arguments as of `nnseg.network.blocks.repeated`."""
    dilated = [DilatedBlock(channels[1], kernel, dilation) for dilation in DILATIONS]
    return [*repeated(ConvNorm, channels, kernel, count, stride), *dilated]
