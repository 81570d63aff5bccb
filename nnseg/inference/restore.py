"""The way back from the network's grid to the scan's, block by block, so that no more is ever held than a few slices.

A block of the scan is interpolated from the part of the network's answer that it lies in, by a small matrix along each axis:
linearly, or from the nearest slice along an axis that is resampled on its own (`nnseg.preprocessing.resample` has the rule). What
is interpolated lies between the values around it. So a label whose largest value around a block is below another's smallest cannot
win in that block; most blocks are decided by this alone, whatever the number of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnseg.core.geometry import Axes, Placement, Reorientation
from nnseg.core.image import Floats, Integers
from nnseg.core.labels import Labels
from nnseg.preprocessing.resample import Indices, apply_along, linear_neighbours, nearest_neighbours

Block = tuple[slice, slice, slice]
Voxels = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class AxisResampling:
    """Resampling along one axis, from the network's grid to the scan's.

    Args:
        low, high: for each voxel of the scan, the network's voxels below and above it; equal where only one is used.
        share: weight of the upper one, float32.
    """

    low: Indices
    high: Indices
    share: Floats

    @classmethod
    def of(cls, old: int, new: int, *, nearest: bool) -> AxisResampling:
        """From ``old`` voxels to ``new`` ones of the same extent."""
        if nearest:
            voxels = nearest_neighbours(old, new)
            return cls(low=voxels, high=voxels, share=np.zeros(new, np.float32))
        low, high, share = linear_neighbours(old, new)
        return cls(low=low, high=high, share=share)

    def source(self, part: slice) -> slice:
        """The network's voxels that a part of the scan's axis is computed from."""
        return slice(int(self.low[part.start]), int(self.high[part.stop - 1]) + 1)

    def available(self, known: int) -> int:
        """Number of the scan's voxels that can be computed from the first ``known`` of the network's."""
        return int((self.high < known).sum())

    def matrix(self, part: slice, device: torch.device) -> Tensor | None:
        """The interpolation matrix (part, source), float32; None if it is the identity."""
        source, rows = self.source(part), np.arange(part.stop - part.start)
        weights = np.zeros((len(rows), source.stop - source.start), np.float32)
        weights[rows, self.low[part] - source.start] += 1 - self.share[part]
        weights[rows, self.high[part] - source.start] += self.share[part]
        if weights.shape[0] == weights.shape[1] and bool((weights.diagonal() == 1).all()):
            return None
        return torch.from_numpy(weights).to(device)


class RestoreStream:
    """A network's answer on its way to the scan: slabs of the network's grid come in, blocks of the cropped scan go out.

    Blocks must be asked for in the order of their slices, because slabs that no later block needs are dropped.

    Args:
        slabs: (K, n, Y, X) in order, as `sliding_window` gives them.
        placement: where the network's grid lies in the scan.
        separate: the axis that was resampled on its own.
    """

    def __init__(self, slabs: Iterator[Tensor], placement: Placement, *, separate: int | None) -> None:
        self._slabs, self._held, self._first = slabs, next(slabs), 0
        self.shape = placement.cropped_shape
        self._axes = [
            AxisResampling.of(old, new, nearest=axis == separate)
            for axis, (old, new) in enumerate(zip(placement.shape, self.shape, strict=True))
        ]

    @property
    def reach(self) -> int:
        """Slices of the scan that are known by now."""
        return self._axes[0].available(self._first + self._held.shape[1])

    def advance(self, start: int) -> bool:
        """Wait for another slab, and drop what slices of the scan from ``start`` on do not need; False after the last."""
        slab = next(self._slabs, None)
        if slab is None:
            return False
        needless = min(int(self._axes[0].low[min(start, self.shape[0] - 1)]) - self._first, self._held.shape[1])
        self._held, self._first = torch.cat([self._held[:, needless:], slab], 1), self._first + needless
        return True

    def source(self, block: Block) -> Tensor:
        """The voxels (K, z, y, x) that a block depends on."""
        z, y, x = (axis.source(part) for axis, part in zip(self._axes, block, strict=True))
        return self._held[:, z.start - self._first : z.stop - self._first, y, x]

    def interpolate(self, source: Tensor, block: Block) -> Tensor:
        """The block (K, *shape) that follows from some channels of its source."""
        grown = sorted(range(3), key=lambda a: (block[a].stop - block[a].start) / source.shape[a + 1])
        for axis in grown:  # those that shrink first, so that later ones have less to do
            matrix = self._axes[axis].matrix(block[axis], source.device)
            if matrix is not None:
                source = apply_along(source, matrix, axis + 1)
        return source

    def turned(self, layout: Reorientation, wanted: Reorientation) -> RestoreStream:
        """This stream with its axes in another stream's order; everything is held then."""
        if layout == wanted:
            return self
        self._held = torch.cat([self._held, *self._slabs], 1)
        axes, flips = _between(layout, wanted)
        self._held = self._held.permute(0, *(a + 1 for a in axes)).flip([a + 1 for a, f in enumerate(flips) if f])
        self._axes = [self._axes[a] for a in axes]
        z, y, x = (self.shape[a] for a in axes)
        self.shape = (z, y, x)
        return self


