"""The blocks of U-Nets: convolution + instance norm + leaky ReLU, residual blocks, and upsampling to the next finer stage.

Three things make training faster on CPUs, where nearly all time of a step then goes into convolutions:

- activations are channels-last, which oneDNN reads without reordering;
- instance norm is batch norm of one sample at a time, which PyTorch computes in that layout, in bfloat16 with float32 statistics,
  where `torch.nn.functional.instance_norm` copies to another layout and back. Group norm would be faster still, but computes
  the variance as a difference of large numbers in that layout, which fails if a channel's mean is many times its spread;
- gradients of a concatenation are copied into dense tensors, because the next operations are slow on strided ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnseg.core.network_kinds import gate_width
from nnseg.core.plan import Steps


class Convolution3d(nn.Conv3d):
    """A convolution whose gradient is right where an image has fewer slices than the kernel.

    For more than one slice, but fewer than the kernel has, oneDNN (3.12, PyTorch 2.13) computes the gradient of the weights in
    bfloat16 partly from memory that was never written. It is right if the slices of padding are part of the image.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        depth = self.dilation[0] * (weight.shape[2] - 1) + 1
        if not (1 < x.shape[2] < depth and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return cast(Tensor, super()._conv_forward(x, weight, bias))
        slices, *others = cast(tuple[int, ...], self.padding)
        padded = nn.functional.pad(x, (0, 0, 0, 0, slices, slices))
        return nn.functional.conv3d(padded, weight, bias, self.stride, (0, *others), self.dilation, self.groups)


CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: Convolution3d}
POOLS: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

EPSILON = 1e-5
"""Added to the variance under the root of instance norm."""

SLOPE = 0.01
"""Slope of the leaky ReLU below zero."""

