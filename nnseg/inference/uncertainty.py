"""Uncertainty of each voxel and agreement of the networks, from mean probabilities, block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnseg.core.geometry import Shape
from nnseg.core.image import Floats
from nnseg.core.labels import Labels
from nnseg.core.trust import Agreement, Trust
from nnseg.inference.prediction import DrawnVoxels

VISIBLE = 0.01
"""Smaller probabilities count as 0: over a large scan they would add up to more than a small structure."""

SURE = 0.99
"""Probability that divides voxels into two strata, sampled equally: uncertain voxels are few, and the most informative."""


def apply_temperature(probabilities: Tensor, temperature: float, *, regions: bool = False) -> Tensor:
    """Probabilities (K, ...) after temperature scaling, which keeps the most probable label; at temperature 1 the input itself.

    Args:
        probabilities: of labels, which sum to 1, or of independent regions.
        temperature: the divisor of logits; above 1 lowers the confidence.
        regions: True for regions.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    if temperature == 1.0:
        return probabilities
    raised = probabilities.pow(1.0 / temperature)
    rest = (1.0 - probabilities).pow_(1.0 / temperature).add_(raised) if regions else raised.sum(0, keepdim=True)
    return raised.div_(rest)


class UncertaintyStats:
    """Statistics of one prediction, whose mean probabilities are added block by block.

    Args:
        labels: of the heads.
        trust: holds the temperature of the uncertainty map.
        sample: number of voxels to sample, half of them where the prediction is certain.
    """

    def __init__(self, labels: Labels, trust: Trust | None = None, *, sample: int = 0) -> None:
        self._labels, self._temperature = labels, trust.temperature if trust else 1.0
        self._sums = np.zeros((3, len(labels.heads) + 1))
        self._reservoirs = [_ReservoirSample(sample // 2, len(labels.heads), seed) for seed in (0, 1)] if sample else []

    def add(self, probabilities: Tensor, start: Shape = (0, 0, 0)) -> Tensor:
        """The uncertainty (z, y, x) of a block of probabilities (K, z, y, x), float32: the probability that its label is wrong.

        With a calibrated temperature one in five voxels at 0.2 is wrong. For regions it is that of the least certain one.

        Args:
            probabilities: mean over the networks.
            start: the block's first voxel, for the sample.
        """
        if self._labels.regions:
            decided = probabilities > 0.5
            masks = torch.cat([decided, decided.any(0, keepdim=True)])
            clipped = torch.cat([probabilities, probabilities.amax(0, keepdim=True)])
        else:
            decided = torch.zeros_like(probabilities, dtype=torch.bool).scatter_(0, probabilities.argmax(0, keepdim=True), True)
            masks = torch.cat([decided, ~decided[:1]])
            clipped = torch.cat([probabilities, 1.0 - probabilities[:1]])
        clipped.masked_fill_(clipped < VISIBLE, 0.0)
        sums = [torch.where(masks, clipped, 0.0).flatten(1).sum(1), masks.flatten(1).sum(1), clipped.flatten(1).sum(1)]
        self._sums += np.array([part.double().cpu().numpy() for part in sums])
        if self._reservoirs:
            self._sample(probabilities, start)
        return self._uncertainty(apply_temperature(probabilities, self._temperature, regions=bool(self._labels.regions)))

    @property
    def samples(self) -> bool:
        """True if voxels are sampled."""
        return bool(self._reservoirs)

    def agreement(self) -> Agreement:
        """Soft Dice between probabilities and predicted labels, over all blocks so far."""
        overlap, decided, expected = self._sums
        dice = (2.0 * overlap + 1.0) / (decided + expected + 1.0)  # 1, if a label is neither predicted nor expected
        index = {name: self._labels.heads.index(name) for name in self._labels.foreground}
        return Agreement(
            labels={name: min(float(dice[k]), 1.0) for name, k in index.items()},
            foreground=min(float(dice[-1]), 1.0),
            voxels={name: float(decided[k]) for name, k in index.items()},
        )

    def sample(self) -> DrawnVoxels:
        """Voxels sampled uniformly in each stratum of all blocks so far.

        Raises:
            ValueError: no sample was requested.
        """
        if not self._reservoirs:
            raise ValueError("no voxels were sampled; request a sample")
        return DrawnVoxels(
            voxels=np.concatenate([r.voxels for r in self._reservoirs]),
            probabilities=np.concatenate([r.probabilities for r in self._reservoirs]),
            weights=np.concatenate([r.weights for r in self._reservoirs]),
        )

    def _uncertainty(self, probabilities: Tensor) -> Tensor:
        if self._labels.regions:
            return torch.minimum(probabilities, 1.0 - probabilities).amax(0)
        return 1.0 - probabilities.amax(0)

    def _sample(self, probabilities: Tensor, start: Shape) -> None:
        certain = self._uncertainty(probabilities) < 1.0 - SURE
        for reservoir, stratum in zip(self._reservoirs, (certain, ~certain), strict=True):
            reservoir.add(probabilities, stratum, start)


class _ReservoirSample:
    """A uniform sample of all voxels that were added: drawn by the smallest random keys.

    Args:
        size: of the sample.
        heads: number of probabilities per voxel.
        seed: of the keys.
    """

    def __init__(self, size: int, heads: int, seed: int) -> None:
        self._size, self._random = size, np.random.default_rng(seed)
        self._keys, self._count = np.zeros(0), 0
        self.voxels = np.zeros((0, 3), np.int64)
        self.probabilities: Floats = np.zeros((0, heads), np.float32)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How many of the added voxels each sampled one stands for."""
        return np.full(len(self._keys), self._count / max(1, len(self._keys)))

    def add(self, probabilities: Tensor, stratum: Tensor, start: Shape) -> None:
        """Add the voxels of a block (K, z, y, x) where ``stratum`` (z, y, x) is true; its first voxel is at ``start``."""
        inside = stratum.flatten().nonzero()[:, 0]
        keys = self._random.random(len(inside))
        smallest = _smallest(keys, self._size)
        chosen = inside[torch.from_numpy(smallest).to(inside.device)]
        voxels = np.stack(np.unravel_index(chosen.cpu().numpy(), stratum.shape), 1) + np.array(start)
        found = probabilities.flatten(1)[:, chosen].T.float().cpu().numpy()
        keys = np.concatenate([self._keys, keys[smallest]])
        keep = _smallest(keys, self._size)
        self._keys, self._count = keys[keep], self._count + len(inside)
        self.voxels = np.concatenate([self.voxels, voxels])[keep]
        self.probabilities = np.concatenate([self.probabilities, found])[keep]


def _smallest(keys: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Indices of the smallest ``count`` keys, or of all if there are no more."""
    return np.arange(len(keys)) if len(keys) <= count else np.argpartition(keys, count)[:count]
