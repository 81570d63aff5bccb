"""Transformer blocks for the coarsest stages of an encoder, where a patch has few voxels: each attends to all others.

Sources: Chen et al. 2021, TransUNet, arXiv:2102.04306, and Hatamizadeh et al. 2022, Swin UNETR, arXiv:2201.01266, for transformers
between convolutions; Wald et al. 2025, Primus, arXiv:2503.01835, for the care about positions; Chu et al. 2023, CPVT,
arXiv:2102.10882, for positions by a depthwise convolution, which fits patches of any size.
"""

from __future__ import annotations

from torch import Tensor, nn

from nnseg.core.plan import Steps
from nnseg.network.blocks import CONVOLUTIONS, ConvNorm

HEAD_WIDTH = 32
"""Least number of channels of an attention head."""

EXPANSION = 4
"""Width of the layer between the two of a block's perceptron, as a multiple of the block's."""


class TransformerBlock(nn.Module):
    """Positions, attention of all voxels to one another and a perceptron, each beside a shortcut; untrained it adds positions only.

    Args:
        channels: in and out.
        kernel: edges of the convolution that adds positions.
    """

    def __init__(self, channels: int, kernel: Steps) -> None:
        super().__init__()
        padding = tuple(edge // 2 for edge in kernel)
        self.position = CONVOLUTIONS[len(kernel)](channels, channels, kernel, padding=padding, groups=channels)  # type: ignore[arg-type]
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = Attention(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels), nn.GELU(), nn.Linear(EXPANSION * channels, channels)
        )
        for last in (self.attention.projection, self.perceptron[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The block's features, (B, C, *space)."""
        x = x + self.position(x)
        tokens = x.flatten(2).transpose(1, 2)  # B N C
        tokens = tokens + self.attention(self.norms[0](tokens))
        tokens = tokens + self.perceptron(self.norms[1](tokens))
        result: Tensor = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return result


class Attention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.count = max(n for n in range(1, max(1, channels // HEAD_WIDTH) + 1) if channels % n == 0)
        self.values = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C)."""
        query, key, value = self.values(tokens).unflatten(2, (3, self.count, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.projection(found.transpose(1, 2).flatten(2))
        return result


def transformer_blocks(channels: tuple[int, int], kernel: Steps, count: int, stride: Steps) -> list[nn.Module]:
    """A strided convolution, then transformer blocks; arguments as of `nnseg.network.blocks.repeated`."""
    return [ConvNorm(channels, kernel, stride=stride), *(TransformerBlock(channels[1], kernel) for _ in range(count))]
