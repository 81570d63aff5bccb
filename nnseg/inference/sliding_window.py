"""Logits of a whole volume from overlapping tiles, passed on slice by slice as soon as no further tile covers them.

Each network is applied to each tile and its mirrored copies. The logits are averaged in float32, weighted by `importance`; only the
slices that tiles still cover are held. Then they become probabilities, which are averaged over networks. Source: nnU-Net (Isensee
2021, Methods, "Inference"), which holds the whole volume and averages logits over networks too. Averaging probabilities of tiles
and mirrored copies as well was measured to cost up to 0.016 of Dice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.errors import ModelError, RunError
from nnseg.inference.interruption import check_between_tiles
from nnseg.inference.networks import MemberNetwork
from nnseg.inference.tiles import SLAB_VALUES, Box, Flips, Tiling, Window, importance
from nnseg.network.inputs import read_slices

log = logging.getLogger(__name__)

BLANK = 1e-5
"""A tile is blank (air, padding) if the values of each of its channels differ by no more; the image's standard deviation is 1."""


def sliding_window(networks: Sequence[MemberNetwork], image: Tensor, window: Window) -> Iterator[Tensor]:
    """Mean logits or probabilities of the networks, in slabs (K, n, Y, X) from the first slice to the last, float32.

    Where the device runs out of memory, the batch is halved, then the sums are kept in RAM, then the networks compute on the CPU.

    Args:
        networks: one or more with this window.
        image: float32 (C, Z, Y, X); one smaller than the patch is padded with zeros on both sides.
        window: how to cut it, and whether to average logits or probabilities.

    Raises:
        ModelError: a network gives values that are not finite.
        RunError: there is too little memory for a single tile.
    """
    yield from _WindowPass(networks, image, window).slabs()


