"""What removing components and filling holes would do to a case's Dice: measured once, then asked for every candidate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.evaluation.evaluate import FilePair, read_pair
from nnseg.evaluation.metrics import NOTHING, count
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

Mendings = tuple[PostprocessingStep, ...]
Numbers = npt.NDArray[Any]


KINDS: tuple[Literal["remove", "fill"], ...] = ("remove", "fill")
"""In the order in which they are tried on an object."""


@dataclass(frozen=True, kw_only=True)
class LabelGroup:
    """Labels that are mended as one.

    Args:
        labels: their values.
        fill: what its holes are filled with.
    """

    labels: tuple[int, ...]
    fill: int


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What is measured in one reading of a case: mending one of the objects changes no Dice that mending another depends on.

    Args:
        kind: components can be removed, or holes filled.
        objects: each for itself.
    """

    kind: Literal["remove", "fill"]
    objects: tuple[LabelGroup, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCounts:
    """Voxels of one case, one number a name; all 0 where nobody annotated it.

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
    """What can be removed from an object, one row a size, or filled in, one row; and what Dice of which names would lose by it.

    Args:
        sizes: voxels of the components, distinct.
        names: indices of the names that cover any of the object's labels.
        tp, predicted: (sizes, names) voxels; below 0 if filled in.
        smallest_mm3: of the reference's objects; NaN if it has none.
    """

    sizes: Numbers
    names: Numbers
    tp: Numbers
    predicted: Numbers
    smallest_mm3: float = np.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class PostprocessedCase:
    """One case, mended in some way, and what a step could do next.

    Args:
        tally: of the names that are scored.
        pieces: of each object of the step.
        voxel_mm3: volume of a voxel.
    """

    tally: LabelCounts
    pieces: tuple[ComponentCounts, ...]
    voxel_mm3: float

    def change(self, number: int, mending: PostprocessingStep) -> Numbers:
        """How Dice would change, a number a name; NaN where it is undefined before and after.

        Nothing there and nothing predicted counts as 1, so that removing a false alarm is a gain.

        Args:
            number: of the object in the step.
            mending: of that object.
        """
        pieces = self.pieces[number]
        rows = slice(None) if mending.action == "holes" else removed_components(pieces.sizes, mending, self.voxel_mm3)
        tp, predicted = self.tally.tp.copy(), self.tally.predicted.copy()
        tp[pieces.names] -= pieces.tp[rows].sum(0)
        predicted[pieces.names] -= pieces.predicted[rows].sum(0)
        return rise(self.tally.dice(), LabelCounts(tp=tp, predicted=predicted, reference=self.tally.reference).dice())


def rise(before: Numbers, after: Numbers) -> Numbers:
    """Differences of Dice. Undefined counts as 1, for nothing was there and nothing predicted; NaN if so before and after."""
    both = np.isnan(before) & np.isnan(after)
    return np.where(both, np.nan, np.nan_to_num(after, nan=1.0) - np.nan_to_num(before, nan=1.0))


def steps(labels: Labels) -> tuple[NextStep, ...]:
    """What is tried, in this order, each on what was accepted before.

    All of the foreground first, then labels or regions, as nnU-Net does it; labels together, because they do not overlap.
    Source: nnU-Net's postprocessing/remove_connected_components.py, which knows the largest component only.
    """
    values = labels.values[1:]
    foreground = NextStep(kind="remove", objects=(LabelGroup(labels=values, fill=values[0]),))
    apart: list[tuple[LabelGroup, ...]]
    if labels.regions:
        apart = [(LabelGroup(labels=r.values, fill=r.paint if r.paint in r.values else r.values[0]),) for r in labels.regions]
    else:
        apart = [tuple(LabelGroup(labels=(value,), fill=value) for value in values)]
    first = (foreground,) if len(labels.foreground) > 1 else ()
    return (*first, *(NextStep(kind=kind, objects=some) for some in apart for kind in KINDS))


@dataclass(frozen=True, kw_only=True)
class CaseRequest:
    """A held-out case to measure.

    Args:
        pair: its prediction and reference.
        mended: the ways in which it was mended before.
        step: None if nothing else is to be tried.
    """

    pair: FilePair
    postprocessed: frozenset[Mendings]
    step: NextStep | None


def measure(request: CaseRequest, *, labels: Labels) -> dict[Mendings, PostprocessedCase]:
    """A case measured for each way in which it was mended before.

    Raises:
        EvaluationError: prediction and reference cannot be compared.
    """
    prediction, reference = read_pair(request.pair, labels)
    voxel_mm3 = 1000 * prediction.grid.voxel_ml
    found = {}
    for mendings in request.postprocessed:
        postprocessed = postprocess(prediction.labels, mendings, labels, voxel_mm3=voxel_mm3)
        counts = count(postprocessed, reference.labels, labels, annotated=request.pair.annotated).values()
        tp = np.array([c.tp for c in counts])
        tally = LabelCounts(tp=tp, predicted=tp + [c.fp for c in counts], reference=tp + [c.fn for c in counts])
        scored = _members(labels) & np.array([c != NOTHING for c in counts])[:, None]
        case = _CaseMeasurement(
            predicted=postprocessed, reference=reference.labels, labels=labels, scored=scored, voxel_mm3=voxel_mm3
        )
        found[mendings] = PostprocessedCase(tally=tally, pieces=case.pieces(request.step), voxel_mm3=voxel_mm3)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _CaseMeasurement:
    """A case on its way through `measure`.

    Args:
        predicted, reference: (Z, Y, X), stored values.
        labels: what they mean.
        scored: (names, labels), does the name, if anybody annotated it here, cover the label with that index?
        voxel_mm3: volume of a voxel.
    """

    predicted: Integers
    reference: Integers
    labels: Labels
    scored: Mask
    voxel_mm3: float

    def pieces(self, step: NextStep | None) -> tuple[ComponentCounts, ...]:
        """Those of each object of a step."""
        if step is None:
            return ()
        values = [value for thing in step.objects for value in thing.labels]
        predicted, reference = Boxes(self.predicted, values), Boxes(self.reference, values)
        if step.kind == "fill":
            return tuple(self._holes(thing, predicted.around(thing.labels)) for thing in step.objects)
        return tuple(
            self._components(thing, predicted.around(thing.labels), self._smallest(thing, reference.around(thing.labels)))
            for thing in step.objects
        )

    def _smallest(self, thing: LabelGroup, box: Boxed | None) -> float:
        """Volume of the smallest of the reference's objects; NaN without any."""
        sizes = components(mask_of(self.reference[box], thing.labels)).sizes[1:] if box else np.zeros(0)
        return float(sizes.min()) * self.voxel_mm3 if sizes.size else np.nan

    def _components(self, thing: LabelGroup, box: Boxed | None, smallest_mm3: float) -> ComponentCounts:
        if box is None:
            return self._weighed(thing, np.zeros(0, int), np.zeros(0, int), np.zeros((2, 0), int), smallest_mm3)
        found = components(mask_of(self.predicted[box], thing.labels))
        inside = found.numbers > 0
        sizes, row_of = np.unique(found.sizes[1:], return_inverse=True)
        voxels = np.stack([self.predicted[box][inside], self.reference[box][inside]])
        return self._weighed(thing, sizes, row_of[found.numbers[inside] - 1], voxels, smallest_mm3)

    def _holes(self, thing: LabelGroup, box: Boxed | None) -> ComponentCounts:
        if box is None:
            return self._weighed(thing, np.zeros(0, int), np.zeros(0, int), np.zeros((2, 0), int))
        part = self.predicted[box]
        holes = find_holes(mask_of(part, thing.labels), flat=flat_axes(self.predicted)) & (part == self.labels.values[0])
        voxels = np.stack([np.full(np.count_nonzero(holes), thing.fill), self.reference[box][holes]])
        gained = self._weighed(thing, np.zeros(1, int), np.zeros(voxels.shape[1], int), voxels)
        return replace(gained, tp=-gained.tp, predicted=-gained.predicted)

    def _weighed(
        self, thing: LabelGroup, sizes: Numbers, rows: Numbers, voxels: Numbers, smallest_mm3: float = np.nan
    ) -> ComponentCounts:
        """The pieces from their voxels.

        Args:
            thing: what they are pieces of.
            sizes: one a row.
            rows: of each voxel.
            voxels: (2, n) predicted and reference values; those that the reference ignores weigh nothing.
            smallest_mm3: passed on.
        """
        own, kinds = np.unique(self.labels.encode(np.array(thing.labels))), len(self.labels.values)
        predicted, truth = np.searchsorted(own, self.labels.encode(voxels[0])), self.labels.encode(voxels[1])
        keys = (rows * len(own) + predicted) * kinds + truth
        joint = np.bincount(keys[truth >= 0], minlength=len(sizes) * len(own) * kinds).reshape(len(sizes), len(own), kinds)
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
    """(names, labels): does the scored name cover the label with that index?"""
    return labels.members()[[labels.heads.index(name) for name in labels.foreground]]
