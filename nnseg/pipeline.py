"""The whole story on one page: from a folder of labelled scans to a scored model. Its parts are the verbs between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.core.dataset import Dataset, Finding, Fold
from nnseg.core.errors import RunError, Stopped
from nnseg.evaluation.evaluate import Scores
from nnseg.planning.fingerprint import Fingerprint
from nnseg.storage.datasets import read_dataset
from nnseg.storage.runs import PlanFolder, RunFolder, read_json
from nnseg.training.ranks import ALONE, Ranks, joined
from nnseg.verbs.cascade import in_order, refuse_unshown, shown_to
from nnseg.verbs.folds import read_folds
from nnseg.verbs.options import Options, chosen_folds
from nnseg.verbs.plan import findings_of, foresee, plan, share
from nnseg.verbs.preprocess import keys_of, preprocess_plans
from nnseg.verbs.record import timed
from nnseg.verbs.report import report
from nnseg.verbs.schedule import is_trained
from nnseg.verbs.score import predict_folds, score
from nnseg.verbs.side_by_side import jobs_of, train_side_by_side
from nnseg.verbs.stopping import StopRequest
from nnseg.verbs.survey import survey
from nnseg.verbs.train import Order, train_fold
from nnseg.verbs.watching import Watch


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
    dataset = read_dataset(dataset_folder, workers=options.workers)
    with place.locked(dataset_folder):
        with timed(place, "fingerprint"):
            fingerprint = survey(dataset, place, options.workers)
        with timed(place, "plan"):
            plan(place, dataset, fingerprint, options)
        # The length asked for is in the plans by now, as people may have edited them.
        problems = _preprocess_and_train(place, dataset, fingerprint, replace(options, budget=None, steps=None, epochs=None))
        with timed(place, "predict"):
            finished = _finished(place, fingerprint, place.plans())
            problems += predict_folds(place, dataset, finished, device=options.device)
        with timed(place, "evaluate"):
            scores = score(place, dataset, finished, workers=options.workers)
        report(place)
    errors = tuple(f for f in findings_of(fingerprint) if f.level == "error")
    return Result(run=place, problems=tuple(dict.fromkeys(errors + problems)), scores=scores)


def train(run_folder: Path, options: Options) -> tuple[Finding, ...]:
    """Preprocess what is missing in a planned run, and train the chosen folds; returns the cases that failed.

    Started by torchrun, all processes share each training; the first alone preprocesses and writes.

    Raises:
        RunError: the run is not planned yet.
    """
    place = RunFolder(run_folder)
    place.plans()
    with joined(options.device) as (ranks, device):
        if ranks.size > 1 and options.devices:
            raise RunError("torchrun divides each training among devices, --devices gives each a training; use one of them")
        options = replace(options, device=device)
        with place.locked() if ranks.rank == 0 else nullcontext():
            dataset, fingerprint = read_json(place.dataset_file, Dataset), read_json(place.fingerprint_file, Fingerprint)
            return _preprocess_and_train(place, dataset, fingerprint, options, ranks)


def _preprocess_and_train(
    place: RunFolder, dataset: Dataset, fingerprint: Fingerprint, options: Options, ranks: Ranks = ALONE
) -> tuple[Finding, ...]:
    """Do what is missing of both, for the chosen folds; returns the cases that failed. Refuses first what cannot fit."""
    folds = read_folds(place)
    chosen = {number: folds[number] for number in chosen_folds(options.folds, len(folds))}
    problems: tuple[Finding, ...] = ()
    if ranks.rank == 0:
        refuse_unshown(place, trained={*chosen, *_finished(place, fingerprint, shown_to(place.plans(), place))})
        if not set(chosen) <= set(_finished(place, fingerprint, place.plans())):
            foresee(place, fingerprint, options)
    for group in in_order(place):
        of = " the cascade" if shown_to(group, place) else ""
        if ranks.rank == 0:
            with timed(place, f"preprocess{of}"):
                problems += _make_ready(place, group, dataset, fingerprint, options)
        ranks.wait()
        with timed(place, f"train{of}") if ranks.rank == 0 else nullcontext():
            if _train(place, group, fingerprint, chosen, options, ranks):
                break
    return problems


def _make_ready(
    place: RunFolder, plans: Sequence[PlanFolder], dataset: Dataset, fingerprint: Fingerprint, options: Options
) -> tuple[Finding, ...]:
    """Preprocess what is missing for some plans; the answers that cascades among them are shown are predicted before."""
    problems: tuple[Finding, ...] = ()
    if shown := shown_to(plans, place):
        problems = predict_folds(place, dataset, dict(enumerate(read_folds(place))), device=options.device, plans=shown)
    return problems + preprocess_plans(place, plans, dataset, fingerprint, workers=options.workers)


def _finished(place: RunFolder, fingerprint: Fingerprint, plans: Sequence[PlanFolder]) -> dict[int, Fold]:
    """The folds that every one of some plans has been trained on, as plan and cases are now; the others are out of date."""
    folds = dict(enumerate(read_folds(place)))
    keys = [(folder, keys_of(place, folder, fingerprint)) for folder in plans]
    return {n: fold for n, fold in folds.items() if all(is_trained(folder, n, fold, k) for folder, k in keys)}


def _train(
    place: RunFolder,
    plans: Sequence[PlanFolder],
    fingerprint: Fingerprint,
    folds: dict[int, Fold],
    options: Options,
    ranks: Ranks,
) -> bool:
    """Train the folds of some plans, one after the other, each within its share of the budget; was it asked to stop?"""
    if options.budget is not None:
        beside = len(options.devices)
        options = replace(options, budget=share(options.budget, plans=len(place.plans()), folds=len(folds), beside=beside))
    watch = Watch(run=place, tensorboard=options.tensorboard)
    with StopRequest(place.stop_file, clears=ranks.rank == 0) as stop:
        if options.devices:
            jobs = [job for f in plans for job in jobs_of(place, f, folds, keys_of(place, f, fingerprint), options)]
            train_side_by_side(place, jobs, stop)
        order = Order(options=options, stop=stop, watch=watch, ranks=ranks)
        for folder in () if options.devices else plans:
            keys = keys_of(place, folder, fingerprint)
            for number, fold in folds.items():
                if not ranks.agreed(stop.asked):
                    train_fold(folder, number, fold, keys, order)
        asked = ranks.agreed(stop.asked)
        stop.obeyed()
    if asked == "signal":
        raise Stopped("stopped between two trainings; the same command goes on", stop.code)
    return asked == "file"
