"""Scores of predictions of held-out cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset
from nnseg.core.scores import Failure, Scores
from nnseg.crossval.lesions import measure_detection
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.pairs import FilePair
from nnseg.storage.files import file_hash, write_json
from nnseg.storage.object_files import file_beside
from nnseg.storage.predictions import INTERIOR, OBJECTS, ScanRecord, held_out_predictions
from nnseg.storage.run import Folds, Run

log = logging.getLogger(__name__)


def score(run: Run, folds: Folds, *, workers: int = 0) -> Scores | None:
    """The scores of the run's held-out predictions, written to ``scores.json``; with several plans also one for each of them.

    Scores by group that belong to other scores are removed.

    Args:
        run: with the predictions, and the dataset with the references.
        folds: whose held-out cases are scored.
        workers: processes; the scores do not depend on it.

    Returns:
        None if nothing was held out.
    """
    file = Run.scores.path(run)
    before = file_hash(file) if file.is_file() else ""
    dataset, predictions = run.dataset, run.predictions_folder
    of_plans = {folder.path: _score_folder(folder.path, dataset, folds, workers) for folder in run.plans}
    if predictions not in of_plans:  # an ensemble
        scores = _score_folder(predictions, dataset, folds, workers, out=run.path)
    elif (scores := of_plans[predictions]) and predictions != run.path:
        run.scores = scores
    elif not scores:
        run.scores = None
    if Run.groups.path(run).exists() and (file_hash(file) if file.is_file() else "") != before:
        run.groups = None
        log.info("%s was of other scores, and is removed; nnseg evaluate %s --groups makes it anew", Run.groups.path(run), run.path)
    return scores


def pair_files(cases: Mapping[str, Case], folder: Path, records: Mapping[str, ScanRecord]) -> list[FilePair]:
    """Prediction and reference of each case that was predicted and has a reference.

    Args:
        cases: of the dataset, by name.
        folder: that the records' files are relative to.
        records: of the predictions, by name.
    """
    return [
        FilePair(
            name=name,
            prediction=folder / record.file,
            reference=case.labels,
            annotated=case.annotated,
            objects=_objects_of(folder, record),
        )
        for name, record in records.items()
        if record.status == "done" and (case := cases.get(name)) and case.labels is not None
    ]


def _objects_of(folder: Path, record: ScanRecord) -> Path | None:
    file = folder / record.file
    told_apart = file_beside(file, INTERIOR).name in record.more and objects_file(file).is_file()
    return objects_file(file) if told_apart else None


def objects_file(label_map: Path) -> Path:
    """The file with the numbers of the objects in a held-out prediction, in the folder "objects" beside "predictions"."""
    file = file_beside(label_map, OBJECTS)
    return file.parent.with_name("objects") / file.name


def _score_folder(folder: Path, dataset: Dataset, folds: Folds, workers: int, out: Path | None = None) -> Scores | None:
    """Score the predictions of a folder, and write the scores there or to ``out``."""
    records, file = held_out_predictions(folder, folds), (out or folder) / "scores.json"
    pairs = pair_files({case.name: case for case in dataset.cases}, folder, records)
    if not pairs:
        file.unlink(missing_ok=True)
        return None
    paired = {pair.name for pair in pairs}
    failed = [Failure(name=n, reason=r.reason or "its label map is gone") for n, r in records.items() if n not in paired]
    measures = Measures(instances=dataset.instances)
    scores = evaluate(pairs, dataset.labels, failed=failed, measures=measures, workers=workers, stop_for_faults=True)
    detection = measure_detection(pairs, records, dataset.labels, dataset.lesions, workers=workers)
    scores = scores.model_copy(update={"detection": detection})
    write_json(file, scores)
    return scores
