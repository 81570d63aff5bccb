"""The whole story on one page: from a folder of labelled scans to a scored model. Its parts are the verbs between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.commands.export import export
from nnseg.commands.plan import findings_of, known_or_measured_fingerprint, plan
from nnseg.commands.report import report
from nnseg.commands.train import RunTrainings, locked
from nnseg.core.dataset import Finding
from nnseg.core.errors import RunError
from nnseg.core.options import Options
from nnseg.core.scores import Scores
from nnseg.crossval.ensemble import choose_model
from nnseg.crossval.postprocessing import choose_postprocessing
from nnseg.crossval.score import predict_folds, score
from nnseg.crossval.trust import measure_trust
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.run import Run
from nnseg.training.context import join_ranks


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Args:
        run: its folder.
        problems: everything that cost a case.
        scores: of the held-out cases; None if nothing was held out.
    """

    run: Run
    problems: tuple[Finding, ...]
    scores: Scores | None


def run(dataset_folder: Path, run_folder: Path, options: Options, *, command: str = "") -> Result:
    """Check, measure, plan, preprocess, train the folds, predict what they held out, choose, score, learn, export, report. Resumes.

    Args:
        dataset_folder: never written to.
        run_folder: made if it is not there.
        options: of all stages.
        command: that asked for it, to be kept with the run; the last one is.

    Raises:
        NnsegError: something only the user can mend; whatever was finished stays.
    """
    place = Run(run_folder)
    dataset = read_dataset(dataset_folder, workers=options.workers)
    with place.locked(dataset_folder):
        if command:
            place.update_record(command=command)
        with place.timed("fingerprint"):
            fingerprint = known_or_measured_fingerprint(dataset, place, options.workers)
        with place.timed("plan"):
            plan(place, dataset, fingerprint, options)
        # How long to train is in the plans by now, as people may have edited it.
        in_plans = replace(options, budget=None, steps=None, epochs=None)
        trainings = RunTrainings(run=place, dataset=dataset, fingerprint=fingerprint, options=in_plans)
        problems = trainings.go()
        with place.timed("predict"):
            finished = trainings.finished(place.plans)
            problems += predict_folds(place, dataset, finished, device=options.device)
        with place.timed("evaluate"):
            choose_model(place, dataset, finished, workers=options.workers)
            scores = score(place, dataset, finished, workers=options.workers)
            if scores:  # how far to trust the model, and what to mend, is learned from what was held out
                choose_postprocessing(place, dataset, finished, workers=options.workers)
                measure_trust(place, dataset, finished, device=options.device)
        if finished:
            with place.timed("export"):
                export(place, place.model_file, folds=tuple(finished))
        report(place, device=options.device)
    errors = tuple(f for f in findings_of(fingerprint) if f.level == "error")
    return Result(run=place, problems=tuple(dict.fromkeys(errors + problems)), scores=scores)


def train(run_folder: Path, options: Options) -> tuple[Finding, ...]:
    """Preprocess what is missing in a planned run, and train the chosen folds; returns the cases that failed.

    Started by torchrun, all processes share each training; the first alone preprocesses and writes.

    Raises:
        RunError: the run is not planned yet.
    """
    place = Run(run_folder)
    _ = place.plans
    with join_ranks(options.device) as (ranks, device):
        if ranks.size > 1 and options.devices:
            raise RunError("torchrun divides each training among devices, --devices gives each a training; use one of them")
        with locked(place, ranks):
            return RunTrainings(
                run=place,
                dataset=place.dataset,
                fingerprint=place.fingerprint,
                options=replace(options, device=device),
                ranks=ranks,
            ).go()