def layout_of(axes: Axes, turn: Reorientation) -> Reorientation:
    """From the canonical scan to the network's axis order: first ``turn``, then ``axes`` permuted."""
    z, y, x = ((turn.axes[a], turn.flips[a]) for a in axes)
    return Reorientation(axes=(z[0], y[0], x[0]), flips=(z[1], y[1], x[1]))


def blocks(streams: list[RestoreStream], *, values: int, channels: int) -> Iterator[Block]:
    """Blocks that cover the cropped scan, each as soon as all streams have reached it.

    Args:
        streams: of one shape.
        values: about how many a block may have.
        channels: of each voxel.
    """
    depth, height, width = streams[0].shape
    done = 0
    while done < depth:
        reached = min(stream.reach for stream in streams)
        if reached > done:
            yield from _cut(slice(done, reached), height, width, max(1, values // channels))
            done = reached
        else:
            for stream in streams:
                while stream.reach <= done:
                    stream.advance(done)


def decided(stream: RestoreStream, block: Block, labels: Labels) -> Integers:
    """The label values of a block of logits: the label whose logit is largest, or the regions whose logits are positive."""
    source = stream.source(block)
    least, most = source.flatten(1).aminmax(dim=1)
    able = most > 0 if labels.regions else most >= least.max()
    chosen = able.nonzero()[:, 0]
    shape = tuple(part.stop - part.start for part in block)
    if len(chosen) == (0 if labels.regions else 1):
        return np.full(shape, labels.values[0 if labels.regions else int(chosen)], labels.dtype)
    answer = stream.interpolate(source[chosen], block)
    if labels.regions:
        painted = np.full(shape, labels.values[0], labels.dtype)
        for head, seen in zip(chosen.tolist(), (answer > 0).cpu().numpy(), strict=True):
            painted[seen] = labels.regions[head].paint
        return painted
    return labels.decode(chosen.to(answer.device)[_argmax(answer)].cpu().numpy())


def cropped_view(volume: Voxels, placement: Placement, layout: Reorientation) -> Voxels:
    """The part of a canonical volume (..., Z, Y, X) that the network saw, in its axis order: a view, to be written to.

    Args:
        placement: of the turned scan.
        layout: as `layout_of` gave it.
    """
    box = tuple(placement.crop.slices[a] for a in placement.axes)
    seen: Voxels = layout.apply(volume)
    lead: list[Any] = [slice(None)] * (volume.ndim - 3)
    return seen[tuple(lead) + box]


def mean(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of tensors of one shape; those that weigh nothing are not touched, one alone is given back as it is."""
    (first, heavy), *others = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    if not others:
        return first
    total = sum(weights)
    summed = first * (heavy / total)
    for part, weight in others:
        summed += part.to(summed.device) * (weight / total)
    return summed


def _argmax(answer: Tensor) -> Tensor:
    """Where along the first axis the largest value stands, the first of equals; on CPUs ten times as fast as ``argmax(0)``."""
    best, place = answer[0], torch.zeros(answer.shape[1:], dtype=torch.long, device=answer.device)
    for number, values in enumerate(answer[1:], 1):
        place.masked_fill_(values > best, number)
        best = torch.maximum(best, values)
    return place


def _cut(slices: slice, height: int, width: int, voxels: int) -> Iterator[Block]:
    """Blocks of about so many voxels: narrow enough to be decided by their surroundings, wide enough to be worth the call."""
    edge = max(8, round((voxels / DEPTH) ** 0.5))
    deep = min(DEPTH, max(1, voxels // edge**2))
    starts = range(slices.start, slices.stop, deep), range(0, height, edge), range(0, width, edge)
    for z, y, x in product(*starts):
        yield slice(z, min(z + deep, slices.stop)), slice(y, min(y + edge, height)), slice(x, min(x + edge, width))


DEPTH = 8
"""Slices of a block, at most."""


def _between(layout: Reorientation, wanted: Reorientation) -> tuple[Axes, tuple[bool, bool, bool]]:
    """Axes and flips that lead from one layout of the same volume to another."""
    z, y, x = (layout.axes.index(axis) for axis in wanted.axes)
    flips = [layout.flips[old] != flip for old, flip in zip((z, y, x), wanted.flips, strict=True)]
    return (z, y, x), (flips[0], flips[1], flips[2])
