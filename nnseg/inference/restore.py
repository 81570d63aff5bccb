"""Logits on the network's grid brought back to the scan's, block by block, so that only a few slices are held at a time.

A block of the scan is interpolated from the surrounding logits by a small matrix along each axis: linearly, or from the nearest
slice along an axis that is resampled separately (`nnseg.preprocessing.resample`). Interpolated values lie between those around
them: a label whose largest logit around a block is below another's smallest cannot win there. Most blocks are decided by this
alone, whatever the number of labels.
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

from nnseg.core.geometry import Grid, Placement, Reorientation
from nnseg.core.image import Floats, Integers, Scan
from nnseg.core.labels import Labels
from nnseg.core.plan import Plan
from nnseg.preprocessing.preprocess import plan_orientation
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
    """A network's logits: slabs of the network's grid come in, blocks of the cropped scan go out.

    Blocks must be taken in the order of their slices, because slabs that no later block needs are dropped.

    Args:
        slabs: (K, n, Y, X) in order, as `sliding_window` yields them.
        placement: of the network's grid in the scan.
        separate: axis that is resampled separately, from the nearest slice.
    """

    def __init__(self, slabs: Iterator[Tensor], placement: Placement, *, separate: int | None) -> None:
        self._slabs, self._held, self._first = slabs, next(slabs), 0
        self.shape = placement.cropped_shape
        self._axes = [
            AxisResampling.of(old, new, nearest=axis == separate)
            for axis, (old, new) in enumerate(zip(placement.shape, self.shape, strict=True))
        ]

    @property
    def available(self) -> int:
        """Number of the scan's slices that can be computed from the slabs so far."""
        return self._axes[0].available(self._first + self._held.shape[1])

    def advance(self, start: int) -> None:
        """Take another slab, and drop what the scan's slices from ``start`` on do not need."""
        slab = next(self._slabs, None)
        if slab is not None:
            unused = min(int(self._axes[0].low[min(start, self.shape[0] - 1)]) - self._first, self._held.shape[1])
            self._held, self._first = torch.cat([self._held[:, unused:], slab], 1), self._first + unused

    def source(self, block: Block) -> Tensor:
        """The logits (K, z, y, x) of the network's grid that a block is computed from."""
        z, y, x = (axis.source(part) for axis, part in zip(self._axes, block, strict=True))
        return self._held[:, z.start - self._first : z.stop - self._first, y, x]

    def interpolate(self, source: Tensor, block: Block) -> Tensor:
        """The logits (K, *shape) of a block, from some channels of its `source`."""
        for axis in sorted(range(3), key=lambda a: (block[a].stop - block[a].start) / source.shape[a + 1]):
            matrix = self._axes[axis].matrix(block[axis], source.device)  # shrinking axes first: later ones have less to do
            if matrix is not None:
                source = apply_along(source, matrix, axis + 1)
        return source

    def reoriented(self, orientation: Reorientation, wanted: Reorientation) -> RestoreStream:
        """This stream in another orientation of the same volume, for which all slabs are held at once."""
        if orientation == wanted:
            return self
        z, y, x = axes = [orientation.axes.index(axis) for axis in wanted.axes]
        flips = [a + 1 for a, (old, flip) in enumerate(zip(axes, wanted.flips, strict=True)) if orientation.flips[old] != flip]
        self._held = torch.cat([self._held, *self._slabs], 1).permute(0, z + 1, y + 1, x + 1).flip(flips)
        self._axes, self.shape = [self._axes[a] for a in axes], (self.shape[z], self.shape[y], self.shape[x])
        return self


def network_orientation(scan: Scan, plan: Plan) -> Reorientation:
    """From the canonical scan to the axis order of a plan's networks: first the plan's orientation, then its permutation."""
    turn = plan_orientation(scan, plan)
    z, y, x = plan.preprocessing.axes
    return Reorientation(axes=(turn.axes[z], turn.axes[y], turn.axes[x]), flips=(turn.flips[z], turn.flips[y], turn.flips[x]))


