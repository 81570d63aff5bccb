"""Attribution maps: how much each voxel of a scan matters for the voxels that were predicted as a label.

What is explained is the mean log-odds of a label over its predicted voxels. A volume's logits are a weighted mean of those of its
tiles, so the mean log-odds is taken as a sum over tiles; only tiles with voxels of the label count. In a cascade the last network
is explained, with the label map of the previous stage as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnseg.core.errors import ModelError
from nnseg.core.frozen import short_repr
from nnseg.core.image import Floats, LabelMap, PreprocessedCase, Scan
from nnseg.core.labels import Labels
from nnseg.core.options import ExplanationMethod
from nnseg.inference.networks import MemberNetwork, NetworkGroup
from nnseg.inference.restore import cropped_view, network_orientation
from nnseg.inference.tiles import Box, Tiling, Window, importance
from nnseg.preprocessing.preprocess import preprocess, separate_back
from nnseg.preprocessing.resample import resample_image

Mask = npt.NDArray[np.bool_]
Objective = Callable[[Tensor], Tensor]
"""A function of tiles (B, C, z, y, x) to what each contributes (B,) to the mean log-odds."""

COPIES = 16
"""Noisy copies of each voxel's surroundings in a map of SmoothGrad."""

NOISE = 0.15
"""Standard deviation of SmoothGrad's noise as a share of the range of intensities, from the 0.5th to the 99.5th percentile.

Source: Smilkov et al. 2017, arXiv:1706.03825, section 3.1: with 0.1 to 0.2 maps are sharp and show the structure.
"""