NO_ACTIVATION = 1.0
"""A slope that turns a leaky ReLU into the identity."""

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""A function of values (B, C, *space), scale and offset (C,), and slope, to instance norm and leaky ReLU of the values."""


class ConvNorm(nn.Module):
    """Convolution ("same" padding), instance norm and leaky ReLU.

    Args:
        channels: in and out.
        kernel: odd edges, two for 2D and three for 3D.
        slope: of the leaky ReLU; `NO_ACTIVATION` for none.
        dilation: distance of the kernel's elements.
        groups: of channels that are convolved by themselves.
    """

    def __init__(
        self, channels: tuple[int, int], kernel: Steps, *, stride: Steps, slope: float = SLOPE, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = cast(Any, tuple(dilation * (k - 1) // 2 for k in kernel))
        of = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.conv = CONVOLUTIONS[len(kernel)](*channels, cast(Any, kernel), **cast(Any, of))
        self.norm = InstanceNorm(channels[1], slope=slope)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features, (B, C, *space)."""
        if 1 < self.conv.groups == len(self.conv.weight) and _use_cpu_kernels(x):
            return cast(Tensor, self.norm(_Depthwise.apply(x, self.conv.weight, self.conv.bias, self.conv)))
        return cast(Tensor, self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut. Source: He et al. 2019, "Bag of tricks", ResNet-D: pool, then project.

    The second norm starts at zero, so that an untrained block returns its shortcut.
    """

    def __init__(self, channels: tuple[int, int], kernel: Steps, *, stride: Steps) -> None:
        super().__init__()
        before, after = channels
        ones = (1,) * len(kernel)
        self.first, self.second = self.layers(channels, kernel, stride)
        self.skip = nn.Sequential()
        if stride != ones:  # the projection pools too; the identity keeps its number in the names of weights
            self.skip.append(nn.Identity() if before != after else POOLS[len(kernel)](cast(Any, stride), cast(Any, stride)))
        if before != after:
            self.skip.append(PooledProjection(channels, stride))
        nn.init.zeros_(self.second.norm.weight)

    @staticmethod
    def layers(channels: tuple[int, int], kernel: Steps, stride: Steps) -> tuple[ConvNorm, ConvNorm]:
        """What is computed beside the shortcut."""
        before, after = channels
        first = ConvNorm((before, after), kernel, stride=stride)
        return first, ConvNorm((after, after), kernel, stride=(1,) * len(kernel), slope=NO_ACTIVATION)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features, (B, C, *space)."""
        features = self.second(self.first(x))
        shortcut = self.skip(x).to(features.dtype)  # autocast pools in float32
        return nn.functional.leaky_relu_(features + shortcut, SLOPE)


class PooledProjection(nn.Module):
    """Average pooling, a 1 x 1 convolution and instance norm, the first two as one convolution, which is several times faster."""

    def __init__(self, channels: tuple[int, int], stride: Steps) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[len(stride)](*channels, 1, bias=False)
        self.norm = InstanceNorm(channels[1], slope=NO_ACTIVATION)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Projected features, (B, C, *coarser space)."""
        convolution = nn.functional.conv2d if len(self.stride) == 2 else nn.functional.conv3d
        weight = (self.conv.weight / math.prod(self.stride)).expand(-1, -1, *self.stride)
        return cast(Tensor, self.norm(convolution(x, weight, None, self.stride)))


def repeated(block: Any, channels: tuple[int, int], kernel: Steps, count: int, stride: Steps) -> list[nn.Module]:
    """Blocks of a class, one after the other: the first changes the width and is strided.

    Args:
        block: `ConvNorm`, `ResidualBlock` or another with the same arguments.
        channels: before and after the first.
        kernel: edges.
        count: number of blocks.
        stride: of the first.
    """
    ones = (1,) * len(kernel)
    first = block(channels, kernel, stride=stride)
    return [first, *(block((channels[1], channels[1]), kernel, stride=ones) for _ in range(count - 1))]


class ChannelDropout(nn.Module):
    """Channels dropped at random for each sample in training; in inference none, or those of one draw, the same for all samples.

    Whole channels are dropped, since a voxel's neighbours tell nearly the same as the voxel. Source: Tompson et al. 2015,
    arXiv:1411.4280, section 3.2.

    Args:
        rate: chance of a channel to be dropped.

    Attributes:
        factors: of the channels in inference, 0 for those that are dropped; None for 1.
    """

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.channels, self.rate = channels, rate
        self.factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *space)."""
        if self.training:
            return torch.feature_dropout(x, self.rate, train=True)
        return x if self.factors is None else x * self.factors.to(x).view(1, -1, *(1,) * (x.dim() - 2))


def draw_channels(network: nn.Module, seed: int) -> None:
    """Drop the channels of one draw in inference, in all `ChannelDropout` of a network.

    The draw is one sample of the network's weights. Source: Gal and Ghahramani 2016, arXiv:1506.02142.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, ChannelDropout):
            part.factors = (torch.rand(part.channels, generator=generator) >= part.rate) / (1.0 - part.rate)


class UpConvolution(nn.Module):
    """A transposed convolution (kernel = stride), and concatenation with the finer stage's features."""

    def __init__(self, channels: tuple[int, int], stride: Steps) -> None:
        super().__init__()
        self.stride = stride
        self.weight, self.bias = nn.Parameter(torch.empty(*channels, *stride)), nn.Parameter(torch.zeros(channels[1]))

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """(B, 2C, *finer space): the coarser features upsampled, then the finer ones."""
        transposed = nn.functional.conv_transpose2d if len(self.stride) == 2 else nn.functional.conv_transpose3d
        if not _use_cpu_kernels(x):
            return torch.cat((transposed(x, self.weight, self.bias, self.stride), finer), dim=1)
        # _Concatenation computes the gradient of the bias, several times faster than the convolution.
        up = transposed(x, self.weight, self.bias.detach(), self.stride)
        return cast(Tensor, _Concatenation.apply(up, finer, self.bias))


class AttentionGate(nn.Module):
    """A stage's features times a number from 0 to 1 for each voxel, computed from them and the coarser stage's.

    Source: Oktay et al. 2018, Attention U-Net, arXiv:1804.03999, figure 2.

    Args:
        channels: of the coarser and of the finer stage.
        stride: from the finer to the coarser.
    """

    def __init__(self, channels: tuple[int, int], stride: Steps) -> None:
        super().__init__()
        coarse, fine = channels
        convolution, width, steps = CONVOLUTIONS[len(stride)], gate_width(fine), cast(Any, stride)
        self.coarser = convolution(coarse, width, 1)
        self.finer = convolution(fine, width, steps, steps, bias=False)
        self.weight = convolution(width, 1, 1)

    def forward(self, finer: Tensor, coarser: Tensor) -> Tensor:
        """(B, C, *finer space)."""
        weights = self.weight(nn.functional.relu(self.coarser(coarser) + self.finer(finer))).sigmoid()
        mode = "bilinear" if finer.dim() == 4 else "trilinear"
        return finer * nn.functional.interpolate(weights, size=finer.shape[2:], mode=mode).to(finer.dtype)


class InstanceNorm(nn.Module):
    """Instance norm with learned scale and offset, then leaky ReLU.

    A channel of a single voxel becomes the offset, where `torch.nn.InstanceNorm3d` refuses to train.

    Attributes:
        kernel: what computes on CUDA in place of PyTorch, if anything; see `nnseg.network.triton_norm`.
    """

    def __init__(self, channels: int, *, slope: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.slope = slope
        self.kernel: Kernel | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *space), of ``x``'s type."""
        if self.kernel is not None and x.is_cuda:
            return self.kernel(x, self.weight, self.bias, self.slope)
        if _use_cpu_kernels(x):
            return cast(Tensor, _NormActivation.apply(x, self.weight, self.bias, self.slope))
        if x[0, 0].numel() == 1:
            y = torch.group_norm(x, x.shape[1], self.weight, self.bias, EPSILON)
        else:
            y = torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, EPSILON, True)
        return y if self.slope == NO_ACTIVATION else nn.functional.leaky_relu_(y, self.slope)


