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
    """

    name: str
    maps: int
    full: int = 0
    depthwise: int = 0
    pointwise: int = 0
    shortcut: bool = False
    keeps_width: bool = False

    def weights(self, features: int, kernel: Edges, count: int) -> int:
        """The number of weights of several blocks between layers of one width, without biases and norms."""
        voxels = math.prod(kernel)
        each = self.full * features**2 * voxels + self.depthwise * features * voxels + self.pointwise * features**2
        return count * each + features**2 * (self.shortcut and count > 0)


CONVOLUTION = Block(name="convolution", maps=1, full=1)
RESIDUAL = Block(name="residual block", maps=2, full=2, shortcut=True)
SEPARABLE = Block(name="separable block", maps=2, depthwise=1, pointwise=1, shortcut=True, keeps_width=True)


@dataclass(frozen=True, kw_only=True)
class KindOfNetwork:
    """A kind of network.

    Args:
        encoder, decoder: what ``network.blocks`` and ``network.decoder_blocks`` count.
        stem: a convolution at full resolution comes before the first stage.
        dimensions: numbers of axes that its patches may have.
    """

    encoder: Block
    decoder: Block = CONVOLUTION
    stem: bool = False
    dimensions: tuple[int, ...] = (2, 3)

    def encoder_block(self, stage: int, stages: int) -> Block:
        """The blocks of a stage of the encoder, of so many stages."""
        return self.encoder


KINDS: dict[str, KindOfNetwork] = {
    "plain": KindOfNetwork(encoder=CONVOLUTION),
    "residual": KindOfNetwork(encoder=RESIDUAL, stem=True),
    "separable": KindOfNetwork(encoder=SEPARABLE, decoder=SEPARABLE, stem=True),
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
    return total


def _maps_of_blocks(block: Block, count: int, channels: tuple[int, int], *, changed: bool) -> int:
    """Channels of the outputs of all layers of several blocks.

    Args:
        channels: before and after the first block.
        changed: the first block changes stride or width.
    """
    before, features = channels
    layers = block.maps * count + (block.shortcut and changed)
    return layers * features + (before - features if block.keeps_width else 0)


def _weights(network: Stages, stage: int) -> int:
    kind, width = _kind_of(network), (network.features[stage], network.kernels[stage])
    encoder = kind.encoder_block(stage, len(network.features))
    more = network.decoder_blocks[stage] if stage < len(network.decoder_blocks) else 0
    return encoder.weights(*width, network.blocks[stage]) + kind.decoder.weights(*width, more)


def _kind_of(network: Stages) -> KindOfNetwork:
    return KINDS.get(network.kind, KINDS["residual"])
