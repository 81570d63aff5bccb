"""Models of runs and files: what ``nnseg predict`` loads and ``nnseg export`` writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nnseg.core.errors import ModelError, RunError
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.storage.runs import PlanFolder, RunFolder
from nnseg.verbs.record import read_record, versions
from nnseg.verbs.schedule import read_schedule

log = logging.getLogger(__name__)


def load_model(path: str | Path, *, folds: tuple[int, ...] | None = None) -> Model:
    """The model of a run folder or an exported file: all trained folds of all its plans, or the chosen ones.

    Where there is a cascade, the networks of the plan before it are the model's ``previous`` and not its members.

    Raises:
        ModelError: there is nothing at the path, or no trained fold, or a chosen fold is not trained.
    """
    path = Path(path)
    if path.is_file():
        return load_model_file(path)
    if not path.is_dir():
        raise ModelError(f"there is no model {path}; give a run folder or a file made by nnseg export")
    run = RunFolder(path)
    answering = run.answering()
    members, previous = (
        tuple(m for folder in run.plans() if (folder in answering) is answers for m in _trained(run, folder, folds))
        for answers in (True, False)
    )
    about = {"made_by": f"nnseg {versions()['nnseg']}", "dataset": members[0].plan.dataset}
    return Model(members=members, about=about, previous=previous)


def _trained(run: RunFolder, folder: PlanFolder, folds: tuple[int, ...] | None) -> list[Member]:
    """The networks of a plan's trained folds, or of the chosen ones."""
    trained = {f.number: load_model_file(f.model_file).members[0] for f in folder.trained_folds()}
    missing = set(folds or ()) - set(trained)
    if missing or not trained:
        raise ModelError(f"{folder.path}: fold {min(missing, default=0)} is not trained yet; run nnseg train {run.path}")
    chosen = {number: member for number, member in trained.items() if folds is None or number in folds}
    for number, member in chosen.items():
        if member.plan.key() != folder.plan().key():
            raise ModelError(
                f"fold {number} was trained by another plan than {folder.plan_file} is now; run nnseg train {run.path} to renew "
                "it, or choose other folds"
            )
        schedule = read_schedule(folder.fold(number))
        if schedule and schedule.ended is None:
            log.warning("the training of %s fold %d was stopped; its network is used as it was then", member.plan.name, number)
    return list(chosen.values())


def merge(models: Sequence[Model]) -> Model:
    """One model of all members, and of all networks that cascades among them are shown; ModelError if labels or channels differ."""
    members = tuple(member for model in models for member in model.members)
    previous = tuple(member for model in models for member in model.previous)
    return Model(members=members, about=models[0].about, previous=previous)


def export(run: RunFolder, path: Path, *, folds: tuple[int, ...] | None = None) -> Model:
    """Write a run's model as one file that is enough alone.

    Raises:
        RunError: the run is empty.
    """
    if not run.record_file.exists():
        raise RunError(f"{run.path} is not a run folder")
    model = load_model(run.path, folds=folds)
    about = {**model.about, "exported": datetime.now(UTC).isoformat(timespec="seconds")}
    about |= {f"trained with {k}": str(v) for k, v in read_record(run).get("versions", {}).items()}
    model = replace(model, about=about)
    save_model(model, path)
    return model
