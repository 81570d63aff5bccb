"""``nnseg learn-curve``: trainings on parts of the cases, and what more cases would bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from nnseg.commands.preprocess import preprocess_plans, preprocessed_keys
from nnseg.commands.train import repeat_where_damaged, trained_folds
from nnseg.commands.verify import remove_damaged
from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.learning_curve import LearningCurve
from nnseg.core.options import Options
from nnseg.crossval.predict import PredictionJob, load_fold, predict_with_model
from nnseg.crossval.score import pair_files
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.learning_curve import estimate_gain, measure_points
from nnseg.planning.run_folds import patients_of_run
from nnseg.storage.plan_folder import PlanFolder, write_plan
from nnseg.storage.run import Run
from nnseg.system.stop import StopRequest
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import ProgressSettings

SHARES = (4, 2, 1)
"""The training cases of a fold are divided by these."""

FOLDER = "learning_curve"
"""Of the trainings, in that of the plan."""

FEWEST = 8
"""Training cases of a fold from which on there are parts to train on."""


class MeasuredCurve(FrozenModel):
    """What ``nnseg learn-curve`` finds.

    Args:
        learning_curve: as in ``learning_curve.json``.
    """

    learning_curve: LearningCurve


def learn_curve(run: Run, options: Options, *, plan: str | None = None, further: Sequence[int] = ()) -> LearningCurve:
    """The learning curve of a run, written to ``learning_curve.json``. Resumes.

    The network of the first trained fold is trained again on a quarter and on half of its training cases, for as many steps, and
    all three predict the cases that the fold holds out.

    Args:
        run: with a trained fold that holds out cases.
        options: length of the trainings, if another, in steps; device and workers.
        plan: the name of one of the run's plans; of those that predict, the one with the largest weight if absent.
        further: numbers of further cases; 50, and as many as there are, if absent.

    Raises:
        RunError: no fold is trained that holds out cases, it has fewer than `FEWEST` training cases, or the plan is a cascade.
        Stopped: a signal asked for an end.
    """
    source = run.predicting_plan(plan)
    if first := source.plan.previous:
        raise RunError(f"{source.plan.name} needs the predictions of {first} and cannot be trained alone; give --plan {first}")
    with run.locked():
        remove_damaged(run)
        remake = partial(preprocess_plans, run, [source], workers=options.workers)
        remake()
        number, fold = _find_fold(run, source)
        steps = options.steps or source.fold(number).history()[-1].step
        parts = divide_cases(fold.training, patients_of_run(run))
        dice = []
        for cases in parts:
            part, folder = replace(fold, training=cases), PlanFolder(source.path / FOLDER / str(len(cases)), shared=source.cases)
            if cases == parts[-1] and not options.steps:
                folder = source  # the run's own training, whose predictions are mostly there
            else:
                work = partial(_train, run, source, folder, number, part, replace(options, steps=steps))
                repeat_where_damaged(work, remake)
            dice.append(_score(run, number, part, folder, options))
        scored = sorted(set.intersection(*map(set, dice)))
        if not scored:
            raise RunError(f"no held-out case of fold {number} has a Dice after each training")
        sizes, values = [len(cases) for cases in parts], np.array([[of[name] for name in scored] for of in dice])
        found = LearningCurve(
            plan=source.plan.name,
            fold=number,
            held_out=len(scored),
            steps=steps,
            points=measure_points(sizes, values),
            gains=tuple(estimate_gain(sizes, values, n) for n in further or sorted({50, sizes[-1]})),
        )
        run.learning_curve = found
    return found


def divide_cases(names: Sequence[str], patients: Mapping[str, str]) -> list[tuple[str, ...]]:
    """A quarter, half and all of the cases, each part within the next; the cases of a patient stay together as far as they fit.

    Args:
        names: at least `FEWEST`.
        patients: of cases, by name; a case that is not in it is a patient.

    Raises:
        RunError: there are fewer cases.
    """
    if len(names) < FEWEST:
        raise RunError(f"a fold trains on {len(names)} cases, and its parts need {FEWEST} or more; add cases")
    ordered = sorted(names)
    groups = list(dict.fromkeys(patients.get(name, name) for name in ordered))
    rank = dict(zip(np.random.default_rng(0).permutation(groups).tolist(), range(len(groups)), strict=True))
    drawn = sorted(ordered, key=lambda name: (rank[patients.get(name, name)], name))
    return [tuple(sorted(drawn[: len(drawn) // share])) for share in SHARES]


def _find_fold(run: Run, source: PlanFolder) -> tuple[int, Fold]:
    """The first trained fold that holds out cases."""
    trained = trained_folds(run, [source])
    found = next(((number, fold) for number, fold in trained.items() if fold.held_out), None)
    if found is None:
        raise RunError(f"no fold of {source.plan.name} that holds out cases is trained; train one first: nnseg train {run.path}")
    return found


def _train(run: Run, source: PlanFolder, folder: PlanFolder, number: int, part: Fold, options: Options) -> None:
    """Train the plan's network on a part of the cases."""
    if not folder.plan_file.exists() or folder.plan.key() != source.plan.key():
        write_plan(folder.plan_file, source.plan)
    with StopRequest(run.stop_file) as stop:
        progress = ProgressSettings(tensorboard=options.tensorboard, place=f"on {len(part.training)} cases")
        request = TrainingRequest(options=options, stop=stop, progress=progress)
        train_fold(folder, number, part, preprocessed_keys(run, source), request)
        stop.clear()


def _score(run: Run, number: int, part: Fold, trained: PlanFolder, options: Options) -> dict[str, float]:
    """The mean Dice of each held-out case that has one."""
    cases, model, out = run.cases, load_fold(run, trained, number), trained.fold(number).predictions
    job = PredictionJob(cases=tuple(cases[name] for name in part.held_out), out=out, key=model.key())
    pairs = pair_files(cases, out, predict_with_model(job, model, device=options.device))
    scores = evaluate(pairs, run.dataset.labels, measures=Measures(tolerances=()), workers=options.workers, stop_for_faults=True)
    return {case.name: case.mean_dice for case in scores.cases if case.mean_dice is not None}
