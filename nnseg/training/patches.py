"""`Patches`: the n-th training batch of a fold, whatever was drawn before it and in how many threads or processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnseg.core.errors import DatasetError, PlanError
from nnseg.core.geometry import in_space
from nnseg.core.image import Integers
from nnseg.core.plan import Plan, Steps
from nnseg.network.inputs import SlicedCase
from nnseg.storage.case_levels import LEVELS
from nnseg.training.augmentation.batchgenerators import Transforms
from nnseg.training.augmentation.cascade import cascade_input
from nnseg.training.augmentation.intensity import Strengths, augment, draw_strengths
from nnseg.training.augmentation.pose import Offset, Pose, draw_pose, swap_known, swap_labels, swap_levels
from nnseg.training.augmentation.synthesis import Synthesis, draw_synthesis, synthesize
from nnseg.training.augmentation.warp import LabelledCase, cut, warp
from nnseg.training.context import SINGLE_PROCESS, Ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What a step trains on.

    Args:
        image: float32 (B, C, *patch).
        labels: int64 (B, *patch), label indices, -1 where ignored.
        names: of the patches' cases.
        known: bool (B, labels), labels that were annotated in each patch's case; None if all were in all.
        probabilities: float32 (B, F, *patch) of the labels without the background, or of the regions, by other networks; None if
            the plan has no ``training.distillation``.
        starts: voxel of the case, in network axis order, where each patch starts before rotation.
    """

    image: Tensor
    labels: Tensor
    names: tuple[str, ...]
    known: Tensor | None = None
    probabilities: Tensor | None = None
    starts: tuple[tuple[int, ...], ...] = ()


