"""Predictions of held-out cases, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, Fold
from nnseg.core.decisions import Weights, ensembles_of, name_of
from nnseg.core.frozen import digest
from nnseg.core.scores import Failure, Scores
from nnseg.crossval.predict import Ensemble, PredictionJob, predict_alone, predict_together
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import FilePair, evaluate
from nnseg.network.bundle import Model, load_model_file
from nnseg.network.load import merge
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.predictions import ScanRecord, held_out_predictions
from nnseg.storage.run import Run

log = logging.getLogger(__name__)


def predict_folds(
    run: Run,
    dataset: Dataset,
    folds: Mapping[int, Fold],
    *,
    device: str = "auto",
    plans: Sequence[PlanFolder] | None = None,
) -> tuple[Finding, ...]:
    """Predict what each fold held out, with every plan and every ensemble of plans; returns the cases that failed.

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


def score(run: Run, dataset: Dataset, folds: Mapping[int, Fold], *, workers: int = 1) -> Scores | None:
    """Score the held-out predictions of the given folds, and write ``scores.json``; with several plans also one for each of them.

    Groups of other scores than these are removed.

    Returns:
        The run's scores; None if nothing was held out.
    """
    before = _content(Run.scores.path(run))
    scores = _score(run, dataset, folds, workers)
    if Run.groups.path(run).exists() and _content(Run.scores.path(run)) != before:
        run.groups = None
        log.info("%s was of other scores, and is removed; nnseg evaluate %s --groups makes it anew", Run.groups.path(run), run.path)
    return scores


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _score(run: Run, dataset: Dataset, folds: Mapping[int, Fold], workers: int) -> Scores | None:
    answers, plans = run.predictions_folder, run.plans
    found = {folder.path: _score_into(folder.path, dataset, folds, workers) for folder in plans}
    if answers not in found:
        return _score_into(run.path, dataset, folds, workers, predictions=answers)
    scores = found[answers]
    if len(plans) > 1 and scores:
        run.scores = scores
    elif not scores:
        run.scores = None
    return scores


def candidates_of(run: Run) -> tuple[Weights, ...]:
    """Weights of all plans and ensembles that may answer, and of the one that somebody has written into ``choice.json``."""
    tried = {name_of(plans): plans for plans in ensembles_of(list(run.final_plans))}
    chosen = run.weights
    return tuple((tried | {name_of(chosen): tried.get(name_of(chosen), chosen)}).values())


def _predict_fold(
    run: Run, number: int, held_out: tuple[Case, ...], device: str, plans: Sequence[PlanFolder] | None
) -> dict[str, ScanRecord]:
    rivals = run.final_plans if plans is None else {}
    several = rivals if len(rivals) > 1 else {}
    written: dict[str, ScanRecord] = {}
    for folder in plans or run.plans:
        if folder not in several.values():
            model = _model_of(run, folder, number)
            job = PredictionJob(cases=held_out, out=folder.fold(number).predictions, key=model.key())
            written |= predict_alone(job, model, device=device)
    if several:
        models = {name: _model_of(run, folder, number) for name, folder in several.items()}
        parties = [_party(run, number, held_out, p, models) for p in candidates_of(run)]
        written |= predict_together(parties, merge(list(models.values())), device=device)
    return written


def _party(run: Run, number: int, held_out: tuple[Case, ...], plans: Weights, models: Mapping[str, Model]) -> Ensemble:
    keys = {name: models[name].key() for name in plans}
    key = keys[next(iter(plans))] if len(plans) == 1 else digest([name_of(plans), keys])
    return Ensemble(
        plans=plans, job=PredictionJob(cases=held_out, out=run.ensemble_folder(plans).fold(number).predictions, key=key)
    )


def _model_of(run: Run, folder: PlanFolder, number: int) -> Model:
    """A fold's model; a cascade's is shown the answer of the same fold's network, which has not seen the held-out cases either."""
    model, previous = load_model_file(folder.fold(number).model_file), folder.plan.previous
    if previous is None:
        return model
    return replace(model, previous=load_model_file(run.plan_folder(previous).fold(number).model_file).members)


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
            pair = FilePair(name=name, prediction=made / written.file, reference=case.labels, annotated=case.annotated)
            pairs.append(pair)
    if not pairs:
        (folder / "scores.json").unlink(missing_ok=True)
        return None
    measures = Measures(instances=dataset.instances)
    scores = evaluate(pairs, dataset.labels, failed=failed, measures=measures, workers=workers)
    write_json(folder / "scores.json", scores)
    return scores
