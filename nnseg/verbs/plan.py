"""``nnseg plan``: look through the dataset, measure it, decide. No torch."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nnseg.core.dataset import Case, Dataset, Finding, Fold, make_folds
from nnseg.core.errors import PlanError, RunError
from nnseg.core.parallel import each
from nnseg.core.plan import Budget, Plan
from nnseg.planning.fingerprint import Fingerprint, measure
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe
from nnseg.storage.datasets import content_hash
from nnseg.storage.runs import PlanFolder, RunFolder, read_json, read_plan, write_json, write_plan
from nnseg.verbs.options import Options, Split, chosen_folds, device_kind
from nnseg.verbs.record import read_record, update_record

log = logging.getLogger(__name__)


class PlanOrigin(BaseModel):
    """What the planner wrote into a run, so that an edit by hand is told from an old plan.

    Args:
        written: keys of all plans it ever wrote here; a plan with another key was edited by hand.
        current: keys of those it wrote last.
        seconds: budget of one training, if one was given.
        split: how cases were asked to be divided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    seconds: float | None = None
    split: Split = "auto"


def survey(dataset: Dataset, run: RunFolder, workers: int) -> Fingerprint:
    """The dataset's fingerprint, measured anew only if a file of it has changed."""
    log.info("%s: %s", dataset.name, dataset.describe())
    known = _known_fingerprint(dataset, run, workers)
    if known is None:
        known = measure(dataset, workers=workers)
        write_json(run.fingerprint_file, known)
    for finding in findings_of(known):
        if finding.level != "note":
            log.warning("%s: %s", finding.level, finding)
    write_json(run.dataset_file, dataset)
    return known


def plan(run: RunFolder, fingerprint: Fingerprint, options: Options) -> tuple[PlanFolder, ...]:
    """The run's plans and folds: those on file if the planner would decide the same again, edits included, else made anew.

    Raises:
        PlanError: the planner would now decide otherwise, but a plan was edited by hand, and the edit would be lost.
    """
    origin = _origin(run)
    folds = _folds(run, fingerprint, options.split, origin)
    chosen = chosen_folds(options.folds, len(folds))
    recipe, count = load_recipe(options.recipe), 2 if options.kinds == "both" else 1
    seconds = None if options.budget is None else share(options.budget, plans=count, folds=len(chosen))
    plans = make_plans(fingerprint, Budget(seconds=seconds, device=device_kind(options.device)), recipe, kinds=options.kinds)
    if options.seed is not None:
        plans = tuple(with_seed(p, options.seed) for p in plans)
    keys, folders = tuple(p.key() for p in plans), run.plan_folders(plans)
    origin = origin.model_copy(update={"seconds": seconds, "split": options.split})
    if origin.current != keys:
        if edited := _edited(run, origin):
            raise PlanError(
                f"{edited} was edited by hand, but the dataset, recipe or options now lead to another plan; use the old options, "
                "or a new run folder, or delete the file to have it made anew"
            )
        origin = origin.model_copy(update={"written": (*origin.written, *keys)})
        update_record(run, plan=origin.model_dump())  # before the files, so that a kill between leaves no unknown plan
        for old in set(run.plan_files()) - {f.plan_file for f in folders}:
            old.unlink(missing_ok=True)
    for place, made in zip(folders, plans, strict=True):
        if origin.current != keys or not place.plan_file.exists():
            write_plan(place.plan_file, made)
    update_record(run, plan=origin.model_copy(update={"current": keys}).model_dump())
    return folders


def share(budget: float, *, plans: int, folds: int) -> float:
    """The seconds of one training out of a budget for all."""
    return budget / (plans * folds)


def read_folds(run: RunFolder) -> tuple[Fold, ...]:
    """The run's folds, which people may have edited.

    Raises:
        RunError: they are missing, or a case is both trained on and held out, or held out twice.
    """
    folds = read_json(run.folds_file, tuple[Fold, ...])
    held_out = [name for fold in folds for name in fold.held_out]
    leaks = {name for fold in folds for name in set(fold.training) & set(fold.held_out)}
    if leaks or len(set(held_out)) != len(held_out):
        wrong = min(leaks or {n for n in held_out if held_out.count(n) > 1})
        raise RunError(f"{run.folds_file}: case {wrong} must be held out once, and not be trained on in that fold")
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
    return _origin(run).seconds


def _folds(run: RunFolder, fingerprint: Fingerprint, split: Split, origin: PlanOrigin) -> tuple[Fold, ...]:
    """Those on file if they divide the usable cases in the way that is asked for, else made anew."""
    usable = sorted(case.name for case in fingerprint.cases)
    if run.folds_file.exists() and split in ("auto", origin.split):
        folds = read_folds(run)
        if sorted({n for f in folds for n in (*f.training, *f.held_out)}) == usable:
            return folds
        log.warning("the cases have changed: dividing them into folds anew")
    blocks = split == "blocks" or (split == "auto" and _is_a_stack(fingerprint))
    if blocks:
        log.info("folds are blocks of neighbours, as for numbered slices of one stack (--split random to shuffle)")
    folds = make_folds(usable, blocks=blocks)
    write_json(run.folds_file, folds)
    return folds


def _known_fingerprint(dataset: Dataset, run: RunFolder, workers: int) -> Fingerprint | None:
    if not run.fingerprint_file.exists() or not run.dataset_file.exists():
        return None
    known = read_json(run.fingerprint_file, Fingerprint)
    if read_json(run.dataset_file, Dataset) != dataset:
        return None
    keys = {case.name: case.key for case in known.cases} | known.unusable
    found = {o.item.name: o.result or "" for o in each(_hash_of, dataset.cases, workers=workers, label="looking for changes")}
    return known if all(found[case.name] == keys.get(case.name) for case in dataset.cases) else None


def _hash_of(case: Case) -> str:
    return content_hash([*case.images, *([case.labels] if case.labels else [])])


def _is_a_stack(fingerprint: Fingerprint) -> bool:
    """2D images whose names differ only by a running number are most likely neighbours in one volume."""
    names = [re.fullmatch(r"(.*?)(\d+)", case.name) for case in fingerprint.cases]
    stems = {m.group(1) for m in names if m}
    return len(names) > 1 and all(names) and len(stems) == 1 and all(case.shape[0] == 1 for case in fingerprint.cases)


def _origin(run: RunFolder) -> PlanOrigin:
    try:
        return PlanOrigin.model_validate(read_record(run).get("plan") or {})
    except ValidationError:
        return PlanOrigin()


def _edited(run: RunFolder, origin: PlanOrigin) -> Path | None:
    """A plan that the planner did not write as it stands."""
    files = [file for file in run.plan_files() if file.exists()]
    return next((file for file in files if read_plan(file).key() not in origin.written), None)
