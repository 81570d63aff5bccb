"""Scores of predicted label maps against their references.

"The mean Dice" of a test set is at least three numbers, which differ by up to 20 points on the same files, so all three are always
given, under these names. A *mask* is one label of one case; it is *undefined*, and counts nowhere, where neither the reference nor
the prediction shows the label, or where nobody annotated it.

========== ========================================================== ======================================================
name       per label                                                  mean
========== ========================================================== ======================================================
per_mask   mean over the cases whose mask is defined                  mean over all defined masks: every mask weighs the same
per_image  the same as per_mask                                       per case the mean over its labels, then over the cases
pooled     ratio of the voxel counts summed over all cases            mean over the labels: every voxel weighs the same
========== ========================================================== ======================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from nnseg.core.errors import EvaluationError
from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.parallel import each
from nnseg.evaluation.metrics import NOTHING, Counts, count, dice, iou
from nnseg.storage.images import FORMATS, LOSSLESS_PICTURE, TIFF, read_label_map, stem_of, suffix_of

GRID_TOLERANCE = 0.1
"""In voxels: how far apart reference and prediction may lie. Headers of the same grid differ by rounding."""

PerLabel = dict[str, float | None]


class Noun(BaseModel):
    """A part of `Scores`: immutable, and strict about its JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelScore(Counts):
    """One mask: its voxel counts and what follows from them; None where it is undefined."""

    dice: float | None
    iou: float | None


class CaseScore(Noun):
    """One case: a score per label, and their mean over the defined ones."""

    name: str
    labels: dict[str, LabelScore]
    mean_dice: float | None
    mean_iou: float | None


class Failure(Noun):
    """A case without a score, and why."""

    name: str
    reason: str


class Mean(Noun):
    """One metric averaged: over everything, and per label; None where nothing is defined."""

    mean: float | None
    labels: PerLabel


class Average(Noun):
    """One way of averaging.

    Args:
        dice, iou: the averaged metrics.
        n: how many values the mean is taken over: masks, cases or labels.
        n_undefined: how many were left out because neither side shows anything, or nobody annotated it.
    """

    dice: Mean
    iou: Mean
    n: int
    n_undefined: int


class Averages(Noun):
    """The three declared averages; the module's docstring defines them."""

    per_mask: Average
    per_image: Average
    pooled: Average


class Scores(Noun):
    """What a set of predictions is worth.

    Args:
        labels: the scored names, in order.
        cases: by name.
        failed: cases that could not be scored; they count in no average.
        averages: of all ``cases``.
    """

    labels: tuple[str, ...]
    cases: tuple[CaseScore, ...]
    failed: tuple[Failure, ...] = ()
    averages: Averages


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A predicted label map and its reference, on disk.

    Args:
        annotated: names of the labels that were annotated in the reference; None for all.
    """

    name: str
    prediction: Path
    reference: Path
    annotated: tuple[str, ...] | None = None


def evaluate_folders(predictions: Path, references: Path, labels: Labels | None = None, *, workers: int = 1) -> Scores:
    """Scores of all label maps of one folder against those of another, paired by file name without suffix.

    Args:
        predictions: folder of predicted label maps.
        references: folder of reference label maps.
        labels: what the values mean; read off the references if None.
        workers: processes; the scores do not depend on it.

    Raises:
        EvaluationError: no name is in both folders, or the references show nothing but background.
    """
    predicted, referenced = _label_maps(predictions), _label_maps(references)
    failed = [Failure(name=n, reason=f"no reference for it in {references}") for n in sorted(predicted.keys() - referenced.keys())]
    failed += [
        Failure(name=n, reason=f"no prediction for it in {predictions}") for n in sorted(referenced.keys() - predicted.keys())
    ]
    names = sorted(predicted.keys() & referenced.keys())
    if not names:
        raise EvaluationError(_nothing_to_pair(predictions, predicted, references, referenced))
    pairs = [Pair(name=n, prediction=predicted[n], reference=referenced[n]) for n in names]
    return evaluate(pairs, labels or _read_off([p.reference for p in pairs], workers), failed=failed, workers=workers)


def evaluate(pairs: Sequence[Pair], labels: Labels, *, failed: Sequence[Failure] = (), workers: int = 1) -> Scores:
    """Scores of the given pairs; a pair that cannot be compared fails alone.

    Args:
        pairs: what to compare.
        labels: what the values mean.
        failed: cases known to have failed before, to be listed with those that fail here.
        workers: processes; the scores do not depend on it.
    """
    outcomes = list(each(partial(_score_pair, labels=labels), pairs, workers=workers, label="evaluate"))
    reasons = [Failure(name=o.item.name, reason=o.reason) for o in outcomes if o.reason is not None]
    return summarize([o.result for o in outcomes if o.result is not None], labels, failed=[*failed, *reasons])


def score(
    name: str, prediction: LabelMap, reference: LabelMap, labels: Labels, *, annotated: Collection[str] | None = None
) -> CaseScore:
    """The score of one case.

    Args:
        name: the case's.
        prediction, reference: on the same grid.
        labels: what the values mean.
        annotated: names of the labels that were annotated in the reference; None for all.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    _check(prediction, reference, labels)
    return case_score(name, count(prediction.labels, reference.labels, labels, annotated=annotated))


