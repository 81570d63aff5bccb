"""Kinds of networks by name: what each takes, what its stages are made of, and how much they compute and hold, in closed form.

All are encoders and decoders with skip connections. `nnseg.core.plan.Network` describes their stages, `nnseg.network.build` builds
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Edges = Sequence[int]
"""One number for each axis."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a stage consists of.

    Args:
        name: in words.
        maps: outputs of its layers, each with the stage's width.
        full, depthwise, pointwise: its convolutions of all channels at once, of each channel alone, and of single voxels.
        shortcut: it has a connection past its layers, which is a layer more where stride or width change.
        keeps_width: the first layer of a stage has as many outputs as inputs.
        besides: full convolutions of a stage apart from those of its blocks.
        dilations: of the last of them, which come after the blocks.
        attends: its result depends on all voxels of a patch.
    """

    name: str
    maps: int
    full: int = 0
    depthwise: int = 0
    pointwise: int = 0
    shortcut: bool = False
    keeps_width: bool = False
    besides: int = 0
    dilations: tuple[int, ...] = ()
    attends: bool = False

    @property
    def spatial(self) -> int:
        """The number of its convolutions with a kernel of more than one voxel."""
        return self.full + self.depthwise

    def weights(self, features: int, kernel: Edges, count: int) -> int:
        """The number of weights of several blocks between layers of one width, without biases and norms."""
        voxels = math.prod(kernel)
        each = self.full * features**2 * voxels + self.depthwise * features * voxels + self.pointwise * features**2
        more = features**2 * (self.shortcut + self.besides * voxels)
        return count * each + more * (count > 0)


CONVOLUTION = Block(name="convolution", maps=1, full=1)
RESIDUAL = Block(name="residual block", maps=2, full=2, shortcut=True)
SEPARABLE = Block(name="separable block", maps=2, depthwise=1, pointwise=1, shortcut=True, keeps_width=True)

DILATIONS = 2, 4
"""Distances of the elements of the kernels behind the coarsest stage of an à-trous network."""

MOST_TOKENS = 4096
"""Voxels of a patch that may attend to one another: their work grows with the square of it."""

ATROUS = Block(name="convolution", maps=1, full=1, besides=len(DILATIONS), dilations=DILATIONS)

TRANSFORMER = Block(name="transformer block", maps=10, depthwise=1, pointwise=12, besides=1, attends=True)
"""Maps of a depthwise convolution, queries, keys, values, their projection, a layer of four times the width and one back."""


@dataclass(frozen=True, kw_only=True)
class KindOfNetwork:
    """A kind of network.

    Args:
        encoder, decoder: what ``network.blocks`` and ``network.decoder_blocks`` count.
        coarse, coarse_stages: blocks of the encoder's coarsest stages instead, and the number of these stages.
        stem: a convolution at full resolution comes before the first stage.
        slices: of a scan, around the one that is segmented, that each channel of the input has.
        dimensions: numbers of axes that its patches may have.
    """

    encoder: Block
    decoder: Block = CONVOLUTION
    coarse: Block | None = None
    coarse_stages: int = 0
    stem: bool = False
    slices: int = 1
    dimensions: tuple[int, ...] = (2, 3)

    def encoder_block(self, stage: int, stages: int) -> Block:
        """The blocks of a stage of the encoder, of so many stages."""
        return self.coarse if self.coarse and 0 < stage >= stages - self.coarse_stages else self.encoder


KINDS: dict[str, KindOfNetwork] = {
    "plain": KindOfNetwork(encoder=CONVOLUTION),
    "residual": KindOfNetwork(encoder=RESIDUAL, stem=True),
    "separable": KindOfNetwork(encoder=SEPARABLE, decoder=SEPARABLE, stem=True),
    "atrous": KindOfNetwork(encoder=CONVOLUTION, coarse=ATROUS, coarse_stages=1),
    "transformer": KindOfNetwork(encoder=CONVOLUTION, coarse=TRANSFORMER, coarse_stages=2),
    "2.5d": KindOfNetwork(encoder=CONVOLUTION, slices=3, dimensions=(2,)),
}
"""The kinds that come with nnseg."""


class Stages(Protocol):
    """A network's stages, finest first, as `nnseg.core.plan.Network` has them; a kind that is not in `KINDS` counts as residual."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def features(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def strides(self) -> Sequence[Edges]: ...  # noqa: D102
    @property
    def kernels(self) -> Sequence[Edges]: ...  # noqa: D102
    @property
    def blocks(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def decoder_blocks(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def attention_gates(self) -> bool: ...  # noqa: D102


def count_values(network: Stages, patch: Edges, heads: int) -> int:
    """The number of elements in the outputs of all layers for one patch: a measure of memory and time.

    Source: nnU-Net's VRAM estimate, in closed form (no network is built).
    """
    voxels, total = math.prod(patch), heads * math.prod(patch) * bool(network.decoder_blocks)
    for stage, stride in enumerate(network.strides):
        voxels //= math.prod(stride)
        total += voxels * _maps(network, stage)
    return total


def count_weights(network: Stages) -> int:
    """Approximate number of weights: as if each layer had as many channels before it as behind it, and without transposed ones."""
    return sum(_weights(network, stage) for stage in range(len(network.features)))


def _maps(network: Stages, stage: int) -> int:
    """Channels of the outputs of all layers of a stage."""
    kind, features = _kind_of(network), network.features[stage]
    before = network.features[max(0, stage - 1)]  # the stem has the first stage's width
    changed = max(network.strides[stage]) > 1 or features != before
    block = kind.encoder_block(stage, len(network.features))
    total = features * kind.stem * (not stage) + _maps_of_blocks(block, network.blocks[stage], (before, features), changed=changed)
    if stage < len(network.decoder_blocks):  # after a transposed convolution and the encoder's features
        total += features + _maps_of_blocks(kind.decoder, network.decoder_blocks[stage], (2 * features, features), changed=True)
    if network.attention_gates and stage:  # of the finer stage, at this one's resolution
        total += 2 * gate_width(before) + 1
    return total


def gate_width(features: int) -> int:
    """Channels in which an attention gate compares the features of a stage with coarser ones."""
    return max(1, features // 2)


def _maps_of_blocks(block: Block, count: int, channels: tuple[int, int], *, changed: bool) -> int:
    """Channels of the outputs of all layers of several blocks.

    Args:
        channels: before and after the first block.
        changed: the first block changes stride or width.
    """
    before, features = channels
    layers = block.maps * count + block.besides + (block.shortcut and changed)
    return layers * features + (before - features if block.keeps_width else 0)


def _weights(network: Stages, stage: int) -> int:
    kind, features, kernel = _kind_of(network), network.features[stage], network.kernels[stage]
    more = network.decoder_blocks[stage] if stage < len(network.decoder_blocks) else 0
    encoder = kind.encoder_block(stage, len(network.features)).weights(features, kernel, network.blocks[stage])
    gates = network.attention_gates * (stage < len(network.decoder_blocks))
    return encoder + kind.decoder.weights(features, kernel, more) + gates * 2 * gate_width(features) * features


def most_tokens(network: Stages, patch: Edges) -> int:
    """The number of voxels of a patch that attend to one another at the finest stage with attention; 0 without."""
    voxels, kind = math.prod(patch), _kind_of(network)
    for stage, stride in enumerate(network.strides):
        voxels //= math.prod(stride)
        if kind.encoder_block(stage, len(network.features)).attends:
            return voxels
    return 0


def receptive_field(network: Stages) -> tuple[int, ...]:
    """The most voxels along each axis on which a voxel of the result depends, but for norms; empty for a whole patch.

    The voxels are followed back through the longest way, by the coarsest stage. Source: Araujo et al. 2019, Distill, "Computing
    receptive fields of convolutional neural networks", for strided layers.
    """
    kind, stages = _kind_of(network), range(len(network.features))
    if any(kind.encoder_block(stage, len(stages)).attends for stage in stages):
        return ()
    reduction = [math.prod(axis) for axis in zip(*network.strides, strict=True)]
    return tuple(max(_extent(network, axis, start) for start in range(n)) for axis, n in enumerate(reduction))


def _extent(network: Stages, axis: int, start: int) -> int:
    """Voxels along an axis on which the result at one of them depends."""
    kind, stages, low, high = _kind_of(network), len(network.features), start, start
    reaches = [kernel[axis] // 2 for kernel in network.kernels]
    strides = [stride[axis] for stride in network.strides]
    for stage, count in enumerate(network.decoder_blocks):
        reach = count * kind.decoder.spatial * reaches[stage]
        low, high = (low - reach) // strides[stage + 1], (high + reach) // strides[stage + 1]
    for stage in reversed(range(stages)):
        block, stride = kind.encoder_block(stage, stages), strides[stage]
        reach = (network.blocks[stage] * block.spatial - 1 + sum(block.dilations)) * reaches[stage]
        first, last = low - reach, high + reach
        low, high = first * stride - reaches[stage], last * stride + reaches[stage]
        if block.shortcut:  # pools what a small kernel leaves out
            low, high = min(low, first * stride), max(high, last * stride + stride - 1)
    return high - low + 1 + 2 * reaches[0] * kind.stem


def _kind_of(network: Stages) -> KindOfNetwork:
    return KINDS.get(network.kind, KINDS["residual"])
