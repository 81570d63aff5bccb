"""Where an answer is unsure, and how much that says about the whole of it; from mean probabilities, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnseg.core.geometry import Shape
from nnseg.core.image import Floats
from nnseg.core.labels import Labels
from nnseg.core.trust import Agreement, Trust

VISIBLE = 0.01
"""Probabilities below count as nothing: over all of a large scan they would add up to more than a small structure."""

SURE = 0.99
"""Voxels are drawn from those above and from those below: there are few of these, and they say most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnVoxels:
    """Voxels drawn from an answer, to see how often it is right.

    Args:
        voxels: int (n, 3), places (z, y, x) in the answer.
        probabilities: float32 (n, K).
        weights: float64 (n,), how many voxels each stands for.
    """

    voxels: npt.NDArray[np.int64]
    probabilities: Floats
    weights: npt.NDArray[np.float64]


def tempered(probabilities: Tensor, temperature: float, *, regions: bool = False) -> Tensor:
    """Probabilities (K, ...) of logits divided by a temperature. What is most likely stays so; a temperature of 1 changes nothing.

    Args:
        probabilities: of labels, which add up to 1, or of regions, each for itself.
        temperature: above 1 to make them less sure.
        regions: which of both.
    """
    if temperature == 1.0:
        return probabilities
    raised = probabilities.pow(1.0 / temperature)
    rest = (1.0 - probabilities).pow_(1.0 / temperature).add_(raised) if regions else raised.sum(0, keepdim=True)
    return raised.div_(rest)


class UncertaintyStats:
    """Sums over one answer, whose mean probabilities come block by block.

    Args:
        labels: what the heads mean.
        trust: with the temperature of the map.
        sample: how many voxels to draw, half of them where the answer is sure.
    """

    def __init__(self, labels: Labels, trust: Trust | None = None, *, sample: int = 0) -> None:
        self._labels, self._temperature = labels, trust.temperature if trust else 1.0
        self._sums = np.zeros((3, len(labels.heads) + 1))
        self._urns = [_ReservoirSample(sample // 2, len(labels.heads), seed) for seed in (0, 1)] if sample else []

    def add(self, probabilities: Tensor, start: Shape = (0, 0, 0)) -> Tensor:
        """The uncertainty (z, y, x) of a block (K, z, y, x), float32: the chance that what is decided there is wrong.

        0 is certain; once the temperature is known, of the voxels at 0.2 one in five is wrong. Of regions it is the chance of the
        least certain.

        Args:
            start: the block's first voxel, for the sample.
        """
        if self._labels.regions:
            decided = probabilities > 0.5
            masks = torch.cat([decided, decided.any(0, keepdim=True)])
            seen = torch.cat([probabilities, probabilities.amax(0, keepdim=True)])
        else:
            decided = torch.zeros_like(probabilities, dtype=torch.bool).scatter_(0, probabilities.argmax(0, keepdim=True), True)
            masks = torch.cat([decided, ~decided[:1]])
            seen = torch.cat([probabilities, 1.0 - probabilities[:1]])
        seen.masked_fill_(seen < VISIBLE, 0.0)
        sums = [torch.where(masks, seen, 0.0).flatten(1).sum(1), masks.flatten(1).sum(1), seen.flatten(1).sum(1)]
        self._sums += np.array([part.double().cpu().numpy() for part in sums])
        if self._urns:
            self._draw(probabilities, start)
        return self._doubt(tempered(probabilities, self._temperature, regions=bool(self._labels.regions)))

    @property
    def samples(self) -> bool:
        """True if voxels are drawn."""
        return bool(self._urns)

    def agreement(self) -> Agreement:
        """How far the networks agree with their decision, over all blocks so far."""
        both, decided, expected = self._sums
        dice = (2.0 * both + 1.0) / (decided + expected + 1.0)  # the one: nothing decided where nothing is seen is agreement
        place = {name: self._labels.heads.index(name) for name in self._labels.foreground}
        return Agreement(
            labels={name: min(float(dice[k]), 1.0) for name, k in place.items()},
            foreground=min(float(dice[-1]), 1.0),
            voxels={name: float(decided[k]) for name, k in place.items()},
        )

    def sample(self) -> DrawnVoxels:
        """Voxels drawn evenly from all blocks so far.

        Raises:
            ValueError: none were to be drawn.
        """
        if not self._urns:
            raise ValueError("a tally made without a sample has none")
        return DrawnVoxels(
            voxels=np.concatenate([urn.places for urn in self._urns]),
            probabilities=np.concatenate([urn.probabilities for urn in self._urns]),
            weights=np.concatenate([urn.weights for urn in self._urns]),
        )

    def _doubt(self, probabilities: Tensor) -> Tensor:
        if self._labels.regions:
            return torch.minimum(probabilities, 1.0 - probabilities).amax(0)
        return 1.0 - probabilities.amax(0)

    def _draw(self, probabilities: Tensor, start: Shape) -> None:
        sure = self._doubt(probabilities) < 1.0 - SURE
        for urn, stratum in zip(self._urns, (sure, ~sure), strict=True):
            urn.add(probabilities, stratum, start)


class _ReservoirSample:
    """Voxels drawn evenly from all that were added: those with the smallest random keys.

    Args:
        size: how many to keep.
        heads: probabilities of each.
        seed: of the keys.
    """

    def __init__(self, size: int, heads: int, seed: int) -> None:
        self._size, self._random = size, np.random.default_rng(seed)
        self._keys, self._count = np.zeros(0), 0
        self.places = np.zeros((0, 3), np.int64)
        self.probabilities: Floats = np.zeros((0, heads), np.float32)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How many of the voxels added each of those drawn stands for."""
        return np.full(len(self._keys), self._count / max(1, len(self._keys)))

    def add(self, probabilities: Tensor, stratum: Tensor, start: Shape) -> None:
        """Add the voxels of a block (K, z, y, x) where ``stratum`` (z, y, x) is true; its first voxel is at ``start``."""
        inside = stratum.flatten().nonzero()[:, 0]
        keys = self._random.random(len(inside))
        few = _smallest(keys, self._size)
        chosen = inside[torch.from_numpy(few).to(inside.device)]
        places = np.stack(np.unravel_index(chosen.cpu().numpy(), stratum.shape), 1) + np.array(start)
        found = probabilities.flatten(1)[:, chosen].T.float().cpu().numpy()
        keys = np.concatenate([self._keys, keys[few]])
        keep = _smallest(keys, self._size)
        self._keys, self._count = keys[keep], self._count + len(inside)
        self.places = np.concatenate([self.places, places])[keep]
        self.probabilities = np.concatenate([self.probabilities, found])[keep]


def _smallest(keys: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Where the smallest ``count`` keys are; all, where they are no more."""
    return np.arange(len(keys)) if len(keys) <= count else np.argpartition(keys, count)[:count]