def read_pair(pair: Pair, labels: Labels) -> tuple[LabelMap, LabelMap]:
    """The prediction and the reference of a pair, which can be compared.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    prediction, like = read_label_map(pair.prediction), None
    if suffix_of(pair.prediction) in (LOSSLESS_PICTURE, *TIFF):  # never turned on reading, so a bare reference may borrow its grid
        like = Source(files=(pair.prediction,), grid=prediction.grid)
    reference = read_label_map(pair.reference, like=like)
    _check(prediction, reference, labels)
    return prediction, reference


def case_score(name: str, counts: Mapping[str, Counts]) -> CaseScore:
    """The score of one case from its counts per label."""
    labels = {label: LabelScore(**dict(c), dice=dice(c), iou=iou(c)) for label, c in counts.items()}
    dices, ious = [s.dice for s in labels.values()], [s.iou for s in labels.values()]
    return CaseScore(name=name, labels=labels, mean_dice=_mean(dices), mean_iou=_mean(ious))


def summarize(cases: Iterable[CaseScore], labels: Labels, *, failed: Iterable[Failure] = ()) -> Scores:
    """The scores of a set of cases, with the three averages."""
    ordered, names = tuple(sorted(cases, key=lambda c: c.name)), labels.foreground
    masks = [case.labels[name] for case in ordered for name in names]
    columns = {name: [case.labels[name] for case in ordered] for name in names}
    by_label = (
        {n: _mean([m.dice for m in c]) for n, c in columns.items()},
        {n: _mean([m.iou for m in c]) for n, c in columns.items()},
    )
    sums = {name: sum(column, NOTHING) for name, column in columns.items()}
    pooled = {n: dice(c) for n, c in sums.items()}, {n: iou(c) for n, c in sums.items()}
    averages = Averages(
        per_mask=_average([m.dice for m in masks], [m.iou for m in masks], by_label),
        per_image=_average([c.mean_dice for c in ordered], [c.mean_iou for c in ordered], by_label),
        pooled=_average(list(pooled[0].values()), list(pooled[1].values()), pooled),
    )
    return Scores(labels=names, cases=ordered, failed=tuple(sorted(failed, key=lambda f: f.name)), averages=averages)


def _average(dices: Sequence[float | None], ious: Sequence[float | None], by_label: tuple[PerLabel, PerLabel]) -> Average:
    undefined = sum(d is None for d in dices)
    return Average(
        dice=Mean(mean=_mean(dices), labels=by_label[0]),
        iou=Mean(mean=_mean(ious), labels=by_label[1]),
        n=len(dices) - undefined,
        n_undefined=undefined,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _score_pair(pair: Pair, *, labels: Labels) -> CaseScore:
    prediction, reference = read_pair(pair, labels)
    return case_score(pair.name, count(prediction.labels, reference.labels, labels, annotated=pair.annotated))


def _check(prediction: LabelMap, reference: LabelMap, labels: Labels) -> None:
    _check_grids(prediction, reference)
    for side, label_map in (("reference", reference), ("prediction", prediction)):
        unknown = labels.undeclared(label_map.labels)
        if unknown:
            declared = ", ".join(map(str, labels.values))
            raise EvaluationError(f"{side} has values {unknown}, the labels are {declared}; declare them or fix the file")


def _check_grids(prediction: LabelMap, reference: LabelMap) -> None:
    mine, given = prediction.grid, reference.grid
    if mine.shape != given.shape:
        raise EvaluationError(f"the prediction has {_voxels(mine.shape)} voxels (z, y, x), the reference {_voxels(given.shape)}")
    if not given.matches(mine, GRID_TOLERANCE):
        gap = given.largest_gap(mine)
        raise EvaluationError(f"the grids of prediction and reference lie up to {gap:.3g} mm apart; put both on the scan's grid")


def _voxels(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by case name; hidden files are leftovers of interrupted writing."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is not a folder; give the folder that holds the label maps")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if suffix_of(path) not in FORMATS or path.name.startswith("."):
            continue
        name = stem_of(path)
        other = found.setdefault(name, path)
        if other != path:
            raise EvaluationError(f"{other.name} and {path.name} in {folder} are both called {name}; remove one")
    return found


def _nothing_to_pair(predictions: Path, predicted: Mapping[str, Path], references: Path, referenced: Mapping[str, Path]) -> str:
    def example(found: Mapping[str, Path]) -> str:
        return f"{len(found)} label maps" + (f", the first is {min(found)}" if found else "")

    return f"no case is in both {predictions} ({example(predicted)}) and {references} ({example(referenced)}); names must be equal"


def _read_off(references: Sequence[Path], workers: int) -> Labels:
    """Labels named after the values that the references hold; 0 is the background. Unreadable files fail later, by name."""
    outcomes = each(_values, references, workers=workers, label="read labels")
    values = sorted(set().union(*(o.result for o in outcomes if o.result is not None)) - {0})
    if not values:
        raise EvaluationError(f"no reference in {references[0].parent} shows anything but background (0)")
    return Labels(names=("background", *(f"label {v}" for v in values)), values=(0, *values))


def _values(path: Path) -> set[int]:
    return {int(v) for v in np.unique(read_label_map(path).labels)}
