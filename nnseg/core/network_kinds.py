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
        shortcut: it has a connection past its layers, which is a convolution where stride or width change.
    """

    name: str
    maps: int
    full: int = 0
    depthwise: int = 0
    pointwise: int = 0
    shortcut: bool = False

    def weights(self, features: int, kernel: Edges) -> int:
        """The number of weights between stages of one width, without biases and norms."""
        voxels = math.prod(kernel)
        return self.full * features**2 * voxels + self.depthwise * features * voxels + self.pointwise * features**2


CONVOLUTION = Block(name="convolution", maps=1, full=1)
RESIDUAL = Block(name="residual block", maps=2, full=2, shortcut=True)


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


KINDS: dict[str, KindOfNetwork] = {
    "plain": KindOfNetwork(encoder=CONVOLUTION),
    "residual": KindOfNetwork(encoder=RESIDUAL, stem=True),
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
    """Approximate number of weights: as if each layer had as many channels before it as behind it."""
    return sum(_weights(network, stage) for stage in range(len(network.features)))


def _maps(network: Stages, stage: int) -> int:
    """Channels of the outputs of all layers of a stage."""
    kind, features, before = _kind_of(network), network.features[stage], network.features[max(0, stage - 1)]
    count = kind.encoder.maps * network.blocks[stage] + (kind.stem and not stage)
    if kind.encoder.shortcut:  # the stem has the first stage's width
        count += max(network.strides[stage]) > 1 or features != before
    if stage < len(network.decoder_blocks):
        count += kind.decoder.maps * network.decoder_blocks[stage] + 1  # the transposed convolution
    return count * features


def _weights(network: Stages, stage: int) -> int:
    kind, width = _kind_of(network), (network.features[stage], network.kernels[stage])
    more = network.decoder_blocks[stage] if stage < len(network.decoder_blocks) else 0
    return network.blocks[stage] * kind.encoder.weights(*width) + more * kind.decoder.weights(*width)


def _kind_of(network: Stages) -> KindOfNetwork:
    return KINDS.get(network.kind, KINDS["residual"])