BOXES = {2: 16, 3: 6}
"""Boxes that are occluded along each axis of a tile, at most, by the number of axes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentedScan:
    """A scan and its predicted label map, preprocessed for a model's networks.

    Args:
        cases: with indices of the predicted labels, by the digest of their preprocessing.
    """

    scan: Scan
    cases: Mapping[str, PreprocessedCase]

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is explained: the mean log-odds of a label over some voxels.

    Args:
        head: index of the label or region among the model's heads.
        elsewhere: over as many voxels drawn at random from all others, instead of those that are predicted as the label.
    """

    head: int
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """A map, and how much of what it explains each voxel can reach.

    Args:
        values: float32 (Z, Y, X), on the scan's canonical grid; 0 outside the crop.
        reach: float32 (Z, Y, X), the share of the mean log-odds that is computed from tiles with a voxel, which scales every map,
            whatever the weights of the networks.
    """

    values: Floats
    reach: Floats

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Attributor:
    """A model whose predictions are explained; its mirrored copies are not used.

    Args:
        labels: of the model.
        groups: its networks.
        method: "smoothgrad", which needs the extra "explain", or "occlusion".
        copies: noisy copies of each voxel's surroundings.
    """

    labels: Labels
    groups: tuple[NetworkGroup, ...]
    method: ExplanationMethod
    copies: int = COPIES

    @classmethod
    def of(cls, labels: Labels, groups: Sequence[NetworkGroup], method: ExplanationMethod, *, copies: int = COPIES) -> Attributor:
        """The attributor of networks that a predictor has on its device.

        Raises:
            ModelError: a network sees several slices at once.
        """
        if any(group.window.slices > 1 for group in groups):
            raise ModelError("a 2.5d network is not explained: it sees neighbouring slices as channels; choose another plan")
        unmirrored = tuple(replace(group, window=replace(group.window, mirror_axes=())) for group in groups)
        return cls(labels=labels, groups=unmirrored, method=method, copies=copies)

    def randomized(self, share: float, seed: int) -> Attributor:
        """The same with random weights in a share of each network's layers, from the last one on.

        Source: the cascading randomization of Adebayo et al. 2018, arXiv:1810.03292, section 3.1.
        """
        groups = (replace(of, networks=tuple(one.randomized(share, seed) for one in of.networks)) for of in self.groups)
        return replace(self, groups=tuple(groups))

    def prepare(self, scan: Scan, label_map: LabelMap, previous: LabelMap | None = None) -> SegmentedScan:
        """A scan and its predicted label map, preprocessed.

        Args:
            previous: that of a cascade's previous stage.

        Raises:
            ScanError: the scan has another number of channels.
            ModelError: the previous stage's label map is missing.
        """
        plans = {group.key: group.plan for group in self.groups}
        cases = {
            key: preprocess(scan, label_map, plan, previous=previous if plan.previous else None) for key, plan in plans.items()
        }
        return SegmentedScan(scan=scan, cases=cases)

    def attribute(self, labelled: SegmentedScan, target: Target, seed: int) -> Attribution:
        """The map of a target.

        Of SmoothGrad the absolute mean gradient, summed over channels: how fast the mean log-odds changes with the intensity there.
        Of occlusion by how much it falls when a box there gets the scan's mean intensity. Both per mm3, averaged over networks.

        Args:
            seed: of noise, and of the voxels elsewhere.
        """
        maps = np.zeros((2, *labelled.scan.grid.shape), np.float32)
        whole = sum(group.weight * len(group.networks) for group in self.groups)
        for group in self.groups:
            case = labelled.cases[group.key]
            covered = self.labels.members()[target.head][[*group.plan.labels.whole_indices]]  # the borders of objects, too
            heads = [target.head] if group.window.sigmoid else np.flatnonzero(covered).tolist()
            where = _voxels_of(case, covered, seed if target.elsewhere else None)
            volume = _Tiles.of(
                torch.from_numpy(case.image), torch.from_numpy(where), group.window, cascade=bool(group.plan.previous)
            )
            own = self._attribute(group, volume, heads, seed) / math.prod(case.placement.spacing)
            separate = separate_back(case.placement, group.plan)
            back = resample_image(
                torch.stack([own, volume.reach()]).numpy(), case.placement.cropped_shape, order=1, separate=separate
            )
            view = cropped_view(maps, case.placement, network_orientation(labelled.scan, group.plan))
            view += group.weight * len(group.networks) / whole * back
        return Attribution(values=maps[0], reach=maps[1])

    def _attribute(self, group: NetworkGroup, volume: _Tiles, heads: Sequence[int], seed: int) -> Tensor:
        """The map (Z, Y, X) on the grid of a group's networks."""
        explain = self._explainer(group, volume)
        found = torch.zeros((1 if self.method == "occlusion" else len(volume.image), *volume.image.shape[1:]))
        for number, box in enumerate(volume.boxes):
            for network in group.networks:
                objective = partial(
                    _log_odds,
                    network=network,
                    window=group.window,
                    heads=heads,
                    weights=volume.weights(box),
                    given=volume.given[(slice(None), *box)],
                )
                found[(slice(None), *box)] += explain(objective, box, seed + number).cpu() / len(group.networks)
        found = found[(slice(None), *volume.inside)]
        return found[0] if self.method == "occlusion" else found.abs().sum(0)

    def _explainer(self, group: NetworkGroup, volume: _Tiles) -> Callable[[Objective, Box, int], Tensor]:
        """A function of an objective, a tile's box and a seed to the tile's part (C or 1, z, y, x) of the map."""
        image = volume.image[(slice(None), *volume.inside)]
        if self.method == "occlusion":
            mean = image.mean((1, 2, 3))
            return lambda objective, box, _: _occlude(objective, box, image=volume.image, mean=mean, window=group.window)
        from nnseg.inference.smoothgrad import smoothgrad  # noqa: PLC0415 (an extra)

        low, high = np.percentile(image.numpy(), [0.5, 99.5])
        explain = partial(
            smoothgrad,
            copies=max(2, math.ceil(self.copies / volume.overlap)),  # each tile has noise of its own
            batch=min(group.window.batch, group.plan.training.batch_size),  # whose gradients fit into memory
            deviation=NOISE * max(float(high - low), 1e-6),
        )
        return lambda objective, box, seed: explain(objective, volume.image[(slice(None), *box)], seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tiles:
    """The tiles of a volume that have voxels of a target.

    Args:
        image: float32 (C, Z, Y, X), padded to at least one tile.
        given: float32 (1, Z, Y, X), the label indices of a cascade's previous stage, which are not explained; (0, Z, Y, X) without.
        boxes: of the tiles.
        inside: the volume without the padding.
        share: (Z, Y, X), by which a tile's voxel counts in the mean over the target, for each unit of its importance.
    """

    image: Tensor
    given: Tensor
    boxes: tuple[Box, ...]
    inside: Box
    share: Tensor
    importance: Tensor

    @classmethod
    def of(cls, image: Tensor, where: Tensor, window: Window, *, cascade: bool) -> _Tiles:
        tiling = Tiling.of(image.shape[1:], window)
        z, y, x = (slice(b, b + n) for b, n in zip(tiling.before, image.shape[1:], strict=True))
        whole, target, total = (torch.zeros((*lead, *tiling.padded)) for lead in (image.shape[:1], (), ()))
        whole[:, z, y, x], target[z, y, x] = image, where.float() / max(1, int(where.sum()))
        weight, boxes = importance(window.tile), [box for layer in tiling.layers for box in tiling.boxes(layer, window.tile)]
        for box in boxes:
            total[box] += weight
        used = tuple(box for box in boxes if bool(target[box].any()))
        scan, given = whole.split([len(whole) - cascade, int(cascade)])
        return cls(image=scan, given=given, boxes=used, inside=(z, y, x), share=target / total, importance=weight)

    @property
    def overlap(self) -> float:
        """Mean number of tiles over a voxel of these tiles."""
        covered = torch.zeros(self.share.shape, dtype=torch.bool)
        for box in self.boxes:
            covered[box] = True
        return max(1.0, len(self.boxes) * self.importance.numel() / max(1, int(covered.sum())))

    def reach(self) -> Tensor:
        """(Z, Y, X), for each voxel the share of the target's mean that tiles with this voxel make up."""
        found = torch.zeros_like(self.share)
        for box in self.boxes:
            found[box] += self.weights(box).sum()
        return found[self.inside]

    def weights(self, box: Box) -> Tensor:
        """(z, y, x), by which the log-odds of a tile count in the mean over the target."""
        return self.share[box] * self.importance


def _voxels_of(case: PreprocessedCase, members: Mask, elsewhere: int | None) -> Mask:
    """The voxels (Z, Y, X) that are predicted as one of some labels, or as many others drawn with the seed ``elsewhere``."""
    assert case.labels is not None
    predicted: Mask = members[np.maximum(case.labels, 0)]
    if elsewhere is None:
        return predicted
    others = np.flatnonzero(~predicted)
    drawn = np.random.default_rng(elsewhere).choice(others, min(len(others), int(predicted.sum())), replace=False)
    found = np.zeros(predicted.shape, np.bool_)
    found.flat[drawn] = True
    return found


def _log_odds(
    tiles: Tensor, network: MemberNetwork, window: Window, heads: Sequence[int], weights: Tensor, given: Tensor
) -> Tensor:
    """The weighted sum (B,) of the log-odds of a label in tiles (B, C, z, y, x).

    Unlike a logit of softmax, log-odds do not change when all logits rise alike.

    Args:
        heads: of the label: its own, and with softmax that of the border of its objects, whose probabilities are added.
        given: (0 or 1, z, y, x), channels of every tile that are not explained.
    """
    logits = network(torch.cat([tiles, given.to(tiles.device).expand(len(tiles), -1, -1, -1, -1)], 1), window)
    found = logits[:, heads].logsumexp(1)
    if not window.sigmoid:
        found = found - logits[:, [k for k in range(window.heads) if k not in heads]].logsumexp(1)
    return (found * weights.to(found.device)).flatten(1).sum(1)


@torch.inference_mode()
def _occlude(objective: Objective, box: Box, *, image: Tensor, mean: Tensor, window: Window) -> Tensor:
    """By how much an objective of a tile falls, (1, z, y, x), per voxel of the box that gets the mean intensity.

    Boxes lie on one grid of the volume, so that those of overlapping tiles are the same.
    """
    tile = image[(slice(None), *box)]
    whole, found = float(objective(tile[None])), torch.zeros((1, *tile.shape[1:]))
    most = BOXES[len(window.patch)]
    z, y, x = (_cuts(part, math.ceil(edge / most)) for part, edge in zip(box, window.tile, strict=True))
    boxes = list(product(z, y, x))
    for some in (boxes[start : start + window.batch] for start in range(0, len(boxes), window.batch)):
        copies = tile.repeat(len(some), 1, 1, 1, 1)
        for copy, hidden in zip(copies, some, strict=True):
            copy[(slice(None), *hidden)] = mean[:, None, None, None]
        for value, hidden in zip(objective(copies).tolist(), some, strict=True):
            found[(0, *hidden)] = (whole - value) / math.prod(part.stop - part.start for part in hidden)
    return found


def _cuts(part: slice, edge: int) -> Sequence[slice]:
    """Parts of a tile's axis, cut at all multiples of ``edge`` along the volume's, counted from the tile's first voxel."""
    inner = range((part.start // edge + 1) * edge, part.stop, edge)
    return [slice(a - part.start, b - part.start) for a, b in pairwise((part.start, *inner, part.stop))]
