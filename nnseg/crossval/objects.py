"""The rules by which a model tells objects apart: chosen on predictions of held-out cases, to which they are applied as well."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Case, counted
from nnseg.core.decisions import ObjectCandidate, ObjectRule, ObjectRules
from nnseg.core.errors import RunError
from nnseg.core.frozen import digest
from nnseg.core.image import LabelMap
from nnseg.core.label_files import LabelFiles, all_label_files
from nnseg.core.labels import Labels
from nnseg.crossval.score import objects_file
from nnseg.evaluation.case_score import match_lesions
from nnseg.evaluation.pairs import FilePair, read_numbered_pair
from nnseg.inference.instances import number_objects
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.images.read import read_label_map
from nnseg.storage.images.write import write_label_map
from nnseg.storage.object_files import file_beside
from nnseg.storage.predictions import INTERIOR, held_out_predictions
from nnseg.storage.run import Folds, Run
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

RULE = 1
"""Raised when the choice changes, so that runs decide anew."""

SEEDS = (0.5, 0.3, 0.7, 0.8, 0.9)
"""Shares of the interior that are tried; the first is used where no other is better."""

QUANTILES = (0.01, 0.05)
"""Of the volumes of the references' objects; half of each is tried as the smallest volume of an object."""

LEAST_CASES = 3
"""Held-out cases below which nothing is chosen."""


@dataclass(frozen=True, kw_only=True)
class HeldOutObjects:
    """Files of a held-out case in which objects are to be told apart.

    Args:
        prediction: its label map as the networks gave it.
        interior: level of the interior, on the same grid.
        reference: label map that numbers the objects.
        out: where the numbers of predicted objects go.
    """

    name: str
    prediction: Path
    interior: Path
    reference: LabelFiles
    out: Path


def choose_objects(run: Run, folds: Folds, *, workers: int = 0) -> ObjectRules | None:
    """The rules by which objects are told apart, chosen on the run's held-out predictions; written to ``objects.json``.

    The numbers of the objects in all held-out predictions are written beside them, for the scores. A file that was decided on the
    same predictions and references stays, edited or not.

    Args:
        run: with the held-out predictions, and the dataset with their references.
        folds: whose held-out cases are used.
        workers: processes; the choice does not depend on it.

    Returns:
        None if no label has objects.
    """
    names = tuple(dict.fromkeys(name for folder in run.plans for name in folder.plan.labels.borders.values()))
    lesions = run.dataset.lesions
    if not names and not lesions:
        run.objects = None
        return None
    folders = dict.fromkeys([*(folder.path for folder in run.plans), run.predictions_folder])
    found = {path: _held_out(path, run.cases, folds) for path in folders}
    cases, labels = found[run.predictions_folder], run.dataset.labels
    seen = [[content_hash((c.prediction, c.interior, *all_label_files(c.reference)))] for c in cases]
    key = digest([RULE, names, seen, *([lesions] if lesions else [])])
    if (rules := run.objects) is None or rules.key != key:
        rules = select_rules(cases, labels, names, workers=workers) if names else ObjectRules(rules={})
        rules = rules.model_copy(update={"thresholds": dict.fromkeys(lesions), "key": key})
        run.objects = rules
        if names:
            log.info("objects: %s", rules.reason)
    write = partial(_write_objects, labels=labels, rules=rules.rules)
    for outcome in map_items(write, [c for of in found.values() for c in of], workers=workers, label="telling objects apart"):
        if outcome.is_fault:
            raise RunError(f"case {outcome.item.name}: {outcome.reason}")
        if outcome.reason:
            log.warning("case %s: its objects are not told apart: %s", outcome.item.name, outcome.reason)
    return rules


def select_rules(cases: Sequence[HeldOutObjects], labels: Labels, names: Sequence[str], *, workers: int = 0) -> ObjectRules:
    """The rules with the highest mean average precision of the objects in some cases.

    Args:
        cases: on which the networks were not trained.
        labels: of the label maps.
        names: of the labels whose objects are told apart.
        workers: processes; the choice does not depend on it.
    """
    if len(cases) < LEAST_CASES:
        reason = f"{counted(len(cases), 'held-out case')} cannot tell which rule is best; {LEAST_CASES} are needed"
        return ObjectRules(rules={name: ObjectRule() for name in names}, cases=len(cases), reason=reason)
    first = {name: [ObjectRule(seed=seed) for seed in SEEDS] for name in names}
    by_seed, sizes = _measure(cases, labels, first, workers)
    best = {name: _best(found) for name, found in by_seed.items()}
    smallest = {name: np.quantile(of, QUANTILES) / 2 if of else () for name, of in sizes.items()}
    second = {
        name: [best[name].rule.model_copy(update={"smallest_mm3": float(f"{volume:.3g}")}) for volume in smallest[name]]
        for name in names
    }
    by_size, _ = _measure(cases, labels, second, workers)
    candidates = {
        name: tuple(sorted((*by_seed[name], *by_size[name]), key=lambda c: -c.average_precision)) for name in names
    }  # a stable order: the first of equals is the simplest
    told = ", ".join(f"{name} {found[0].average_precision:.3f}" for name, found in candidates.items())
    reason = f"highest mean average precision on {counted(len(cases), 'held-out case')} ({told})"
    return ObjectRules(
        rules={name: found[0].rule for name, found in candidates.items()}, cases=len(cases), reason=reason, candidates=candidates
    )


