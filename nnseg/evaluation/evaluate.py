"""Scores of predicted label maps against their references, case by case."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nnseg.core.errors import EvaluationError
from nnseg.core.image import LabelMap
from nnseg.core.label_files import LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.core.metrics import METRICS
from nnseg.core.scores import CaseScore, Counts, Failure, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.evaluation.case_score import Measures, label_score, measure_masks
from nnseg.storage.images.formats import FORMATS, LOSSLESS_PICTURE, TIFF, stem_of, suffix_of
from nnseg.storage.images.read import read_label_map
from nnseg.system.parallel import map_items

GRID_TOLERANCE = 0.1
"""Largest distance of the grids of prediction and reference, in voxels, since headers are rounded."""

OVERLAP = Measures(tolerances=())
"""Only Dice, IoU and volumes."""


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """Files of a predicted label map and its reference.

    Args:
        annotated: names of the labels annotated in the reference; None for all.
    """

    name: str
    prediction: Path
    reference: LabelSource
    annotated: tuple[str, ...] | None = None


def evaluate_folders(
    predictions: Path, references: Path, labels: Labels | None = None, *, measures: Measures | None = None, workers: int = 1
) -> Scores:
    """Scores of all label maps of one folder against those of another, paired by file name without suffix.

    Args:
        labels: declares the values; if None, all in the references.
        measures: what to measure besides overlap; distances, if None.
        workers: number of processes, which does not change the scores.

    Raises:
        EvaluationError: no name is in both folders, or the references contain only background.
    """
    pairs, failed = pair_folders(predictions, references)
    labels = labels or find_labels([p.reference for p in pairs], workers)
    return evaluate(pairs, labels, failed=failed, measures=measures, workers=workers)


def pair_folders(predictions: Path, references: Path) -> tuple[list[FilePair], list[Failure]]:
    """Label maps of the same name, and the names in one of the folders only.

    Raises:
        EvaluationError: no name is in both folders.
    """
    predicted, given = _label_maps(predictions), _label_maps(references)
    failed = [Failure(name=n, reason=f"no reference for it in {references}") for n in sorted(predicted.keys() - given.keys())]
    failed += [Failure(name=n, reason=f"no prediction for it in {predictions}") for n in sorted(given.keys() - predicted.keys())]
    names = sorted(predicted.keys() & given.keys())
    if not names:
        found = " and ".join(
            f"{folder} ({len(files)} label maps{f', the first is {min(files)}' if files else ''})"
            for folder, files in ((predictions, predicted), (references, given))
        )
        raise EvaluationError(f"no case is in both {found}; names must be equal")
    return [FilePair(name=n, prediction=predicted[n], reference=given[n]) for n in names], failed


def evaluate(
    pairs: Sequence[FilePair], labels: Labels, *, failed: Sequence[Failure] = (), measures: Measures | None = None, workers: int = 1
) -> Scores:
    """Scores of the given pairs; a pair that cannot be compared fails alone.

    Args:
        failed: cases that failed before, listed with those that fail here.
        measures: what to measure besides overlap; distances, if None.
        workers: number of processes, which does not change the scores.

    Raises:
        EvaluationError: ``measures.instances`` has a name that is no label.
    """
    measures = measures or Measures()
    unknown = set(measures.instances) - set(labels.foreground)
    if unknown:
        raise EvaluationError(f"instances of {min(unknown)} cannot be counted; the labels are {', '.join(labels.foreground)}")
    outcomes = list(map_items(partial(_score_pair, labels=labels, measures=measures), pairs, workers=workers, label="evaluate"))
    reasons = [Failure(name=o.item.name, reason=o.reason) for o in outcomes if o.reason is not None]
    return summarize([o.result for o in outcomes if o.result is not None], labels, failed=[*failed, *reasons])


def score(
    name: str,
    prediction: LabelMap,
    reference: LabelMap,
    labels: Labels,
    *,
    annotated: Collection[str] | None = None,
    measures: Measures = OVERLAP,
) -> CaseScore:
    """The score of one case.

    Args:
        annotated: names of the labels annotated in the reference; None for all.
        measures: what to measure besides overlap and volumes.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    _check(prediction, reference, labels)
    return _case_score(name, measure_masks(prediction, reference, labels, measures, annotated=annotated))