def cropped_view(volume: Voxels, placement: Placement, orientation: Reorientation) -> Voxels:
    """The part of a canonical volume (..., Z, Y, X) that the network sees, in its axis order: a writable view.

    Args:
        placement: of the network's grid in the reoriented scan.
        orientation: as `network_orientation` gives it.
    """
    reoriented: Voxels = orientation.apply(volume)
    z, y, x = (placement.crop.slices[a] for a in placement.axes)
    return reoriented[..., z, y, x]


def canonical_voxels(voxels: Indices, grid: Grid, placement: Placement, orientation: Reorientation) -> Indices:
    """Voxels (n, 3) of a `cropped_view` as voxels of the canonical volume with this grid."""
    found = np.empty_like(voxels)
    for axis, (own, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        positions = np.arange(grid.shape[own])[:: -1 if flip else 1][placement.crop.slices[placement.axes[axis]]]
        found[:, own] = positions[voxels[:, axis]]
    return found


def blocks(streams: Sequence[RestoreStream], *, values: int, channels: int) -> Iterator[Block]:
    """Blocks that cover the cropped scan, each as soon as all streams have its slices.

    Args:
        streams: of one shape.
        values: approximate number of values per block, over all channels.
        channels: number of labels.
    """
    depth, height, width = streams[0].shape
    done = 0
    while done < depth:
        available = min(stream.available for stream in streams)
        if available > done:
            yield from _split(slice(done, available), height, width, max(1, values // channels))
            done = available
        else:
            for stream in streams:
                while stream.available <= done:
                    stream.advance(done)


def decide_labels(stream: RestoreStream, block: Block, labels: Labels) -> Integers:
    """Label values (z, y, x) of a block: the label with the largest logit, or the regions whose logits are positive."""
    source = stream.source(block)
    low, high = source.flatten(1).aminmax(dim=1)
    candidates = (high > 0 if labels.regions else high >= low.max()).nonzero()[:, 0]
    shape = tuple(part.stop - part.start for part in block)
    if len(candidates) == (0 if labels.regions else 1):
        return np.full(shape, labels.values[0 if labels.regions else int(candidates)], labels.dtype)
    logits = stream.interpolate(source[candidates], block)
    if not labels.regions:
        return labels.decode(candidates.to(logits.device)[_argmax(logits)].cpu().numpy())
    return labels.paint((logits > 0).cpu().numpy(), candidates.tolist())


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of tensors of one shape; those with weight 0 are not read, and a single one is returned as it is."""
    (first, weight), *others = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight]
    if not others:
        return first
    total = sum(weights)
    mean = first * (weight / total)
    for tensor, weight in others:
        mean += tensor.to(mean.device) * (weight / total)
    return mean


def _argmax(logits: Tensor) -> Tensor:
    """Index of the largest value along the first axis, the first of equals; on CPUs ten times as fast as ``argmax(0)``."""
    largest, index = logits[0], torch.zeros(logits.shape[1:], dtype=torch.long, device=logits.device)
    for number, values in enumerate(logits[1:], 1):
        index.masked_fill_(values > largest, number)
        largest = torch.maximum(largest, values)
    return index


def _split(slices: slice, height: int, width: int, voxels: int) -> Iterator[Block]:
    """Blocks of about so many voxels, near to cubes, so that few labels are candidates in each."""
    edge = max(8, round((voxels / DEPTH) ** 0.5))
    depth = min(DEPTH, max(1, voxels // edge**2))
    for z, y, x in product(range(slices.start, slices.stop, depth), range(0, height, edge), range(0, width, edge)):
        yield slice(z, min(z + depth, slices.stop)), slice(y, min(y + edge, height)), slice(x, min(x + edge, width))


DEPTH = 8
"""Slices of a block, at most."""
