"""The change of a case's Dice by removing components or filling holes: counted once, then computed for every candidate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.evaluation.metrics import NOTHING, count
from nnseg.evaluation.pairs import FilePair, read_pair
from nnseg.inference.postprocess import (
    Boxed,
    Boxes,
    Mask,
    components,
    find_holes,
    flat_axes,
    mask_of,
    postprocess,
    removed_components,
)

Steps = tuple[PostprocessingStep, ...]
Numbers = npt.NDArray[Any]


ACTIONS: tuple[Literal["remove", "fill"], ...] = ("remove", "fill")
"""In the order in which they are tried on a group of labels: remove components, fill holes."""


@dataclass(frozen=True, kw_only=True)
class LabelGroup:
    """Labels whose voxels are postprocessed as one mask.

    Args:
        labels: their values.
        fill: value that holes are filled with.
    """

    labels: tuple[int, ...]
    fill: int


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """What is tried in one reading of a case. The groups are independent: changing one does not affect the Dice of another.

    Args:
        action: remove components, or fill holes.
        groups: that it is tried on, each by itself.
    """

    action: Literal["remove", "fill"]
    groups: tuple[LabelGroup, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCounts:
    """Voxels of one case, one number for each scored name; all 0 where the name is not annotated.

    Args:
        tp: in reference and prediction.
        predicted: in the prediction.
        reference: in the reference.
    """

    tp: Numbers
    predicted: Numbers
    reference: Numbers

    def dice(self) -> Numbers:
        """Dice of each name; NaN where it is undefined."""
        both = self.predicted + self.reference
        return np.where(both > 0, 2 * self.tp / np.maximum(both, 1), np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComponentCounts:
    """Voxels that a group of labels would lose: a row for each size of component; or gain by filling holes: one row, below 0.

    Args:
        sizes: voxels of the components, distinct.
        names: indices of the scored names that cover any of the group's labels.
        tp, predicted: (sizes, names) voxels, as in `LabelCounts`.
        smallest_mm3: volume of the reference's smallest component; NaN if it has none.
    """

    sizes: Numbers
    names: Numbers
    tp: Numbers
    predicted: Numbers
    smallest_mm3: float = np.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class PostprocessedCase:
    """One case after some postprocessing, and what a further step could change.

    Args:
        counts: of the scored names.
        components: of each group of the further step.
        voxel_mm3: volume of a voxel.
    """

    counts: LabelCounts
    components: tuple[ComponentCounts, ...]
    voxel_mm3: float

    def dice_change(self, number: int, step: PostprocessingStep) -> Numbers:
        """The change of Dice by a step, for each scored name, as by `dice_difference`.

        Args:
            number: of the group that the step changes.
            step: of that group.
        """
        found = self.components[number]
        rows = slice(None) if step.action == "holes" else removed_components(found.sizes, step, self.voxel_mm3)
        tp, predicted = self.counts.tp.copy(), self.counts.predicted.copy()
        tp[found.names] -= found.tp[rows].sum(0)
        predicted[found.names] -= found.predicted[rows].sum(0)
        after = LabelCounts(tp=tp, predicted=predicted, reference=self.counts.reference)
        return dice_difference(self.counts.dice(), after.dice())


def dice_difference(before: Numbers, after: Numbers) -> Numbers:
    """Differences of Dice; NaN where it is undefined before and after.

    Undefined on one side counts as 1, since nothing is there and nothing is predicted: removing a false positive is a gain.
    """
    both = np.isnan(before) & np.isnan(after)
    return np.where(both, np.nan, np.nan_to_num(after, nan=1.0) - np.nan_to_num(before, nan=1.0))


def search_steps(labels: Labels) -> tuple[SearchStep, ...]:
    """What is tried, in this order, each step on the result of those accepted before.

    The whole foreground first, then labels or regions, as in nnU-Net; labels in one step, because they do not overlap.
    Source: nnU-Net's postprocessing/remove_connected_components.py, which tries to keep the largest component only.
    """
    values = labels.values[1:]
    single: list[tuple[LabelGroup, ...]]
    if labels.regions:
        single = [(LabelGroup(labels=r.values, fill=r.paint if r.paint in r.values else r.values[0]),) for r in labels.regions]
    else:
        single = [tuple(LabelGroup(labels=(value,), fill=value) for value in values)]
    foreground = SearchStep(action="remove", groups=(LabelGroup(labels=values, fill=values[0]),))
    first = (foreground,) if len(labels.foreground) > 1 else ()
    return (*first, *(SearchStep(action=action, groups=groups) for groups in single for action in ACTIONS))


@dataclass(frozen=True, kw_only=True)
class CaseRequest:
    """A held-out case to measure.

    Args:
        pair: its prediction and reference.
        postprocessed: sequences of steps, after each of which it is measured.
        search: step to try further; None for none.
    """

    pair: FilePair
    postprocessed: frozenset[Steps]
    search: SearchStep | None


def measure_case(request: CaseRequest, *, labels: Labels) -> dict[Steps, PostprocessedCase]:
    """The case after each of the requested sequences of steps.

    Raises:
        EvaluationError: prediction and reference cannot be compared.
    """
    prediction, reference = read_pair(request.pair, labels)
    voxel_mm3 = 1000 * prediction.grid.voxel_ml
    found = {}
    for steps in request.postprocessed:
        postprocessed = postprocess(prediction.labels, steps, labels, voxel_mm3=voxel_mm3)
        counts = count(postprocessed, reference.labels, labels, annotated=request.pair.annotated).values()
        tp = np.array([c.tp for c in counts])
        case = _CaseMeasurement(
            predicted=postprocessed,
            reference=reference.labels,
            labels=labels,
            scored=_members(labels) & np.array([c != NOTHING for c in counts])[:, None],
            voxel_mm3=voxel_mm3,
        )
        found[steps] = PostprocessedCase(
            counts=LabelCounts(tp=tp, predicted=tp + [c.fp for c in counts], reference=tp + [c.fn for c in counts]),
            components=case.components(request.search),
            voxel_mm3=voxel_mm3,
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _CaseMeasurement:
    """A case while it is measured.

    Args:
        predicted, reference: (Z, Y, X), stored values.
        labels: what they mean.
        scored: (names, labels), True where the name is annotated in this case and covers the label with that index.
        voxel_mm3: volume of a voxel.
    """

    predicted: Integers
    reference: Integers
    labels: Labels
    scored: Mask
    voxel_mm3: float

    def components(self, search: SearchStep | None) -> tuple[ComponentCounts, ...]:
        """Those of each group of a step."""
        if search is None:
            return ()
        values = [value for group in search.groups for value in group.labels]
        predicted, reference = Boxes(self.predicted, values), Boxes(self.reference, values)
        if search.action == "fill":
            return tuple(self._holes(group, predicted.around(group.labels)) for group in search.groups)
        return tuple(self._removable(g, predicted.around(g.labels), reference.around(g.labels)) for g in search.groups)

    def _removable(self, group: LabelGroup, box: Boxed | None, reference_box: Boxed | None) -> ComponentCounts:
        """The components of a group's mask, given the boxes around it in prediction and reference."""
        smallest_mm3 = np.nan
        if reference_box:
            sizes = components(mask_of(self.reference[reference_box], group.labels)).sizes[1:]
            smallest_mm3 = float(sizes.min()) * self.voxel_mm3 if sizes.size else np.nan
        if box is None:
            return self._count(group, np.zeros(0, int), np.zeros(0, int), np.zeros((2, 0), int), smallest_mm3)
        found = components(mask_of(self.predicted[box], group.labels))
        inside = found.numbers > 0
        sizes, row_of = np.unique(found.sizes[1:], return_inverse=True)
        voxels = np.stack([self.predicted[box][inside], self.reference[box][inside]])
        return self._count(group, sizes, row_of[found.numbers[inside] - 1], voxels, smallest_mm3)

    def _holes(self, group: LabelGroup, box: Boxed | None) -> ComponentCounts:
        """The holes in a group's mask as one row, with counts below 0 because they would be added."""
        if box is None:
            return self._count(group, np.zeros(0, int), np.zeros(0, int), np.zeros((2, 0), int))
        part = self.predicted[box]
        holes = find_holes(mask_of(part, group.labels), flat=flat_axes(self.predicted)) & (part == self.labels.values[0])
        voxels = np.stack([np.full(np.count_nonzero(holes), group.fill), self.reference[box][holes]])
        filled = self._count(group, np.zeros(1, int), np.zeros(voxels.shape[1], int), voxels)
        return replace(filled, tp=-filled.tp, predicted=-filled.predicted)

    def _count(
        self, group: LabelGroup, sizes: Numbers, rows: Numbers, voxels: Numbers, smallest_mm3: float = np.nan
    ) -> ComponentCounts:
        """Counts of voxels by row.

        Args:
            group: that they belong to.
            sizes: one for each row.
            rows: of each voxel.
            voxels: (2, n) predicted and reference values; those with the ignore value are not counted.
            smallest_mm3: passed on.
        """
        own, values = np.unique(self.labels.encode(np.array(group.labels))), len(self.labels.values)
        predicted, truth = np.searchsorted(own, self.labels.encode(voxels[0])), self.labels.encode(voxels[1])
        keys = (rows * len(own) + predicted) * values + truth
        joint = np.bincount(keys[truth >= 0], minlength=len(sizes) * len(own) * values).reshape(len(sizes), len(own), values)
        names = np.flatnonzero(self.scored[:, own].any(1))
        covers, member = self.scored[names][:, own].astype(int), self.scored[names].astype(int)
        return ComponentCounts(
            sizes=sizes,
            names=names,
            tp=np.einsum("rpk,kp->rk", joint @ member.T, covers),
            predicted=joint.sum(2) @ covers.T,
            smallest_mm3=smallest_mm3,
        )


def _members(labels: Labels) -> Mask:
    """(names, labels): True where the scored name covers the label with that index."""
    return labels.members()[[labels.heads.index(name) for name in labels.foreground]]