def read_pair(pair: FilePair, labels: Labels) -> tuple[LabelMap, LabelMap]:
    """The prediction and the reference of a pair, with equal grids and declared values.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    prediction, like = read_label_map(pair.prediction, sheared=True), None
    if suffix_of(pair.prediction) in (LOSSLESS_PICTURE, *TIFF):  # not reoriented on reading, so its grid fits
        like = prediction.source
    reference = read_label_map(pair.reference, like=like, sheared=True)
    _check(prediction, reference, labels)
    return prediction, reference


def case_score(name: str, counts: Mapping[str, Counts]) -> CaseScore:
    """The score of one case from voxel counts by label alone."""
    return _case_score(name, {label: label_score(c) for label, c in counts.items()})


def summarize(cases: Iterable[CaseScore], labels: Labels, *, failed: Iterable[Failure] = ()) -> Scores:
    """Scores of a set of cases, with the three averages."""
    ordered, names = tuple(sorted(cases, key=lambda c: c.name)), labels.foreground
    metrics = _measured(ordered)
    return Scores(
        labels=names,
        metrics=metrics,
        cases=ordered,
        failed=tuple(sorted(failed, key=lambda f: f.name)),
        averages=averages(ordered, names, metrics),
    )


def _measured(cases: Sequence[CaseScore]) -> tuple[str, ...]:
    """Metrics that are defined for any mask, in the order of `METRICS`; Dice and IoU always."""
    masks = [mask for case in cases for mask in case.labels.values()]
    tolerances = sorted({key for mask in masks for key in mask.nsd}, key=float)
    names = [name for kind in METRICS for name in ([f"nsd_{t}" for t in tolerances] if kind == "nsd" else [kind])]
    return tuple(n for n in names if n in ("dice", "iou") or any(mask.metric(n) is not None for mask in masks))


def _case_score(name: str, labels: Mapping[str, LabelScore]) -> CaseScore:
    dices, ious = [s.dice for s in labels.values()], [s.iou for s in labels.values()]
    return CaseScore(name=name, labels=dict(labels), mean_dice=_mean(dices), mean_iou=_mean(ious))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _score_pair(pair: FilePair, *, labels: Labels, measures: Measures) -> CaseScore:
    prediction, reference = read_pair(pair, labels)
    return _case_score(pair.name, measure_masks(prediction, reference, labels, measures, annotated=pair.annotated))


def _check(prediction: LabelMap, reference: LabelMap, labels: Labels) -> None:
    _check_grids(prediction, reference)
    for side, label_map in (("reference", reference), ("prediction", prediction)):
        unknown = labels.undeclared(label_map.labels)
        if unknown:
            declared = ", ".join(map(str, labels.values))
            raise EvaluationError(f"{side} has values {unknown}, the labels are {declared}; declare them or fix the file")


def _check_grids(prediction: LabelMap, reference: LabelMap) -> None:
    predicted, given = prediction.grid, reference.grid
    if predicted.shape != given.shape:
        shapes = [" x ".join(map(str, grid.shape)) for grid in (predicted, given)]
        raise EvaluationError(f"the prediction has {shapes[0]} voxels (z, y, x), the reference {shapes[1]}")
    if not given.matches(predicted, GRID_TOLERANCE):
        gap = given.largest_gap(predicted)
        raise EvaluationError(f"the grids of prediction and reference lie up to {gap:.3g} mm apart; put both on the scan's grid")


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by case name; hidden files are remains of interrupted writing."""
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


def find_labels(references: Sequence[LabelSource], workers: int) -> Labels:
    """Labels named after the values in the references; 0 is the background. Unreadable files are reported later, by case.

    Raises:
        EvaluationError: the references contain only background.
    """
    outcomes = map_items(_values, references, workers=workers, label="read labels")
    values = sorted(set().union(*(o.result for o in outcomes if o.result is not None)) - {0})
    if not values:
        raise EvaluationError(f"no reference in {label_paths(references[0])[0].parent} has any label but background (0)")
    return Labels(names=("background", *(f"label {v}" for v in values)), values=(0, *values))


def _values(source: LabelSource) -> set[int]:
    return {int(v) for v in np.unique(read_label_map(source).labels)}
