"""All stages on one page: from a folder of labelled scans to a scored model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.commands.export import export
from nnseg.commands.measure import find_dataset, measure_dataset
from nnseg.commands.plan import check_options, plan
from nnseg.commands.report import report, report_quietly
from nnseg.commands.train import train_plans, trained_folds
from nnseg.commands.train_parallel import on_cluster
from nnseg.commands.verify import remove_damaged
from nnseg.core.dataset import Finding
from nnseg.core.frozen import short_repr
from nnseg.core.options import Options
from nnseg.core.scores import Scores
from nnseg.core.verdict import Verdict
from nnseg.crossval.ensemble import choose_model
from nnseg.crossval.objects import choose_objects
from nnseg.crossval.postprocessing import choose_postprocessing
from nnseg.crossval.predict import predict_folds, predict_with_plans
from nnseg.crossval.pseudo_labels import predict_pseudo_labels, remove_pseudo_labels
from nnseg.crossval.score import score
from nnseg.crossval.trust import measure_trust
from nnseg.crossval.window import choose_windows
from nnseg.network.device import resolve_device
from nnseg.planning.unusable import check_losses
from nnseg.planning.verdict import give_verdict
from nnseg.storage.run import Run
from nnseg.system.cluster import computed_on


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The outcome of a run.

    Args:
        run: with all its files.
        problems: errors of single cases, in the order in which they occurred.
        scores: of the held-out cases; None if nothing was held out.
        verdict: on the model, with the command that comes next; None if nothing was trained.
    """

    run: Run
    problems: tuple[Finding, ...]
    scores: Scores | None
    verdict: Verdict | None = None

    __repr__ = short_repr


def run(dataset_folder: Path, run_folder: Path, options: Options, *, command: str = "") -> FinishedRun:
    """Measure, plan, preprocess, train the folds, predict and score their held-out cases, calibrate, export, report. Resumes.

    Args:
        dataset_folder: never written to.
        run_folder: created if it does not exist.
        options: of all stages.
        command: command line to be kept with the run.

    Raises:
        NnsegError: something only the user can correct; whatever was finished stays.
    """
    device, workers = options.device, options.workers
    check_options(options)
    for name in options.devices or (device,):
        resolve_device(name)
    run = Run(run_folder)
    found = find_dataset(run, dataset_folder, options)
    with run.locked(dataset_folder), computed_on(options.cluster) as cluster:
        options = on_cluster(options, cluster)
        remove_damaged(run)
        if command:
            run.update_record(command=command)
        with run.timed("fingerprint"):
            fingerprint = measure_dataset(run, dataset_folder, workers, split=options.split, allow=options.allow, found=found)
            check_losses(fingerprint, options)
        with run.timed("plan"):
            plan(run, options)
        if options.init is None:
            remove_pseudo_labels(run)
        in_plans = replace(options, budget=None, steps=None, epochs=None)  # in the plans by now, perhaps edited there
        problems = train_plans(
            run, in_plans, predict=predict_with_plans, complete=predict_pseudo_labels, refresh=report_quietly, cluster=cluster
        )
        folds = trained_folds(run, run.plans)
        with run.timed("predict"):
            choose_windows(run, folds, device=device)
            problems += predict_folds(run, folds, device=device)
        with run.timed("evaluate"):
            choose_model(run, folds, workers=workers)
            choose_objects(run, folds, workers=workers)
            scores = score(run, folds, workers=workers)
            if scores:
                choose_postprocessing(run, folds, workers=workers)
                measure_trust(run, folds, device=device)
        if folds:
            with run.timed("export"):
                export(run, run.model_file, folds=tuple(folds))
        report(run, device=device)
    errors = tuple(finding for finding in run.fingerprint.findings if finding.level == "error")
    verdict = give_verdict(scores, run.histories, run.trust, folds=len(run.folds))
    return FinishedRun(run=run, problems=tuple(dict.fromkeys(errors + problems)), scores=scores, verdict=verdict)
