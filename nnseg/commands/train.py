"""All trainings of a run: what must be ready before each, in which order, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from nnseg.commands.plan import estimate_cost, share
from nnseg.commands.preprocess import keys_of, preprocess_plans
from nnseg.commands.report import report_quietly
from nnseg.commands.train_parallel import jobs_of, train_side_by_side
from nnseg.core.dataset import Dataset, Finding, Fold
from nnseg.core.errors import Stopped
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.options import Options, chosen_folds
from nnseg.crossval.cascade import in_order, refuse_unshown, shown_to
from nnseg.crossval.score import predict_folds
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.stop import StopRequest
from nnseg.training.context import SINGLE_PROCESS, Ranks
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import ProgressSettings
from nnseg.training.schedule import is_trained

Plans = Sequence[PlanFolder]


@dataclass(frozen=True, kw_only=True)
class RunTrainings:
    """The trainings of a run.

    Args:
        run: planned.
        dataset: of the run.
        fingerprint: of the dataset.
        options: as asked for.
        ranks: the processes that share each training.
    """

    run: Run
    dataset: Dataset
    fingerprint: Fingerprint
    options: Options
    ranks: Ranks = SINGLE_PROCESS

    def go(self) -> tuple[Finding, ...]:
        """Preprocess and train what is missing, for the chosen folds; returns the cases that failed. Refuses first what cannot fit.

        Raises:
            RunError: some training failed, or cannot be.
            Stopped: a signal asked for an end.
        """
        run, first = self.run, self.ranks.rank == 0
        folds = run.folds
        chosen = {number: folds[number] for number in chosen_folds(self.options.folds, len(folds))}
        problems: tuple[Finding, ...] = ()
        if first:
            refuse_unshown(run, trained={*chosen, *self.finished(shown_to(run.plans, run))})
            if self.options.more or not set(chosen) <= set(self.finished(run.plans)):
                estimate_cost(run, self.fingerprint, self.options)
                run.remove_decisions()
        for plans in in_order(run):
            of = " the cascade" if shown_to(plans, run) else ""
            if first:
                with run.timed(f"preprocess{of}"):
                    problems += self._make_ready(plans)
            self.ranks.wait()
            with run.timed(f"train{of}") if first else nullcontext():
                if self._train(plans, chosen):
                    break
        return problems

    def finished(self, plans: Plans) -> dict[int, Fold]:
        """The folds that every one of some plans has been trained on, as plan and cases are now; the others are out of date."""
        folds = self.run.folds
        keys = [(folder, keys_of(self.run, folder, self.fingerprint)) for folder in plans]
        return {n: fold for n, fold in folds.items() if all(is_trained(folder, n, fold, k) for folder, k in keys)}

    def _make_ready(self, plans: Plans) -> tuple[Finding, ...]:
        """Preprocess what is missing for some plans; the answers that cascades among them are shown are predicted before."""
        run, options, problems = self.run, self.options, tuple[Finding, ...]()
        if shown := shown_to(plans, run):
            folds = run.folds
            problems = predict_folds(run, self.dataset, folds, device=options.device, plans=shown)
        return problems + preprocess_plans(run, plans, self.dataset, self.fingerprint, workers=options.workers)

    def _train(self, plans: Plans, folds: Mapping[int, Fold]) -> bool:
        """Train the folds of some plans, each within its share of the budget; did the file STOP end it?"""
        run, ranks, options = self.run, self.ranks, self._options_of_one(len(folds))
        with StopRequest(run.stop_file, remove_file=ranks.rank == 0) as stop:
            jobs = [job for f in plans for job in jobs_of(run, f, folds, keys_of(run, f, self.fingerprint), options)]
            refresh = partial(report_quietly, run)
            if options.devices:
                train_side_by_side(jobs, stop, refresh)
            else:
                request = TrainingRequest(
                    options=options,
                    stop=stop,
                    progress=ProgressSettings(refresh=refresh, tensorboard=options.tensorboard),
                    ranks=ranks,
                )
                for job in jobs:
                    if not ranks.broadcast(stop.source):
                        train_fold(PlanFolder(job.plan), job.number, job.fold, job.keys, request)
            asked = ranks.broadcast(stop.source)
            stop.clear()
        if asked == "signal":
            raise Stopped("stopped between two trainings; the same command goes on", stop.code)
        return asked == "file"

    def _options_of_one(self, folds: int) -> Options:
        """Those of a single training: its share of the budget."""
        options, plans = self.options, len(self.run.plans)
        if options.budget is None:
            return options
        return replace(options, budget=share(options.budget, plans=plans, folds=folds, beside=len(options.devices)))


def locked(run: Run, ranks: Ranks) -> AbstractContextManager[None]:
    """The run's lock, held by the first rank for all."""
    return run.locked() if ranks.rank == 0 else nullcontext()