class _WindowPass:
    """One pass over a volume.

    Each network has a slot in the sums if probabilities are averaged; all share one if logits are.
    """

    def __init__(self, networks: Sequence[MemberNetwork], image: Tensor, window: Window) -> None:
        self.networks, self.window = list(networks), window
        self.tiling = Tiling.of(image.shape[1:], window)
        padding = [n - s for n, s in zip(self.tiling.padded, image.shape[1:], strict=True)]
        pads = [p for b, n in zip(reversed(self.tiling.before), reversed(padding), strict=True) for p in (b, n - b)]
        self.image, self.shape = _on_device(F.pad(image, pads), networks[0].device), image.shape[1:]
        self.weight = importance(window.tile).to(self.image.device)
        self.blank: tuple[tuple[float, ...], Tensor] | None = None
        """Channel values of the last blank tile, and the sum of all logits for it."""
        self.slots = 1 if window.logits else len(self.networks)
        self.sums = self._new_sums((self.slots * window.heads + 1, self.tiling.depth(window.tile[0]), *self.tiling.padded[1:]))
        """Weighted logits of each slot, and last the weights, of the slices from the current layer's first on."""

    def slabs(self) -> Iterator[Tensor]:
        """The mean over tiles and networks, some finished slices at a time."""
        firsts = [layer[0] for layer in self.tiling.layers]
        for layer, start, stop in zip(self.tiling.layers, firsts, [*firsts[1:], self.tiling.padded[0]], strict=True):
            with torch.inference_mode():
                self._add_layer(layer)
            yield from self._finished_slabs(start, stop)
            self._drop_slices(stop - start)

    def _add_layer(self, layer: Sequence[int]) -> None:
        copies = []
        for box in self.tiling.boxes(layer, self.window.tile):
            values = self._blank_values(box)
            if values is None:
                copies += [(box, flips) for flips in self.window.flips]
            else:
                for slot, logits in enumerate(self._blank_logits(values, box)):
                    self._add(box, layer[0], slot, logits, len(self.window.flips) * len(self.networks) // self.slots)
        for box, slot, logits in self._logits(copies):
            self._add(box, layer[0], slot, logits, 1)

    def _logits(self, copies: Sequence[tuple[Box, Flips]]) -> Iterator[tuple[Box, int, Tensor]]:
        """Box, slot and logits (K, z, y, x) of each mirrored copy and network, in the tile's orientation."""
        batches = math.ceil(len(copies) / self.window.batch)
        for number in range(batches):
            batch = copies[len(copies) * number // batches : len(copies) * (number + 1) // batches]
            for network in range(len(self.networks)):
                check_between_tiles()
                for logits, (box, _) in zip(self._batch_logits(network, batch), batch, strict=True):
                    yield box, network % self.slots, logits

    def _batch_logits(self, network: int, copies: Sequence[tuple[Box, Flips]]) -> list[Tensor]:
        """Logits (K, z, y, x) of one network; on an out-of-memory error it tries again with less memory."""
        while True:
            try:
                tiles = torch.stack([self.window.mirrored(self._tile(box), flips) for box, flips in copies])
                logits = [one for part in tiles.split(self.window.batch) for one in self.networks[network](part, self.window)]
                return [self.window.mirrored_back(one, flips) for one, (_, flips) in zip(logits, copies, strict=True)]
            except torch.OutOfMemoryError:
                pass  # the memory of the failed attempt is released only after this clause
            tiles = logits = None  # type: ignore[assignment]
            self._reduce_memory()

    def _tile(self, box: Box) -> Tensor:
        if self.window.slices == 1:  # a view
            return self.image[(slice(None), *box)]
        return read_slices(self.image, box, self.window.slices)

    def _add(self, box: Box, first: int, slot: int, logits: Tensor, count: int) -> None:
        """Add the sum of ``count`` logits of a tile. The weights of all slots are the same, and are counted in the first."""
        (z, y, x), heads = box, self.window.heads
        sums = self.sums[:, z.start - first : z.stop - first, y, x]
        weight = self.weight.to(self.sums.device)
        sums[slot * heads : (slot + 1) * heads].addcmul_(logits.to(self.sums.device), weight)
        if slot == 0:
            sums[-1] += weight * count

    def _finished_slabs(self, start: int, stop: int) -> Iterator[Tensor]:
        """Means of the padded volume's slices from ``start`` to ``stop``, without the padding, some at a time."""
        before, (depth, height, width) = self.tiling.before, self.shape
        rows, columns = slice(before[1], before[1] + height), slice(before[2], before[2] + width)
        slices = max(1, SLAB_VALUES // (len(self.sums) * height * width))
        low, high = max(start, before[0]), min(stop, before[0] + depth)
        for first in range(low, high, slices):
            yield self._mean(self.sums[:, first - start : min(first + slices, high) - start, rows, columns])

    def _mean(self, sums: Tensor) -> Tensor:
        logits = sums[:-1] / sums[-1:]
        if not bool(torch.isfinite(logits).all()):
            folds = ", ".join(str(network.member.fold) for network in self.networks)
            word = "network of fold" if len(self.networks) == 1 else "networks of folds"
            name = self.networks[0].member.plan.name
            raise ModelError(f"the {word} {folds} ({name}) gave values that are not numbers (NaN or Inf); train again")
        if self.window.logits:
            return logits
        return self.window.probabilities(logits.unflatten(0, (self.slots, -1))).mean(0)

    def _drop_slices(self, count: int) -> None:
        """Shift the sums so that the first ``count`` slices are gone; channel by channel, to save memory."""
        keep = self.sums.shape[1] - count
        for channel in self.sums:
            if keep > 0:
                channel[:keep] = channel[count:].clone()
            channel[max(keep, 0) :] = 0

    def _blank_values(self, box: Box) -> tuple[float, ...] | None:
        """The values of a blank tile's channels; None if the tile is not blank."""
        low, high = torch.aminmax(self._tile(box).flatten(1), dim=1)
        return tuple(round(v, 4) for v in low.tolist()) if bool((high - low <= BLANK).all()) else None

    def _blank_logits(self, values: tuple[float, ...], box: Box) -> Tensor:
        """The sum over mirrored copies and networks (slots, K, z, y, x) for a blank tile, kept for the next one."""
        if self.blank is None or self.blank[0] != values:
            total = self.sums.new_zeros((self.slots, self.window.heads, *self.window.tile))
            for _, slot, logits in self._logits([(box, flips) for flips in self.window.flips]):
                total[slot] += logits.to(total.device)
            self.blank = values, total
        return self.blank[1]

    def _new_sums(self, shape: Sequence[int]) -> Tensor:
        try:
            return torch.zeros(tuple(shape), device=self.image.device)
        except torch.OutOfMemoryError:
            log.warning("%s is out of memory; logits are summed in RAM", self.image.device)
            return torch.zeros(tuple(shape))

    def _reduce_memory(self) -> None:
        """Take the next measure that needs less memory of the device.

        Raises:
            RunError: there is none left.
        """
        device = self.image.device
        if self.window.batch > 1:
            self.window = replace(self.window, batch=self.window.batch // 2)
            log.warning("%s is out of memory; the batch is reduced to %d tiles", device, self.window.batch)
        elif self.sums.device.type != "cpu":
            self.sums = self.sums.cpu()
            log.warning("%s is out of memory; logits are summed in RAM", device)
        elif any(network.device.type != "cpu" for network in self.networks):
            self.networks = [network.on(torch.device("cpu")) for network in self.networks]
            self.image, self.weight = self.image.cpu(), self.weight.cpu()
            if self.window.dtype != torch.float32:
                self.window = replace(self.window, dtype=self.networks[0].dtype)
            log.warning("%s is out of memory; the networks continue on the CPU", device)
        else:
            raise RunError(f"{device} has too little memory for one {self.window.patch} patch; close other programs")


def _on_device(image: Tensor, device: torch.device) -> Tensor:
    """The image on a device, or where it is if the device has too little memory."""
    try:
        return image.to(device)
    except torch.OutOfMemoryError:
        log.warning("%s is out of memory; the scan stays in RAM", device)
        return image
