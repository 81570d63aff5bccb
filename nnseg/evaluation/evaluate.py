"""Scores of predicted label maps against their references, case by case."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from nnseg.core.dataset import counted, listed
from nnseg.core.errors import EvaluationError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.core.metrics import METRICS
from nnseg.core.scores import CaseScore, Counts, Failure, LabelScore, Scores
from nnseg.core.units import LengthUnit, length_name
from nnseg.evaluation.averages import averages
from nnseg.evaluation.case_score import Measures, Objects, label_score, length_unit_of, measure_masks
from nnseg.evaluation.pairs import FilePair, check_pair, read_numbered_pair
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

OVERLAP = Measures(tolerances=())
"""Only Dice, IoU and volumes."""


def evaluate(
    pairs: Sequence[FilePair],
    labels: Labels,
    *,
    failed: Sequence[Failure] = (),
    measures: Measures | None = None,
    notes: Sequence[str] = (),
    workers: int = 0,
    stop_for_faults: bool = False,
) -> Scores:
    """Scores of the given pairs; a pair that cannot be compared fails alone.

    Args:
        failed: cases that failed before, listed with those that fail here.
        measures: what to measure besides overlap; distances, if None.
        notes: of the pairs; those on how they were read are added, and logged.
        workers: number of processes, which does not change the scores.
        stop_for_faults: raise an error for a pair that the disk does not give, of which nothing is known.

    Raises:
        EvaluationError: ``measures.instances`` has a name that is no label, or a pair cannot be read for a fault of the disk.
    """
    measures = measures or Measures()
    unknown = set(measures.instances) - set(labels.foreground)
    if unknown:
        raise EvaluationError(f"instances of {min(unknown)} cannot be counted; the labels are {', '.join(labels.foreground)}")
    outcomes = list(
        map_items(partial(_score_pair, labels=labels, measures=measures), pairs, workers=workers, label="scoring cases")
    )
    if stop_for_faults and (lost := next((o for o in outcomes if o.is_fault), None)):
        raise EvaluationError(f"case {lost.item.name}: {lost.reason}")
    scored = [o.result for o in outcomes if o.result is not None]
    more = [*_describe_units(one for one, _ in scored), *_group_notes(scored)]
    for note in more:
        log.warning(note)
    reasons = [Failure(name=o.item.name, reason=o.reason) for o in outcomes if o.reason is not None]
    scores = summarize([one for one, _ in scored], labels, failed=[*failed, *reasons])
    return scores.model_copy(update={"notes": (*notes, *more)})


def _describe_units(cases: Iterable[CaseScore]) -> Iterator[str]:
    """A line if lengths are measured in several units."""
    units = Counter(case.length_unit for case in cases)
    if len(units) > 1:
        found = ", ".join(f"{counted(n, 'case')} in {length_name(unit)}" for unit, n in units.most_common())
        yield f"lengths are measured in different units, by what the files say ({found}): their means mix them"


def _group_notes(scored: Iterable[tuple[CaseScore, Sequence[str]]]) -> list[str]:
    """A line for each different note, with the cases that it is about."""
    cases: dict[str, list[str]] = {}
    for case, notes in scored:
        for note in dict.fromkeys(notes):  # prediction and reference may have the same
            cases.setdefault(note, []).append(case.name)
    return [f"{listed(names)}: {note}" for note, names in cases.items()]


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
    check_pair(prediction, reference, labels)
    return _score(name, prediction, reference, labels, annotated=annotated, measures=measures)


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


def _case_score(name: str, labels: Mapping[str, LabelScore], length_unit: LengthUnit = "mm") -> CaseScore:
    dices, ious = [s.dice for s in labels.values()], [s.iou for s in labels.values()]
    return CaseScore(name=name, labels=dict(labels), mean_dice=_mean(dices), mean_iou=_mean(ious), length_unit=length_unit)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _score(
    name: str,
    prediction: LabelMap,
    reference: LabelMap,
    labels: Labels,
    *,
    annotated: Collection[str] | None,
    measures: Measures,
    objects: Objects = (None, None),
) -> CaseScore:
    measured = measure_masks(prediction, reference, labels, measures, annotated=annotated, objects=objects)
    return _case_score(name, measured, length_unit_of(prediction, reference))


def _score_pair(pair: FilePair, *, labels: Labels, measures: Measures) -> tuple[CaseScore, list[str]]:
    """The score of a pair, and notes on how its files were read, without their names."""
    read = read_numbered_pair(pair, labels)
    sides = (("prediction", read.prediction), ("reference", read.reference))
    notes = [f"{side} {note.partition(': ')[2]}" for side, label_map in sides for note in label_map.notes]
    scored = _score(
        pair.name, read.prediction, read.reference, labels, annotated=pair.annotated, measures=measures, objects=read.objects
    )
    return scored, notes
