"""Predictions of held-out cases, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, Fold
from nnseg.core.plan import digest
from nnseg.evaluation.evaluate import Failure, Pair, Scores, evaluate
from nnseg.network.bundle import Model
from nnseg.storage.runs import FoldFolder, RunFolder, read_json, write_json
from nnseg.verbs.predict import Job, Written, predict_held_out
from nnseg.verbs.train import read_member

log = logging.getLogger(__name__)


def predict_folds(run: RunFolder, dataset: Dataset, folds: Mapping[int, Fold], *, device: str = "auto") -> tuple[Finding, ...]:
    """Predict what each fold held out, with every plan and with all plans together; returns the cases that failed."""
    cases = {case.name: case for case in dataset.cases}
    problems = []
    for number, fold in folds.items():
        if held_out := tuple(cases[name] for name in fold.held_out):
            written = _predict_fold(run, number, held_out, device)
            problems += [Finding(level="error", case=n, message=w.reason) for n, w in written.items() if w.status == "failed"]
    return tuple(problems)


def score(run: RunFolder, dataset: Dataset, *, workers: int = 1) -> Scores | None:
    """Score all held-out predictions of a run, and write ``scores.json``; with several plans also one for each of them.

    Returns:
        The run's scores; None if nothing was held out.
    """
    plans = run.plans()
    if len(plans) > 1:
        for folder in plans:
            _score_into(folder.path, dataset, workers)
    return _score_into(run.path, dataset, workers)


def prediction_files(place: FoldFolder) -> dict[str, Path]:
    """The label map of each held-out case that was predicted."""
    return {name: place.predictions / w.file for name, w in _record(place).items() if w.status == "done"}


def _predict_fold(run: RunFolder, number: int, held_out: tuple[Case, ...], device: str) -> dict[str, Written]:
    models, jobs = {}, {}
    for folder in run.plans():
        name, place = folder.plan().name, folder.fold(number)
        models[name] = Model(members=(read_member(folder, place),))
        jobs[name] = Job(cases=held_out, out=place.predictions, key=models[name].key())
    if len(models) > 1:
        key = digest([model.key() for model in models.values()])
        jobs["ensemble"] = Job(cases=held_out, out=run.fold(number).predictions, key=key)
    return predict_held_out(jobs, models, device=device)


def _score_into(folder: Path, dataset: Dataset, workers: int) -> Scores | None:
    references = {case.name: case.labels for case in dataset.cases if case.labels is not None}
    pairs, failed = [], []
    for path in sorted(folder.glob("fold_*")):
        place = FoldFolder(path)
        files = prediction_files(place)
        pairs += [Pair(name=n, prediction=p, reference=references[n]) for n, p in files.items() if n in references]
        failed += [Failure(name=n, reason=w.reason) for n, w in _record(place).items() if w.status == "failed"]
    if not pairs:
        return None
    scores = evaluate(pairs, dataset.labels, failed=failed, workers=workers)
    write_json(folder / "scores.json", scores)
    return scores


def _record(place: FoldFolder) -> dict[str, Written]:
    file = place.predictions / "predictions.json"
    return read_json(file, dict[str, Written]) if file.exists() else {}
