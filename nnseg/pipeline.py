"""The whole story on one page: from a folder of labelled scans to a scored model. Its parts are the verbs between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.core.dataset import Dataset, Finding, Fold
from nnseg.evaluation.evaluate import Scores
from nnseg.planning.fingerprint import Fingerprint
from nnseg.storage.datasets import read_dataset
from nnseg.storage.runs import RunFolder, read_json
from nnseg.verbs.folds import read_folds
from nnseg.verbs.options import Options, chosen_folds
from nnseg.verbs.plan import findings_of, foresee, plan, seconds_of, share
from nnseg.verbs.preprocess import case_keys, preprocess_plans
from nnseg.verbs.record import timed
from nnseg.verbs.report import report
from nnseg.verbs.score import predict_folds, score
from nnseg.verbs.survey import survey
from nnseg.verbs.train import is_trained, refuse_cascade, train_fold


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Args:
        run: its folder.
        problems: everything that cost a case.
        scores: of the held-out cases; None if nothing was held out.
    """

    run: RunFolder
    problems: tuple[Finding, ...]
    scores: Scores | None


def run(dataset_folder: Path, run_folder: Path, options: Options) -> Result:
    """Check, measure, plan, preprocess, train the folds, predict what they held out, score it, report. Resumes by itself.

    Raises:
        NnsegError: something only the user can mend; whatever was finished stays.
    """
    place = RunFolder(run_folder)
    if options.kinds == ("all",):
        options = replace(options, kinds=("trainable",))
    dataset = read_dataset(dataset_folder, workers=options.workers)
    with place.locked(dataset_folder):
        with timed(place, "fingerprint"):
            fingerprint = survey(dataset, place, options.workers)
        with timed(place, "plan"):
            plan(place, dataset, fingerprint, options)
        problems = _preprocess_and_train(place, dataset, fingerprint, options)
        with timed(place, "predict"):
            finished = _finished(place, fingerprint)
            problems += predict_folds(place, dataset, finished, device=options.device)
        with timed(place, "evaluate"):
            scores = score(place, dataset, finished, workers=options.workers)
        report(place)
    errors = tuple(f for f in findings_of(fingerprint) if f.level == "error")
    return Result(run=place, problems=errors + problems, scores=scores)


def train(run_folder: Path, options: Options) -> tuple[RunFolder, tuple[Finding, ...]]:
    """Preprocess what is missing in a planned run, and train the chosen folds; returns it and what failed.

    Raises:
        RunError: the run is not planned yet.
    """
    place = RunFolder(run_folder)
    place.plans()
    with place.locked():
        dataset, fingerprint = read_json(place.dataset_file, Dataset), read_json(place.fingerprint_file, Fingerprint)
        return place, _preprocess_and_train(place, dataset, fingerprint, options)


def _preprocess_and_train(place: RunFolder, dataset: Dataset, fingerprint: Fingerprint, options: Options) -> tuple[Finding, ...]:
    """Do what is missing of both, for the chosen folds; returns the cases that failed. Refuses first what cannot fit."""
    for folder in place.plans():
        refuse_cascade(folder.plan())
    folds = read_folds(place)
    chosen = {number: folds[number] for number in chosen_folds(options.folds, len(folds))}
    if not set(chosen) <= set(_finished(place, fingerprint)):
        foresee(place, fingerprint, options)
    with timed(place, "preprocess"):
        problems = preprocess_plans(place, dataset, fingerprint, workers=options.workers)
    with timed(place, "train"):
        _train(place, fingerprint, chosen, options)
    return problems


def _finished(place: RunFolder, fingerprint: Fingerprint) -> dict[int, Fold]:
    """The folds that every plan has been trained on, as plan and cases are now; the others are out of date."""
    folds = dict(enumerate(read_folds(place)))
    keys = [(folder, case_keys(folder.plan(), fingerprint)) for folder in place.plans()]
    return {n: fold for n, fold in folds.items() if all(is_trained(folder, n, fold, k) for folder, k in keys)}


def _train(place: RunFolder, fingerprint: Fingerprint, folds: dict[int, Fold], options: Options) -> None:
    """Train the folds of every plan, one after the other, for the steps it fixes; else each within its share of the budget."""
    plans, planned = place.plans(), seconds_of(place)
    seconds = planned if options.budget is None else share(options.budget, plans=len(plans), folds=len(folds))
    for folder in plans:
        keys = case_keys(folder.plan(), fingerprint)
        fixed = folder.plan().training.steps is not None and seconds == planned
        for number, fold in folds.items():
            train_fold(
                folder, number, fold, keys,
                device=options.device, seconds=None if fixed else seconds, checkpoint_seconds=options.checkpoint,
            )  # fmt: skip