def _best(candidates: Sequence[ObjectCandidate]) -> ObjectCandidate:
    return max(candidates, key=lambda candidate: candidate.average_precision)


Rules = Mapping[str, Sequence[ObjectRule]]


def _measure(
    cases: Sequence[HeldOutObjects], labels: Labels, rules: Rules, workers: int
) -> tuple[dict[str, list[ObjectCandidate]], dict[str, list[float]]]:
    """Average precision of each rule by label, over all cases, and the volumes of the references' objects in mm3."""
    counts = {name: np.zeros((len(of), 2, 5)) for name, of in rules.items()}
    sizes: dict[str, list[float]] = {name: [] for name in rules}
    for outcome in map_items(partial(_measure_case, labels=labels, rules=rules), cases, workers=workers, label="choosing objects"):
        if outcome.is_fault:
            raise RunError(f"case {outcome.item.name}: {outcome.reason}")
        if outcome.result is None:
            log.warning("case %s is not used to choose how objects are told apart: %s", outcome.item.name, outcome.reason)
            continue
        for name, (found, volumes) in outcome.result.items():
            counts[name] += found
            sizes[name] += volumes
    measured = {
        name: [
            ObjectCandidate(rule=rule, average_precision=float(np.mean(matched / np.maximum(total, 1))))
            for rule, (matched, total) in zip(rules[name], of, strict=True)
        ]
        for name, of in counts.items()
    }
    return measured, sizes


def _measure_case(case: HeldOutObjects, *, labels: Labels, rules: Rules) -> dict[str, tuple[npt.NDArray[Any], list[float]]]:
    """For each label the matched pairs and all objects (rules, 2, thresholds) of a case, and the volumes of the reference's."""
    pair = read_numbered_pair(FilePair(name=case.name, prediction=case.prediction, reference=case.reference), labels)
    predicted, reference, given = pair.prediction, pair.reference, pair.objects[1]
    assert given is not None
    interior, voxel_mm3 = read_label_map(case.interior, sheared=True).labels, 1000 * predicted.grid.voxel_ml
    found = {}
    for name, of in rules.items():
        parts, labelled = [], reference.labels == labels.by_name[name]
        for rule in of:
            numbers = number_objects(predicted.labels, interior, labels, {name: rule}, voxel_mm3=voxel_mm3)
            objects = match_lesions(numbers > 0, labelled, (numbers, given))
            total = objects.predicted + objects.reference
            parts.append([objects.matched_iou, [total - n for n in objects.matched_iou]])
        sizes = np.unique(given[labelled & (given != 0)], return_counts=True)[1] * voxel_mm3
        found[name] = (np.array(parts, float).reshape(len(of), 2, -1), sizes.tolist())
    return found


def _held_out(folder: Path, cases: Mapping[str, Case], folds: Folds) -> list[HeldOutObjects]:
    """The held-out predictions of a plan or ensemble with the level of interiors, and references that number objects."""
    found = []
    for name, record in held_out_predictions(folder, folds).items():
        given, file = cases[name].labels if name in cases else None, folder / record.file
        interior = file_beside(file, INTERIOR)
        if record.status == "done" and interior.name in record.more and isinstance(given, LabelFiles):
            found.append(HeldOutObjects(name=name, prediction=file, interior=interior, reference=given, out=objects_file(file)))
    return [case for case in found if case.reference.has_numbers]


def _write_objects(case: HeldOutObjects, *, labels: Labels, rules: Mapping[str, ObjectRule]) -> None:
    predicted, interior = (read_label_map(file, sheared=True) for file in (case.prediction, case.interior))
    voxel_mm3 = 1000 * predicted.grid.voxel_ml
    numbers = number_objects(predicted.labels, interior.labels, labels, rules, voxel_mm3=voxel_mm3)
    assert predicted.source is not None
    write_label_map(LabelMap(labels=numbers, grid=predicted.grid), case.out, like=predicted.source)
