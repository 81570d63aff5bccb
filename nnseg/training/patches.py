"""`Patches`: the n-th training batch of a fold, whatever was drawn before it and however many draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnseg.core.errors import DatasetError
from nnseg.core.image import Integers
from nnseg.core.plan import Plan
from nnseg.training.augment import Drawn, augment, draw_strengths
from nnseg.training.pose import Offset, Pose, draw_mirrored, draw_start, draw_turn
from nnseg.training.warp import LabelledCase, cut, warp


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What a step trains on.

    Args:
        image: float32 (B, C, *patch).
        labels: int64 (B, *patch), label indices, -1 where ignored.
        names: of the cases the patches come from.
    """

    image: Tensor
    labels: Tensor
    names: tuple[str, ...]


class Patches:
    """Random patches of cases, augmented.

    With chance ``foreground_share``, whatever the batch size, a patch is centred on a labelled voxel, as far as borders allow. Its
    label (or region) is drawn *before* its case, so that a label which few cases have is seen as often as any other. Any other
    patch lies anywhere in any case with equal chance or, where voxels are ignored, around an annotated voxel.

    Args:
        cases: to draw from; only sliced, never changed.
        plan: patch, batch size, shares, augmentation and seed.
        fold: part of the seed.
        device: where batches lie.

    Raises:
        DatasetError: there are no cases.
    """

    def __init__(self, cases: Sequence[LabelledCase], plan: Plan, *, fold: int, device: torch.device) -> None:
        if not cases:
            raise DatasetError(f"fold {fold} of dataset {plan.dataset} has no cases to train on; add cases or use fewer folds")
        self._cases, self._plan, self._fold, self._device = cases, plan, fold, device
        self._patch = (1, *plan.patch) if plan.dimensions == 2 else plan.patch
        # Other devices lack some of the operations, or compute them differently.
        self._workplace = device if device.type == "cuda" else torch.device("cpu")
        self._holders = _holders(cases, plan)
        self._masked = [i for i, n in enumerate(plan.preprocessing.normalization) if n.masked]

    def batch(self, step: int) -> Batch:
        """The patches of a step; patch number ``n`` depends on nothing but (seed, fold, step, n)."""
        training = self._plan.training
        shape = (len(self._plan.channels), *self._plan.patch)
        poses: list[tuple[LabelledCase, Pose]] = []
        drawn: list[Drawn] = []
        for number in range(training.batch_size):
            rng = _generator(training.seed, self._fold, step, number)
            poses.append(self._draw(rng))
            drawn.append(draw_strengths(rng, training.augmentation, shape))
        image, labels = self._read(poses)
        if self._plan.dimensions == 2:
            image, labels = image[:, :, 0], labels[:, 0]
        augment(image, drawn, masked=self._masked)
        names = tuple(case.name for case, _ in poses)
        return Batch(image=image.to(self._device), labels=labels.to(self._device), names=names)

    def _draw(self, rng: np.random.Generator) -> tuple[LabelledCase, Pose]:
        training, dimensions = self._plan.training, self._plan.dimensions
        foreground = rng.random() < training.foreground_share and bool(self._holders)
        case, around = _draw_labelled(rng, self._holders) if foreground else _draw_anywhere(rng, self._cases)
        start = draw_start(rng, np.array(case.labels.shape), np.array(self._patch), around)
        turn = draw_turn(rng, training.augmentation, in_plane=training.augmentation.in_plane or dimensions == 2)
        mirrored = draw_mirrored(rng, training.augmentation, dimensions=dimensions)
        return case, Pose(start=start, turn=turn, mirrored=mirrored)

    def _read(self, poses: Sequence[tuple[LabelledCase, Pose]]) -> tuple[Tensor, Tensor]:
        """The patches as they lie in their cases, on the device that augments them."""
        pinned = self._workplace.type == "cuda"
        image = torch.zeros((len(poses), len(self._plan.channels), *self._patch), pin_memory=pinned)
        labels = torch.zeros((len(poses), *self._patch), dtype=torch.int64, pin_memory=pinned)
        for number, (case, pose) in enumerate(poses):
            if pose.turn is None:
                cut(case, pose, image[number], labels[number])
        image, labels = image.to(self._workplace, non_blocking=True), labels.to(self._workplace, non_blocking=True)
        for number, (case, pose) in enumerate(poses):
            if pose.turn is not None:
                image[number], labels[number] = warp(case, pose, self._patch, self._workplace)
        return image, labels


Holder = tuple[LabelledCase, tuple[Integers, ...]]
"""A case, and where in it the labels of one group lie."""


def _holders(cases: Sequence[LabelledCase], plan: Plan) -> list[list[Holder]]:
    """For each label (or region) that any case shows, the cases that do."""
    members = plan.labels.members() if plan.labels.regions else plan.labels.members()[1:]
    groups = [[int(i) for i in np.flatnonzero(row) if i > 0] for row in members]
    found = [[(case, _locations(case, group)) for case in cases] for group in groups]
    present = [[(case, places) for case, places in holders if places] for holders in found]
    return [holders for holders in present if holders]


def _locations(case: LabelledCase, group: Sequence[int]) -> tuple[Integers, ...]:
    return tuple(case.locations[i] for i in group if len(case.locations.get(i, ())))


def _draw_labelled(rng: np.random.Generator, holders: Sequence[Sequence[Holder]]) -> tuple[LabelledCase, Offset]:
    group = holders[int(rng.integers(len(holders)))]
    case, places = group[int(rng.integers(len(group)))]
    number = int(rng.integers(sum(len(p) for p in places)))
    for place in places:
        if number < len(place):
            break
        number -= len(place)
    return case, np.asarray(place[number], np.int64)


def _draw_anywhere(rng: np.random.Generator, cases: Sequence[LabelledCase]) -> tuple[LabelledCase, Offset | None]:
    case = cases[int(rng.integers(len(cases)))]
    places = case.annotated
    if places is None or not len(places):
        return case, None
    return case, np.asarray(places[rng.integers(len(places))], np.int64)


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([k % 2**64 for k in key]))