def channels_last_on_cpu(x: Tensor) -> Tensor:
    """The same values, channels-last on CPUs; unlike ``contiguous`` this also changes the strides of single-channel tensors."""
    return x.to(memory_format=_channels_last(x)) if _use_cpu_kernels(x) else x


def initialize(module: nn.Module) -> None:
    """Draw convolution weights (Kaiming normal) and clear biases; meant for ``network.apply``. Source: He et al. 2015."""
    # On "meta" there is nothing to draw, and drawing would load torch's compiler.
    if isinstance(module, (nn.Conv2d, nn.Conv3d, UpConvolution)) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _use_cpu_kernels(x: Tensor) -> bool:
    """True if the functions below are used: they are made for CPUs, and compilers and exporters cannot trace them."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


def _channels_last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


class _NormActivation(torch.autograd.Function):
    """Instance norm and leaky ReLU for channels-last tensors on CPUs: batch norm of each sample by itself.

    The output is kept for the backward pass instead of the input of the activation: the sign is the same.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        x = x.contiguous(memory_format=_channels_last(x))
        y = torch.empty_like(x)
        means, scales = (weight.new_empty(x.shape[:2]) for _ in range(2))
        for sample, out, mean, scale in zip(x.split(1), y.split(1), means, scales, strict=True):
            into = {"out": out, "save_mean": mean, "save_invstd": scale}
            torch.ops.aten.native_batch_norm.out(sample, weight, bias, None, None, True, 0.0, EPSILON, **into)
        if slope != NO_ACTIVATION:
            nn.functional.leaky_relu_(y, slope)
        ctx.save_for_backward(x, None if slope == NO_ACTIVATION else y, weight, means, scales)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, weight, means, scales = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_channels_last(x))
        of_x, of_weight, of_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if ctx.slope != NO_ACTIVATION:  # one buffer for both gradients: fresh memory is slow
            gradient = torch.ops.aten.leaky_relu_backward.grad_input(gradient, y, ctx.slope, True, grad_input=of_x)
        for upstream, sample, mean, scale, out in zip(gradient.split(1), x.split(1), means, scales, of_x.split(1), strict=True):
            saved = (weight, None, None, mean, scale, True, EPSILON, [True, True, True])
            for_x, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(upstream, sample, *saved)
            out.copy_(for_x)
            of_weight += for_weight
            of_bias += for_bias
        return of_x, of_weight, of_bias, None


class _Depthwise(torch.autograd.Function):
    """A convolution of each channel by itself, with faster gradients on CPUs.

    oneDNN (3.12) computes the weights' gradient in bfloat16 six times as slowly as in float32, and the image's more slowly than the
    convolution that it is where nothing is strided: of the gradient, with the kernel reversed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, of: nn.Conv2d | nn.Conv3d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.of = of
        return cast(Tensor, of._conv_forward(x, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (x, weight), of = ctx.saved_tensors, ctx.of
        gradient = gradient.contiguous(memory_format=_channels_last(gradient))
        kind = weight.dtype
        settings = (list(of.bias.shape), of.stride, of.padding, of.dilation, False, [0] * len(of.stride), of.groups)
        strided = max(of.stride) > 1
        wanted = [strided, True, True]
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(gradient.to(kind), x.to(kind), weight, *settings, wanted)
        if not strided:
            reversed_kernel = weight.flip(tuple(range(2, weight.dim()))).to(gradient.dtype)
            of_x = of._conv_forward(gradient, reversed_kernel, None)
        return of_x.to(x.dtype), of_weight, of_bias, None


class _Concatenation(torch.autograd.Function):
    """Two tensors concatenated along channels; ``bias`` is already part of the first, and its gradient is the sum of that one's."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        ctx.channels = first.shape[1]
        ctx.bias_dtype = bias.dtype
        return torch.cat((first, second), dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layout = _channels_last(gradient)
        first = gradient[:, : ctx.channels].contiguous(memory_format=layout)
        second = gradient[:, ctx.channels :].contiguous(memory_format=layout)
        rows = first.movedim(1, -1).reshape(-1, ctx.channels)
        return first, second, rows.sum(0).to(ctx.bias_dtype)
