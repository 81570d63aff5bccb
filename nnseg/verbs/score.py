"""Predictions of held-out cases, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, Fold
from nnseg.core.plan import digest
from nnseg.evaluation.evaluate import Failure, Pair, Scores, evaluate
from nnseg.network.bundle import Model, load_model_file
from nnseg.storage.runs import FoldFolder, PlanFolder, RunFolder, write_json
from nnseg.verbs.held_out import Job, predict_held_out
from nnseg.verbs.predictions import Written, read_predictions

log = logging.getLogger(__name__)


def predict_folds(
    run: RunFolder,
    dataset: Dataset,
    folds: Mapping[int, Fold],
    *,
    device: str = "auto",
    plans: Sequence[PlanFolder] | None = None,
) -> tuple[Finding, ...]:
    """Predict what each fold held out, with every plan and with all plans together; returns the cases that failed.

    Args:
        run: with the trained folds.
        dataset: of the cases.
        folds: by number.
        device: to compute on.
        plans: these alone, each for itself; None for all.
    """
    cases = {case.name: case for case in dataset.cases}
    problems = []
    for number, fold in folds.items():
        if held_out := tuple(cases[name] for name in fold.held_out):
            written = _predict_fold(run, number, held_out, device, plans)
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
    return _score_into(run.path, dataset, folds, workers, predictions=run.answers)


def held_out_predictions(folder: Path, folds: Mapping[int, Fold]) -> dict[str, Written]:
    """What became of the held-out cases of the given folds, by name; ``file`` is relative to ``folder``."""
    found = {}
    for number, fold in folds.items():
        place = FoldFolder(folder / f"fold_{number}").predictions
        record = read_predictions(place)
        for name in fold.held_out:
            if name in record:
                file = (place / record[name].file).relative_to(folder)
                found[name] = record[name].model_copy(update={"file": file.as_posix()})
    return found


def _predict_fold(
    run: RunFolder, number: int, held_out: tuple[Case, ...], device: str, plans: Sequence[PlanFolder] | None
) -> dict[str, Written]:
    models: dict[str, Model] = {}
    jobs: dict[str, Job] = {}
    for folder in plans or run.plans():
        name = folder.plan().name
        models[name] = _model_of(run, folder, number)
        jobs[name] = Job(cases=held_out, out=folder.fold(number).predictions, key=models[name].key())
    answering = run.answering()
    if len(answering) > 1 and plans is None:
        key = digest([models[folder.plan().name].key() for folder in answering])
        jobs["ensemble"] = Job(cases=held_out, out=run.fold(number).predictions, key=key)
    return predict_held_out(jobs, models, device=device)


def _model_of(run: RunFolder, folder: PlanFolder, number: int) -> Model:
    """A fold's model; a cascade's is shown the answer of the same fold's network, which has not seen the held-out cases either."""
    model, previous = load_model_file(folder.fold(number).model_file), folder.plan().previous
    if previous is None:
        return model
    return replace(model, previous=load_model_file(run.plan_called(previous).fold(number).model_file).members)


def _score_into(
    folder: Path, dataset: Dataset, folds: Mapping[int, Fold], workers: int, *, predictions: Path | None = None
) -> Scores | None:
    """Score the predictions of a folder, by default the one that the scores are written to."""
    made = predictions or folder
    cases = {case.name: case for case in dataset.cases}
    pairs, failed = [], []
    for name, written in held_out_predictions(made, folds).items():
        case = cases.get(name)
        if written.status == "failed" or case is None or case.labels is None:
            failed.append(Failure(name=name, reason=written.reason or "its label map is gone"))
        else:
            pair = Pair(name=name, prediction=made / written.file, reference=case.labels, annotated=case.annotated)
            pairs.append(pair)
    if not pairs:
        (folder / "scores.json").unlink(missing_ok=True)
        return None
    scores = evaluate(pairs, dataset.labels, failed=failed, workers=workers)
    write_json(folder / "scores.json", scores)
    return scores
