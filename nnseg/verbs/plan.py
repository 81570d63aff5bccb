"""``nnseg plan``: look through the dataset, measure it, decide. No torch."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nnseg.core.dataset import Dataset, Finding, Fold, make_folds
from nnseg.core.errors import NnsegError, PlanError
from nnseg.core.parallel import each
from nnseg.core.plan import Budget, Plan, digest
from nnseg.planning.fingerprint import Fingerprint, measure
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe
from nnseg.storage.datasets import content_hash, read_dataset
from nnseg.storage.runs import PlanFolder, RunFolder, read_json, write_json, write_plan
from nnseg.verbs.options import Options, chosen_folds, device_kind
from nnseg.verbs.record import read_record, update_record

log = logging.getLogger(__name__)


class PlanOrigin(BaseModel):
    """What a run's plans were made from, so that a changed input is noticed.

    Args:
        request: digest of fingerprint, recipe and options.
        written: keys of the plans as they were written; a plan that differs was edited by hand.
        seconds: budget of one training, if one was given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str
    written: tuple[str, ...]
    seconds: float | None = None


def survey(folder: Path, run: RunFolder, workers: int) -> tuple[Dataset, Fingerprint]:
    """The dataset and its fingerprint, measured anew only if a file of it has changed."""
    dataset = read_dataset(folder)
    log.info("%s: %s", dataset.name, dataset.describe())
    known = _known_fingerprint(dataset, run)
    if known is None:
        known = measure(dataset, workers=workers)
        write_json(run.fingerprint_file, known)
    write_json(run.dataset_file, dataset)
    return dataset, known


def plan(run: RunFolder, dataset: Dataset, fingerprint: Fingerprint, options: Options) -> tuple[PlanFolder, ...]:
    """The run's plans: kept if they answer the same question, made anew otherwise.

    Raises:
        PlanError: the question changed but the plan was edited by hand, so that making it anew would lose the edit.
    """
    folds = folds_of(run, dataset, fingerprint, options)
    recipe = load_recipe(options.recipe)
    chosen = chosen_folds(options.folds, len(folds))
    kind = device_kind(options.device)
    request = digest(
        [fingerprint.key, recipe.model_dump(mode="json"), options.kinds, options.seed, kind, options.budget, len(chosen)]
    )
    origin = _origin(run)
    if origin and origin.request == request:
        return run.plans()
    if origin and (edited := _edited(run, origin)):
        raise PlanError(
            f"{edited} was edited by hand, but the dataset, recipe or options have changed since; use the old options, "
            "or a new run folder, or delete the file to have it made anew"
        )
    count = 2 if options.kinds == "both" else 1
    seconds = None if options.budget is None else options.budget / (len(chosen) * count)
    plans = make_plans(fingerprint, Budget(seconds=seconds, device=kind), recipe, kinds=options.kinds)
    if options.seed is not None:
        plans = tuple(with_seed(p, options.seed) for p in plans)
    _retire(run, plans)
    folders = run.plan_folders(plans)
    for place, made in zip(folders, plans, strict=True):
        write_plan(place.plan_file, made)
    update_record(run, plan=PlanOrigin(request=request, written=tuple(p.key() for p in plans), seconds=seconds).model_dump())
    return folders


def folds_of(run: RunFolder, dataset: Dataset, fingerprint: Fingerprint, options: Options) -> tuple[Fold, ...]:
    """The run's folds: those on file if they still divide the usable cases, else made anew."""
    usable = sorted(case.name for case in fingerprint.cases)
    if run.folds_file.exists():
        folds = read_json(run.folds_file, tuple[Fold, ...])
        if sorted({n for f in folds for n in (*f.training, *f.held_out)}) == usable:
            return folds
        log.warning("the cases have changed: dividing them into folds anew")
    blocks = options.split == "blocks" or (options.split == "auto" and _is_a_stack(fingerprint))
    if blocks:
        log.info("cases are numbered slices of one stack: folds are blocks of neighbours (--split random to shuffle)")
    folds = make_folds(usable, blocks=blocks)
    write_json(run.folds_file, folds)
    return folds


def findings_of(fingerprint: Fingerprint) -> tuple[Finding, ...]:
    """Everything found in the dataset, errors first."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(fingerprint.findings, key=lambda f: order[f.level]))


def with_seed(plan: Plan, seed: int) -> Plan:
    """The plan with another seed."""
    return plan.model_copy(update={"training": plan.training.model_copy(update={"seed": seed})})


def seconds_of(run: RunFolder) -> float | None:
    """Budget of one training that the plans were made for."""
    origin = _origin(run)
    return origin.seconds if origin else None


def _known_fingerprint(dataset: Dataset, run: RunFolder) -> Fingerprint | None:
    if not run.fingerprint_file.exists() or not run.dataset_file.exists():
        return None
    known = read_json(run.fingerprint_file, Fingerprint)
    if read_json(run.dataset_file, Dataset) != dataset:
        return None
    keys = {case.name: case.key for case in known.cases} | known.unusable
    outcomes = each(content_hash, [(*case.images, *([case.labels] if case.labels else [])) for case in dataset.cases])
    same = all((outcome.result or "") == keys.get(case.name) for case, outcome in zip(dataset.cases, outcomes, strict=True))
    return known if same else None


def _is_a_stack(fingerprint: Fingerprint) -> bool:
    """2D images whose names differ only by a running number are most likely neighbours in one volume."""
    names = [re.fullmatch(r"(.*?)(\d+)", case.name) for case in fingerprint.cases]
    stems = {m.group(1) for m in names if m}
    return len(names) > 1 and all(names) and len(stems) == 1 and all(case.shape[0] == 1 for case in fingerprint.cases)


def _origin(run: RunFolder) -> PlanOrigin | None:
    content = read_record(run).get("plan")
    try:
        run.plans()
    except NnsegError:
        return None
    return PlanOrigin.model_validate(content) if content else None


def _edited(run: RunFolder, origin: PlanOrigin) -> Path | None:
    return next((f.plan_file for f in run.plans() if f.plan().key() not in origin.written), None)


def _retire(run: RunFolder, plans: tuple[Plan, ...]) -> None:
    """Remove plan files that the new set of plans does not replace."""
    kept = {f.plan_file for f in run.plan_folders(plans)}
    for old in (run.path / "plan.toml", *run.path.glob("*/plan.toml")):
        if old not in kept:
            old.unlink(missing_ok=True)
