"""``nnseg train``: preprocess and train the plans of a run, fold by fold or side by side, cascades last."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from nnseg.commands.plan import estimate_cost, share_budget
from nnseg.commands.preprocess import preprocess_plans, preprocessed_keys
from nnseg.commands.train_parallel import TrainingJob, jobs_of, on_cluster, train_side_by_side
from nnseg.commands.verify import remove_damaged
from nnseg.core.dataset import Finding, Fold, listed
from nnseg.core.errors import DamagedCaseError, RunError, Stopped
from nnseg.core.options import Options, select_folds
from nnseg.planning.preflight import Preflight
from nnseg.planning.run_folds import check_case_names, known_names
from nnseg.planning.unusable import check_losses
from nnseg.planning.verdict import warn_of_length
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Folds, Run
from nnseg.system.cluster import Cluster, computed_on
from nnseg.system.stop import StopRequest
from nnseg.training.context import SINGLE_PROCESS, Ranks, join_ranks
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import ProgressSettings
from nnseg.training.schedule import is_trained

log = logging.getLogger(__name__)

Findings = tuple[Finding, ...]
Result = TypeVar("Result")
Refresh = Callable[[Run], None]
"""Writes the report of the run anew while it trains."""
Predict = Callable[[Run, Folds, Sequence[PlanFolder], str], Findings]
"""Predicts the held-out cases of folds with each of some plans, on a device: `nnseg.crossval.predict.predict_with_plans`."""
Complete = Callable[[Run, Options], None]
"""Predicts what was not annotated: `nnseg.crossval.pseudo_labels.predict_pseudo_labels`."""


def train(
    run_folder: Path,
    options: Options,
    *,
    predict: Predict,
    complete: Complete | None = None,
    refresh: Refresh | None = None,
) -> Findings:
    """Preprocess what is missing in a planned run, and train the chosen folds; returns the cases that failed.

    Started by torchrun, all processes share each training; the first alone preprocesses and writes.

    Args:
        run_folder: of the run.
        options: of the command.
        predict: makes the predictions that are the input of cascades.
        complete: makes the predictions of what was not annotated.
        refresh: called now and then while a network trains.

    Raises:
        RunError: the run is not planned yet, or some training failed.
        Stopped: a signal asked for an end.
    """
    run = Run(run_folder)
    _ = run.plans  # raises here if there is none
    select_folds(options.folds, len(run.folds))  # before files are verified
    with join_ranks(options.device) as (ranks, device):
        if ranks.size > 1 and (options.devices or options.cluster):
            given = "--devices" if options.devices else "--cluster"
            raise RunError(f"torchrun divides each training among devices, {given} gives each a training; use one of them")
        with run.locked() if ranks.rank == 0 else nullcontext(), computed_on(options.cluster) as cluster:
            if ranks.rank == 0:
                remove_damaged(run)
            options = on_cluster(replace(options, device=device), cluster)
            return train_plans(run, options, predict=predict, complete=complete, refresh=refresh, ranks=ranks, cluster=cluster)


def train_plans(
    run: Run,
    options: Options,
    *,
    predict: Predict,
    complete: Complete | None = None,
    refresh: Refresh | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    cluster: Cluster | None = None,
) -> Findings:
    """Preprocess and train what is missing of a run's plans; as `train`, in a run that is locked, and on a cluster if given.

    Before anything starts, the estimated cost is checked against what the machine has.
    """
    first, problems = ranks.rank == 0, Findings()
    check_case_names(run, tuple(run.folds.values()), known_names(run.dataset, run.fingerprint))
    folds = {number: run.folds[number] for number in select_folds(options.folds, len(run.folds))}
    if first:
        if complete:
            complete(run, options)  # first, since what the folds are trained on depends on it
        check_cascades(run, trained={*folds, *trained_folds(run, run.previous(run.plans))})
        due = set(folds) if options.more else set(folds) - set(trained_folds(run, run.plans))
        if due:
            costs = estimate_cost(run, options)
            if not options.more:
                _warn_of_length(run, costs, options, folds=len(folds))
            run.remove_decisions()
            if any(folder.fold(number).predictions.exists() for folder in run.plans for number in due):
                run.scores = run.groups = run.learning_curve = None  # of networks that are trained further or anew
    for plans in run.stages:
        inputs = run.previous(plans)
        which = " the cascade" if inputs else ""
        if first:
            with run.timed(f"preprocess{which}"):
                problems += predict(run, run.folds, inputs, options.device) if inputs else ()
                problems += preprocess_plans(run, plans, workers=options.workers)
                check_losses(run.fingerprint, options, problems)
        ranks.wait()
        with run.timed(f"train{which}") if first else nullcontext():
            if _train_stage(run, plans, folds, options, refresh, ranks, cluster):
                break
    return problems


def _warn_of_length(run: Run, costs: Sequence[Preflight], options: Options, *, folds: int) -> None:
    """Warn before trainings that are too short for a useful model, as far as the speed is known."""
    waits = math.ceil(len(run.plans) * folds / max(1, len(options.devices)))
    for folder, cost in zip(run.plans, costs, strict=True):
        of, seconds = folder.plan.training, cost.train.seconds
        steps: float | None = options.steps or (options.epochs and options.epochs * of.epoch_steps) or of.steps
        timed = options.budget is not None or (of.seconds is not None and steps == of.steps)
        if options.budget is not None and of.steps and seconds:
            steps, seconds = options.budget / waits * of.steps / seconds, options.budget / waits
        if steps and (words := warn_of_length(steps, seconds, waits, timed=timed)):
            log.warning("%s: %s", folder.plan.name, words)


def trained_folds(run: Run, plans: Sequence[PlanFolder]) -> dict[int, Fold]:
    """The folds, by number, whose training is finished for each of the plans, with plan and cases as they are now."""
    keys = [(folder, preprocessed_keys(run, folder)) for folder in plans]
    return {n: fold for n, fold in run.folds.items() if all(is_trained(folder, n, fold, k) for folder, k in keys)}


def check_cascades(run: Run, trained: Collection[int]) -> None:
    """Check that every case will have the prediction that the run's cascades take as input.

    Args:
        run: with its plans and folds.
        trained: folds that the plans before the cascades are, or will be, trained on.

    Raises:
        RunError: some case will have no prediction by a network that was not trained on it.
    """
    held_out = set(run.fold_of)
    never_held_out = {name for fold in run.folds.values() for name in fold.training} - held_out
    missing = [number for number, fold in run.folds.items() if fold.held_out and number not in trained]
    for cascade in (folder.plan for folder in run.plans if folder.plan.previous):
        if never_held_out:
            raise RunError(
                f"{cascade.name} takes predictions of held-out cases by {cascade.previous} as input, but no fold holds out "
                f"{listed(never_held_out)}; leave {cascade.name} out, or add cases"
            )
        if missing:
            raise RunError(
                f"{cascade.name} takes predictions of all cases by {cascade.previous} as input, so all its folds must be trained "
                f"first and fold {missing[0]} is not: use --folds all, or leave {cascade.name} out"
            )


def repeat_where_damaged(work: Callable[[], Result], remake: Callable[[], object]) -> Result:
    """The result of work; where a preprocessed case is found damaged meanwhile, it is made again, and the work repeated.

    Raises:
        RunError: it is found damaged again.
    """
    damaged = ""
    while True:
        try:
            return work()
        except DamagedCaseError as error:
            if damaged == str(error):
                advice = (
                    "unless a line above says why it could not be made again, bytes change after writing: check disk and memory"
                )
                raise RunError(f"{error}; {advice}") from error
            damaged = str(error)
            log.warning("%s", error)
        remake()


def _train_fold(run: Run, job: TrainingJob, request: TrainingRequest) -> None:
    """Train a fold; a preprocessed case that is found damaged meanwhile is made again, unless several processes train."""
    folder = PlanFolder(job.plan)
    work = partial(train_fold, folder, job.number, job.fold, job.keys, request)
    if request.ranks.size > 1:
        work()
    else:
        repeat_where_damaged(work, partial(preprocess_plans, run, [folder], workers=request.options.workers))


def _train_stage(
    run: Run,
    plans: Sequence[PlanFolder],
    folds: Mapping[int, Fold],
    options: Options,
    refresh: Refresh | None,
    ranks: Ranks,
    cluster: Cluster | None,
) -> bool:
    """Train the folds of some plans, each within its share of the budget; True if the file STOP ended it."""
    if options.budget is not None:
        budget = share_budget(options.budget, plans=len(run.plans), folds=len(folds), parallel=len(options.devices))
        options = replace(options, budget=budget)
    write = partial(refresh, run) if refresh else None
    with StopRequest(run.stop_file, remove_file=ranks.rank == 0) as stop:
        jobs = [job for folder in plans for job in jobs_of(run, folder, folds, preprocessed_keys(run, folder), options)]
        if options.devices:
            train_side_by_side(jobs, stop, write, cluster)
        else:
            for number, job in enumerate(jobs, 1):
                place = f"{number} of {len(jobs)}" if len(jobs) > 1 else ""
                settings = ProgressSettings(refresh=write, tensorboard=options.tensorboard, place=place)
                if not ranks.broadcast(stop.source):
                    _train_fold(run, job, TrainingRequest(options=options, stop=stop, progress=settings, ranks=ranks))
        source = ranks.broadcast(stop.source)
        stop.clear()
    if source == "signal":
        raise Stopped("stopped between two trainings; the same command continues", stop.code)
    return source == "file"