class Patches:
    """Random patches of cases, augmented. Immutable, so that several threads may draw at once.

    With probability ``foreground_share``, whatever the batch size, a patch is centred on a labelled voxel, as far as borders allow.
    Its label (or region) is drawn *before* its case, so that a label which few cases have is drawn as often as any other. Other
    patches are uniform over cases and positions or, where voxels are ignored, centred on a random annotated voxel; if the plan
    has an ``empty_share``, this share of all patches is of cases without a labelled voxel.

    Args:
        cases: to draw from; only sliced.
        plan: patch, batch size, shares, augmentation and seed.
        fold: part of the seed.
        device: of the batches.
        ranks: the processes that share each batch; each draws its own part.

    Raises:
        DatasetError: there are no cases.
        PlanError: the plan has ``training.distillation``, and the cases no probabilities (see `nnseg.storage.case_levels`).
    """

    def __init__(
        self, cases: Sequence[LabelledCase], plan: Plan, *, fold: int, device: torch.device, ranks: Ranks = SINGLE_PROCESS
    ) -> None:
        if not cases:
            raise DatasetError(f"fold {fold} of dataset {plan.dataset} has no cases to train on; add cases or use fewer folds")
        self._cases, self._plan, self._fold, self._device = cases, plan, fold, device
        # Augmentation runs on CUDA or the CPU: other devices lack some operations, or compute them differently.
        self._augment_on = device if device.type == "cuda" else torch.device("cpu")
        self._numbers = ranks.share(plan.training.batch_size)
        self._cases_with = _cases_by_group(cases, plan)
        self._labelled, self._empty = ([case for case in cases if _has_labels(case) is wanted] for wanted in (True, False))
        self._empty_chance = _empty_chance(len(self._empty), len(cases), plan)
        self._known = _known_labels(cases, len(plan.labels.values))
        self._transforms = Transforms(plan.training.augmentation.extra)
        masked = [n.masked for n in plan.preprocessing.normalization for _ in range(plan.network.slices)]
        self._masked = [i for i, known in enumerate(masked) if known]
        self._channels = (len(plan.channels) * plan.network.slices, int(bool(plan.previous)), _level_channels(cases, plan))

    def batch(self, step: int, size: Steps | None = None) -> Batch:
        """This rank's patches of a step; patch ``n`` depends on nothing but (seed, fold, step, n) and the size.

        Args:
            step: from 0.
            size: voxels along each axis; by default of the plan's patch.
        """
        size = size or self._plan.patch
        draws = [self._draw(step, number, size) for number in self._numbers]
        image, labels = self._read(draws, size)
        image, previous, levels = image.split(self._channels, dim=1)
        image, maps = image.contiguous(), [labels, *previous.unbind(1), *levels.unbind(1)]
        synthesize(image, labels, [d.synthesis for d in draws], whole=self._plan.labels.whole_indices)
        self._transforms.apply(image, maps, [d.seed for d in draws], masked=self._masked)
        augment(image, [d.strengths for d in draws], masked=self._masked)
        if self._plan.previous:
            image = cascade_input(image, previous, [d.rng for d in draws], self._plan)
        return Batch(
            image=image.to(self._device),
            labels=labels.to(self._device),
            names=tuple(d.case.name for d in draws),
            known=self._known_in(draws),
            probabilities=(levels / LEVELS).to(self._device) if levels.shape[1] else None,
            starts=tuple(tuple(int(n) for n in d.pose.start) for d in draws),
        )

    def _draw(self, step: int, number: int, size: Steps) -> _PatchParameters:
        training, dimensions = self._plan.training, self._plan.dimensions
        rng = np.random.default_rng(np.random.SeedSequence([k % 2**64 for k in (training.seed, self._fold, step, number)]))
        foreground = rng.random() < training.foreground_share and bool(self._cases_with)
        case, around = _draw_labelled(rng, self._cases_with) if foreground else _draw_anywhere(rng, self._cases_by_chance(rng))
        shape, patch = np.array(case.labels.shape), np.array(in_space(size))
        return _PatchParameters(
            case=case,
            pose=draw_pose(rng, training.augmentation, case=shape, patch=patch, dimensions=dimensions, around=around),
            strengths=_of_slices(
                draw_strengths(rng, training.augmentation, (len(self._plan.channels), *size)), self._plan.network.slices
            ),
            synthesis=draw_synthesis(
                rng, training.augmentation, channels=len(self._plan.channels), labels=len(self._plan.labels.values)
            ),
            seed=self._transforms.seed(rng),
            rng=rng,
        )

    def _cases_by_chance(self, rng: np.random.Generator) -> Sequence[LabelledCase]:
        """Cases for a patch that is not centred on a label: all, or at the plan's rate those without one or the others."""
        if self._empty_chance is None:
            return self._cases
        return self._empty if rng.random() < self._empty_chance else self._labelled

    def _read(self, draws: Sequence[_PatchParameters], size: Steps) -> tuple[Tensor, Tensor]:
        """Images and labels of the patches before intensity augmentation, on the device for it."""
        patch = in_space(size)
        pinned, poses = self._augment_on.type == "cuda", [d.pose for d in draws]
        image = torch.zeros((len(draws), sum(self._channels), *patch), pin_memory=pinned)
        labels = torch.zeros((len(draws), *patch), dtype=torch.int64, pin_memory=pinned)
        for number, draw in enumerate(draws):
            if draw.pose.matrix is None:
                cut(SlicedCase(draw.case, self._plan), draw.pose, image[number], labels[number])
        image, labels = image.to(self._augment_on, non_blocking=True), labels.to(self._augment_on, non_blocking=True)
        previous = bool(self._plan.previous)
        for number, draw in enumerate(draws):
            if draw.pose.matrix is not None:
                image[number], labels[number] = warp(
                    SlicedCase(draw.case, self._plan), draw.pose, patch, self._augment_on, previous=previous
                )
        swap_labels(labels, poses, self._plan)
        if previous:
            swap_labels(image[:, -1], poses, self._plan)
        if levels := self._channels[-1]:
            swap_levels(image[:, -levels:], poses, self._plan)
        return (image[:, :, 0], labels[:, 0]) if self._plan.dimensions == 2 else (image, labels)

    def _known_in(self, draws: Sequence[_PatchParameters]) -> Tensor | None:
        if self._known is None:
            return None
        known = torch.stack([self._known[d.case.name] for d in draws])
        return swap_known(known, [d.pose for d in draws], self._plan).to(self._device, non_blocking=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _PatchParameters:
    """Random parameters of one patch.

    Args:
        case, pose: where it is cut, and how it is rotated, flipped and deformed.
        strengths: of the changes of intensity.
        synthesis: intensities drawn anew; None if they stay.
        seed: of the plan's transforms of batchgenerators.
        rng: for later draws.
    """

    case: LabelledCase
    pose: Pose
    strengths: Strengths
    synthesis: Synthesis | None
    seed: int
    rng: np.random.Generator


def _of_slices(strengths: Strengths, slices: int) -> Strengths:
    """The strengths of a channel for each of its slices, of which the noise is the same too."""
    return {
        name: {channel * slices + n: strength for channel, strength in of.items() for n in range(slices)}
        for name, of in strengths.items()
    }


CaseWithLabels = tuple[LabelledCase, tuple[Integers, ...]]
"""A case, and the voxels (N, 3) of each label of one group."""


def _cases_by_group(cases: Sequence[LabelledCase], plan: Plan) -> list[list[CaseWithLabels]]:
    """For each label (or region) that any case has, the cases that have it."""
    members = plan.labels.members() if plan.labels.regions else plan.labels.members()[1:]
    groups = [[int(i) for i in np.flatnonzero(row) if i > 0] for row in members]
    found = [[(case, _locations(case, group)) for case in cases] for group in groups]
    present = [[(case, places) for case, places in cases_with if places] for cases_with in found]
    return [cases_with for cases_with in present if cases_with]


def _level_channels(cases: Sequence[LabelledCase], plan: Plan) -> int:
    """The channels of the cases' images, after the others, that hold levels of probabilities."""
    if not plan.training.distillation:
        return 0
    count = len(plan.labels.foreground)
    if any(case.image.shape[0] != plan.stored_channels + count for case in cases):
        raise PlanError("training.distillation needs probabilities of other networks beside the cases: only nnseg distill has them")
    return count


def _known_labels(cases: Sequence[LabelledCase], count: int) -> dict[str, Tensor] | None:
    """Bool (labels,) by case name: labels annotated in the case, and the background; None if all were in all."""
    if all(case.known is None for case in cases):
        return None
    return {case.name: torch.tensor([case.known is None or i == 0 or i in case.known for i in range(count)]) for case in cases}


def _has_labels(case: LabelledCase) -> bool:
    return any(len(places) for places in case.locations.values())


def _empty_chance(empty: int, cases: int, plan: Plan) -> float | None:
    """The chance that a patch that is not centred on a label is of a case without one; None for that of a uniform draw."""
    share = plan.training.empty_share
    if share is None or empty in (0, cases):
        return None
    return share and share / (1 - plan.training.foreground_share)


def _locations(case: LabelledCase, group: Sequence[int]) -> tuple[Integers, ...]:
    return tuple(case.locations[i] for i in group if len(case.locations.get(i, ())))


def _draw_labelled(rng: np.random.Generator, cases_with: Sequence[Sequence[CaseWithLabels]]) -> tuple[LabelledCase, Offset]:
    group = cases_with[int(rng.integers(len(cases_with)))]
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
