"""Predictions of held-out cases, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, Fold
from nnseg.core.plan import digest
from nnseg.evaluation.evaluate import Failure, Pair, Scores, evaluate
from nnseg.network.bundle import Model, load_model_file
from nnseg.storage.runs import FoldFolder, RunFolder, read_json, write_json
from nnseg.verbs.predict import RECORD, Job, Written, predict_held_out

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


def score(run: RunFolder, dataset: Dataset, folds: Mapping[int, Fold], *, workers: int = 1) -> Scores | None:
    """Score the held-out predictions of the given folds, and write ``scores.json``; with several plans also one for each of them.

    Returns:
        The run's scores; None if nothing was held out.
    """
    plans = run.plans()
    if len(plans) > 1:
        for folder in plans:
            _score_into(folder.path, dataset, folds, workers)
    return _score_into(run.path, dataset, folds, workers)


def held_out_predictions(folder: Path, folds: Mapping[int, Fold]) -> dict[str, Written]:
    """What became of the held-out cases of the given folds, by name; ``file`` is relative to ``folder``."""
    found = {}
    for number, fold in folds.items():
        place = FoldFolder(folder / f"fold_{number}").predictions
        record = read_json(place / RECORD, dict[str, Written]) if (place / RECORD).exists() else {}
        for name in fold.held_out:
            if name in record:
                file = (place / record[name].file).relative_to(folder)
                found[name] = record[name].model_copy(update={"file": file.as_posix()})
    return found


def _predict_fold(run: RunFolder, number: int, held_out: tuple[Case, ...], device: str) -> dict[str, Written]:
    models: dict[str, Model] = {}
    jobs: dict[str, Job] = {}
    for folder in run.plans():
        name, place = folder.plan().name, folder.fold(number)
        models[name] = load_model_file(place.model_file)
        jobs[name] = Job(cases=held_out, out=place.predictions, key=models[name].key())
    if len(models) > 1:
        key = digest([model.key() for model in models.values()])
        jobs["ensemble"] = Job(cases=held_out, out=run.fold(number).predictions, key=key)
    return predict_held_out(jobs, models, device=device)


def _score_into(folder: Path, dataset: Dataset, folds: Mapping[int, Fold], workers: int) -> Scores | None:
    references = {case.name: case.labels for case in dataset.cases}
    pairs, failed = [], []
    for name, written in held_out_predictions(folder, folds).items():
        reference = references.get(name)
        if written.status == "failed" or reference is None:
            failed.append(Failure(name=name, reason=written.reason or "its label map is gone"))
        else:
            pairs.append(Pair(name=name, prediction=folder / written.file, reference=reference))
    if not pairs:
        (folder / "scores.json").unlink(missing_ok=True)
        return None
    scores = evaluate(pairs, dataset.labels, failed=failed, workers=workers)
    write_json(folder / "scores.json", scores)
    return scores
