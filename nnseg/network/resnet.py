"""ResNets without their last layer, whose layers have the names of torchvision's, as encoders of 2D networks.

Sources: He et al. 2016, CVPR (ResNet), section 4.2 for CIFAR; torchvision's FrozenBatchNorm2d, since statistics of small batches
are worse than those that come with the weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from nnseg.core.plan import Plan
from nnseg.network.blocks import EPSILON, initialize

WIDENING = 4
"""Channels after a bottleneck, for each channel within."""


class FixedBatchNorm(nn.Module):
    """Batch norm with fixed mean and variance; scale and offset are learned."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X), of ``x``'s type."""
        scale = self.weight * torch.rsqrt(self.running_var + EPSILON)
        offset = self.bias - self.running_mean * scale
        return torch.addcmul(offset.view(-1, 1, 1).to(x.dtype), x, scale.view(-1, 1, 1).to(x.dtype))


class ResNetBlock(nn.Module):
    """A residual block.

    Args:
        channels: before and after.
        stride: of one of its convolutions, the 3 x 3 one of a bottleneck.
        bottleneck: of convolutions of 1, 3 and 1 pixels, where others have two of 3.
        padded: the shortcut has no weights: its new channels are zeros, half of them before the others.
    """

    def __init__(self, channels: tuple[int, int], stride: int, *, bottleneck: bool, padded: bool) -> None:
        super().__init__()
        before, after = channels
        inner = after // WIDENING if bottleneck else after
        shapes = (
            [(before, inner, 1), (inner, inner, 3), (inner, after, 1)] if bottleneck else [(before, inner, 3), (inner, after, 3)]
        )
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.steps = tuple(
            (nn.Conv2d(given, made, edge, step, edge // 2, bias=False), FixedBatchNorm(made))
            for (given, made, edge), step in zip(shapes, strides, strict=True)
        )
        for number, (convolution, norm) in enumerate(self.steps, 1):
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", norm)
        self.stride, self.missing = stride, (after - before if padded else 0)
        if not padded and (stride > 1 or before != after):
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), FixedBatchNorm(after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X)."""
        y = x
        for number, (convolution, norm) in enumerate(self.steps, 1):
            y = norm(convolution(y))
            y = y if number == len(self.steps) else nn.functional.relu_(y)
        return nn.functional.relu_(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if hasattr(self, "downsample"):
            return cast(Tensor, self.downsample(x))
        if not self.missing:
            return x
        half = self.missing // 2
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))


class ResNetEncoder(nn.Module):
    """Features of an image (B, C, Y, X) after each resolution of a ResNet, finest first.

    The first convolution of a ResNet for ImageNet has stride 1 in place of 2, so that the finest features have the image's
    resolution: it sees an image as it would see one twice as large.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        network, cifar = plan.network, plan.network.kind == "cifar_resnet"
        first, edge = network.features[0], network.kernels[0][0]
        self.conv1 = nn.Conv2d(plan.input_channels, first, edge, padding=edge // 2, bias=False)
        self.bn1 = FixedBatchNorm(first)
        self.pool = None if cifar else nn.MaxPool2d(3, 2, 1)
        width, self.layers = first, list[str]()
        stages = list(zip(network.features, network.blocks, strict=True))
        for number, (features, count) in enumerate(stages if cifar else stages[1:], 1):
            kind = {"bottleneck": network.kind == "bottleneck_resnet", "padded": cifar}
            blocks = [ResNetBlock((width, features), 2 if number > 1 else 1, **kind)]
            blocks += [ResNetBlock((features, features), 1, **kind) for _ in range(count - 1)]
            self.layers.append(f"layer{number}")
            self.add_module(self.layers[-1], nn.Sequential(*blocks))
            width = features
        self.apply(initialize)
        for part in self.modules():
            if isinstance(part, ResNetBlock):  # without statistics of its own, a random network begins with its shortcuts alone
                nn.init.zeros_(part.steps[-1][1].weight)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of all stages, finest first."""
        x = nn.functional.relu_(self.bn1(self.conv1(image)))
        features = [] if self.pool is None else [x]
        x = x if self.pool is None else self.pool(x)
        for name in self.layers:
            x = getattr(self, name)(x)
            features.append(x)
        return features
