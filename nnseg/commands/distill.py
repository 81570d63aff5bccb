"""``nnseg distill``: one network that learns from the label maps and from the networks of a run's folds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nnseg.commands.export import write_model
from nnseg.commands.preprocess import preprocess_plans, preprocessed_keys
from nnseg.commands.train import repeat_where_damaged, trained_folds
from nnseg.commands.verify import remove_damaged
from nnseg.core.dataset import Finding, Fold, listed
from nnseg.core.errors import PlanError, RunError
from nnseg.core.frozen import short_repr
from nnseg.core.options import Options
from nnseg.core.plan import Plan
from nnseg.core.trust import Trust
from nnseg.crossval.probabilities import write_probabilities
from nnseg.network.bundle import Model, load_model_file
from nnseg.network.load import model_of_run, with_own_window
from nnseg.planning.distillation import distilled_plan
from nnseg.storage.cases import CaseStore
from nnseg.storage.plan_folder import FoldFolder, PlanFolder, write_plan
from nnseg.storage.run import Folds, Run
from nnseg.system.stop import StopRequest
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import ProgressSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DistilledModel:
    """What ``nnseg distill`` makes.

    Args:
        file: with the model.
        model: of one network.
        problems: cases that could not be preprocessed.
    """

    file: Path
    model: Model
    problems: tuple[Finding, ...]

    __repr__ = short_repr


def distill(run_folder: Path, options: Options, *, plan: str | None = None, small: bool = False) -> DistilledModel:
    """Train one network on label maps and on probabilities of the networks of a run's folds, and write it as a model. Resumes.

    Each case counts with the probabilities of the network of the fold that holds it out; cases that no trained fold holds out are
    left out. Nothing is held out from the new network.

    Args:
        run_folder: of a run with trained folds.
        options: length of the training, device and workers.
        plan: the name of one of the run's plans; of those that predict, the one with the largest weight if absent.
        small: the network has a quarter of the channels.

    Raises:
        RunError: no fold is trained that holds out cases, there is no such plan, or it is a cascade.
        PlanError: the plan of an earlier distillation was edited, and does not fit the cases any more.
        Stopped: a signal asked for an end.
    """
    run = Run(run_folder)
    source = run.predicting_plan(plan)
    if len(run.weights) > 1 and plan is None:
        log.info(
            "of the plans that predict together (%s), the networks of %s are distilled", ", ".join(run.weights), source.plan.name
        )
    folder = PlanFolder(source.path / ("distilled_small" if small else "distilled"), shared=source.path / "distilled" / "cases")
    with run.locked():
        remove_damaged(run)
        _make_plan(run, folder, distilled_plan(source.plan, small=small))
        with run.timed("preprocess"):
            problems = preprocess_plans(run, [source], workers=options.workers)
        folds = _find_folds(run, source)
        with run.timed("distill"):
            remake = partial(preprocess_plans, run, [source], workers=options.workers)
            trained = repeat_where_damaged(partial(_train, run, source, folder, folds, options), remake)
        member = with_own_window(load_model_file(trained.model_file).members[0], run)
        history = {f"{member.plan.name} fold {member.fold}": trained.history()}
        of_scans = Trust(ranges=run.trust.ranges) if run.trust and run.trust.ranges else None  # the rest is of other networks
        model = replace(model_of_run(run, (member,)), trust=of_scans)
        file = folder.path / "model.nnseg"
        return DistilledModel(file=file, model=write_model(run, model, file, others=history), problems=problems)


def _make_plan(run: Run, folder: PlanFolder, plan: Plan) -> None:
    """Write the plan of the new network; one on file that a person edited is kept.

    Raises:
        PlanError: the cases of the edited plan are preprocessed otherwise.
    """
    written = tuple(run.record.get("distilled", ()))
    if folder.plan_file.exists() and folder.plan.key() not in (*written, plan.key()):
        sections = ("preprocessing", "labels", "channels")
        if folder.plan.key(*sections) != plan.key(*sections):
            raise PlanError(
                f"{folder.plan_file} was edited by hand, and {', '.join(sections)} differ from those of the run's plan: take them "
                "over, or delete the file to have it made anew"
            )
        log.info("%s was edited by hand and is kept", folder.plan_file)
    elif not folder.plan_file.exists() or folder.plan.key() != plan.key():
        run.update_record(distilled=(*written, plan.key()))  # before the file: if killed in between, it is not taken for edited
        write_plan(folder.plan_file, plan)


def _find_folds(run: Run, folder: PlanFolder) -> Folds:
    """The trained folds that hold out cases; what is left out is said.

    Raises:
        RunError: there are none.
    """
    folds = {number: fold for number, fold in trained_folds(run, [folder]).items() if fold.held_out}
    if not folds:
        raise RunError(f"no fold of {folder.plan.name} that holds out cases is trained; train all first: nnseg train {run.path}")
    known = {name for fold in folds.values() for name in fold.held_out}
    if others := {name for fold in run.folds.values() for name in (*fold.training, *fold.held_out)} - known:
        advice = "left out here; to learn from all cases, train all folds first"
        log.warning("no trained fold holds out %s: %s: nnseg train %s", listed(others), advice, run.path)
    return folds


def _train(run: Run, source: PlanFolder, folder: PlanFolder, folds: Folds, options: Options) -> FoldFolder:
    """Predict the probabilities that are missing, and train the new network; returns the folder of its training."""
    labels = source.plan.labels
    store, keys = CaseStore(folder.cases, len(labels.foreground), len(labels.values)), preprocessed_keys(run, source)
    keys = write_probabilities(run, source, folds, keys, store, device=options.device)
    whole = Fold(training=tuple(sorted(keys)), held_out=())
    with StopRequest(run.stop_file) as stop:
        progress = ProgressSettings(tensorboard=options.tensorboard)
        request = TrainingRequest(options=options, stop=stop, progress=progress, images=CaseStore.of(source.cases, source.plan))
        trained = train_fold(folder, len(run.folds), whole, keys, request)  # the number of no fold: it holds out no case
        stop.clear()
    return trained
