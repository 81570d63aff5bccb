"""Networks' answer for a whole volume, tile by tile, handed over slice by slice as soon as no further tile reaches there.

Every network answers every tile and each mirrored copy of it. Its logits are averaged in float32, weighted by importance, and only
the slices that tiles still reach are held; then they become probabilities, which are averaged over networks. Source: nnU-Net
(Isensee 2021, Methods, "Inference"), which holds the whole volume and averages logits over networks too. Averaging probabilities of
tiles and copies as well was measured to cost up to 0.016 of Dice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.errors import ModelError, RunError
from nnseg.core.geometry import tile_starts
from nnseg.inference.networks import MemberNetwork
from nnseg.inference.tiles import Flips, Window, importance

log = logging.getLogger(__name__)

Box = tuple[slice, slice, slice]

BLANK = 1e-5
"""A tile is blank (air, padding) if the values of each of its channels differ by no more than this; an image's own spread is 1."""


SLAB_VALUES = 32_000_000
"""Of all channels of the slices that are handed over at a time."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Where the tiles of a volume lie.

    Args:
        layers: first slices of tiles whose answers are added up together.
        corners: first rows and columns of the tiles of each.
        before: slices, rows and columns of padding before the volume, which is smaller than a tile.
        padded: shape of the volume with its padding.
    """

    layers: tuple[tuple[int, ...], ...]
    corners: tuple[tuple[int, int], ...]
    before: tuple[int, int, int]
    padded: tuple[int, int, int]

    @classmethod
    def of(cls, shape: Sequence[int], window: Window) -> Tiling:
        """The tiling of a volume of ``shape`` (z, y, x)."""
        missing = [max(t - n, 0) for t, n in zip(window.tile, shape, strict=True)]
        z, y, x = (n + m for n, m in zip(shape, missing, strict=True))
        depths, rows, columns = (tile_starts(n, t, s) for n, t, s in zip((z, y, x), window.tile, window.steps, strict=True))
        copies = len(rows) * len(columns) * len(window.flips)
        together = max(1, window.batch // copies) if window.tile[0] == 1 else 1  # few small slices do not fill a batch
        return cls(
            layers=tuple(depths[i : i + together] for i in range(0, len(depths), together)),
            corners=tuple(product(rows, columns)),
            before=(missing[0] // 2, missing[1] // 2, missing[2] // 2),
            padded=(z, y, x),
        )

    def depth(self, tile: int) -> int:
        """Slices that are held at once."""
        return max(layer[-1] - layer[0] for layer in self.layers) + tile


def sliding_window(voters: Sequence[MemberNetwork], image: Tensor, window: Window) -> Iterator[Tensor]:
    """The networks' mean answer to an image, in slabs (K, n, Y, X) from its first slice to its last, float32.

    Where memory of the device runs out, fewer tiles go through the networks together, then sums are kept in the machine's memory,
    then the networks go on there.

    Args:
        voters: networks that share the window.
        image: float32 (C, Z, Y, X); one smaller than the patch is padded with zeros on both sides.
        window: how to cut it.

    Raises:
        RunError: there is too little memory for a single tile.
    """
    yield from _WindowPass(voters, image, window).slabs()


class _WindowPass:
    """One pass over a volume."""

    def __init__(self, voters: Sequence[MemberNetwork], image: Tensor, window: Window) -> None:
        self.voters, self.window = list(voters), window
        self.tiling = Tiling.of(image.shape[1:], window)
        room = [n - s for n, s in zip(self.tiling.padded, image.shape[1:], strict=True)]
        pads = [p for b, r in zip(reversed(self.tiling.before), reversed(room), strict=True) for p in (b, r - b)]
        self.image, self.shape = _moved(F.pad(image, pads), voters[0].device), image.shape[1:]
        self.weight = importance(window.tile).to(self.image.device)
        self.blank: tuple[tuple[float, ...], Tensor] | None = None
        """Values of the channels of the last tile that showed nothing, and the sum of all answers to it."""
        self.slots = 1 if window.logits else len(self.voters)
        self.sums = self._new_sums((self.slots * window.heads + 1, self.tiling.depth(window.tile[0]), *self.tiling.padded[1:]))
        """Weighted logits, of each network or of all together, and the weights, of the slices from the layer's first on."""

    def slabs(self) -> Iterator[Tensor]:
        """The answer, some finished slices at a time."""
        firsts = [layer[0] for layer in self.tiling.layers]
        for layer, start, stop in zip(self.tiling.layers, firsts, [*firsts[1:], self.tiling.padded[0]], strict=True):
            with torch.inference_mode():
                self._add_layer(layer)
            yield from self._finished(start, stop)
            self._move_up(stop - start)

    def _add_layer(self, layer: Sequence[int]) -> None:
        d, h, w = self.window.tile
        boxes = [(slice(z, z + d), slice(y, y + h), slice(x, x + w)) for z in layer for y, x in self.tiling.corners]
        copies = []
        for box in boxes:
            blank = self._blank(box)
            if blank is None:
                copies += [(box, flips) for flips in self.window.flips]
            else:
                for slot, logits in enumerate(self._blank_answers(blank, box)):
                    self._add(box, layer[0], slot, logits, len(self.window.flips) * len(self.voters) // self.slots)
        for box, slot, logits in self._answers(copies):
            self._add(box, layer[0], slot, logits, 1)

    def _answers(self, copies: Sequence[tuple[Box, Flips]]) -> Iterator[tuple[Box, int, Tensor]]:
        """The logits of all networks for mirrored copies of tiles, turned back, and the slot that each is added to."""
        batches = math.ceil(len(copies) / self.window.batch)
        for number in range(batches):
            chunk = copies[len(copies) * number // batches : len(copies) * (number + 1) // batches]
            for voter in range(len(self.voters)):
                for logits, (box, _) in zip(self._logits(voter, chunk), chunk, strict=True):
                    yield box, voter % self.slots, logits

    def _logits(self, voter: int, copies: Sequence[tuple[Box, Flips]]) -> list[Tensor]:
        """One network's logits (K, z, y, x) for copies of tiles, turned back, with ever less of the device's memory."""
        while True:
            try:
                tiles = torch.stack([self.window.mirrored(self.image[(slice(None), *box)], flips) for box, flips in copies])
                logits = [one for part in tiles.split(self.window.batch) for one in self.voters[voter](part, self.window)]
                return [self.window.mirrored_back(one, flips) for one, (_, flips) in zip(logits, copies, strict=True)]
            except torch.OutOfMemoryError:
                pass  # what the failed attempt holds is let go only after this
            tiles = logits = None  # type: ignore[assignment]
            self._make_room()

    def _add(self, box: Box, first: int, slot: int, logits: Tensor, count: int) -> None:
        """Add the sum of ``count`` answers to a tile. The weights of all slots are the same, and counted in the first."""
        (z, y, x), heads = box, self.window.heads
        sums = self.sums[:, z.start - first : z.stop - first, y, x]
        weight = self.weight.to(self.sums.device)
        sums[slot * heads : (slot + 1) * heads].addcmul_(logits.to(self.sums.device), weight)
        if slot == 0:
            sums[-1] += weight * count

    def _finished(self, start: int, stop: int) -> Iterator[Tensor]:
        """The mean of the padded volume's slices from ``start`` to ``stop``, as far as they are no padding, some at a time."""
        before, (depth, height, width) = self.tiling.before, self.shape
        rows, columns = slice(before[1], before[1] + height), slice(before[2], before[2] + width)
        together = max(1, SLAB_VALUES // (len(self.sums) * height * width))
        low, high = max(start, before[0]), min(stop, before[0] + depth)
        for first in range(low, high, together):
            sums = self.sums[:, first - start : min(first + together, high) - start, rows, columns]
            yield self._answer(sums)

    def _answer(self, sums: Tensor) -> Tensor:
        logits = sums[:-1] / sums[-1:]
        if not bool(torch.isfinite(logits).all()):
            folds = ", ".join(str(voter.member.fold) for voter in self.voters)
            word = "network of fold" if len(self.voters) == 1 else "networks of folds"
            name = self.voters[0].member.plan.name
            raise ModelError(f"the {word} {folds} ({name}) gave values that are not numbers; train again")
        if self.window.logits:
            return logits
        return self.window.probabilities(logits.unflatten(0, (self.slots, -1))).mean(0)

    def _move_up(self, slices: int) -> None:
        """Make room for later slices, channel by channel for the sake of memory."""
        keep = self.sums.shape[1] - slices
        for channel in self.sums:
            if keep > 0:
                channel[:keep] = channel[slices:].clone()
            channel[max(keep, 0) :] = 0

    def _blank(self, box: Box) -> tuple[float, ...] | None:
        """The values of a tile's channels if it shows nothing at all."""
        low, high = torch.aminmax(self.image[(slice(None), *box)].flatten(1), dim=1)
        return tuple(round(v, 4) for v in low.tolist()) if bool((high - low <= BLANK).all()) else None

    def _blank_answers(self, values: tuple[float, ...], box: Box) -> Tensor:
        """The sum of all answers (slots, K, z, y, x) to a blank tile, asked for once."""
        if self.blank is None or self.blank[0] != values:
            total = self.sums.new_zeros((self.slots, self.window.heads, *self.window.tile))
            for _, slot, logits in self._answers([(box, flips) for flips in self.window.flips]):
                total[slot] += logits.to(total.device)
            self.blank = values, total
        return self.blank[1]

    def _new_sums(self, shape: Sequence[int]) -> Tensor:
        try:
            return torch.zeros(tuple(shape), device=self.image.device)
        except torch.OutOfMemoryError:
            log.warning("%s is out of memory; adding up in the machine's memory", self.image.device)
            return torch.zeros(tuple(shape))

    def _make_room(self) -> None:
        """Take the next step down.

        Raises:
            RunError: there is none.
        """
        device = self.image.device
        if self.window.batch > 1:
            self.window = replace(self.window, batch=self.window.batch // 2)
            log.warning("%s is out of memory; going on with %d tiles at a time", device, self.window.batch)
        elif self.sums.device.type != "cpu":
            self.sums = self.sums.cpu()
            log.warning("%s is out of memory; adding up in the machine's memory", device)
        elif any(voter.device.type != "cpu" for voter in self.voters):
            self.voters = [voter.on(torch.device("cpu")) for voter in self.voters]
            self.image, self.weight = self.image.cpu(), self.weight.cpu()
            if self.window.dtype != torch.float32:
                self.window = replace(self.window, dtype=self.voters[0].dtype)
            log.warning("%s is out of memory; going on on the CPU", device)
        else:
            raise RunError(f"{device} has too little memory for one {self.window.patch} patch; close other programs")


def _moved(image: Tensor, device: torch.device) -> Tensor:
    """The image on a device or, where that has too little memory, where it is."""
    try:
        return image.to(device)
    except torch.OutOfMemoryError:
        log.warning("%s is out of memory; the scan stays in the machine's memory", device)
        return image
