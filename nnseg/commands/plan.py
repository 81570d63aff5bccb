"""``nnseg plan``: measure the dataset, decide on plans, and estimate their cost. No torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnseg.commands.probe import free_resources, known_probe, probe
from nnseg.core.dataset import Dataset, Finding, by_severity
from nnseg.core.errors import DatasetError, PlanError, RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.options import SPLIT_FILES, Options, device_kind, select_folds
from nnseg.core.plan import Budget, Plan
from nnseg.core.pretrained import Pretrained
from nnseg.core.probe import Probe, Trial
from nnseg.planning.candidates import Candidate, choose, is_worth_measuring
from nnseg.planning.configurations import check_names
from nnseg.planning.fine_tuning import check_annotated, describe_adoption, model_for
from nnseg.planning.planner import make_candidates
from nnseg.planning.preflight import Preflight, add_first_stages, check_fits, preflight
from nnseg.planning.recipe import Recipe, load_recipe
from nnseg.planning.run_folds import decide_folds
from nnseg.storage.datasets.groups import TABLES, check_grouping
from nnseg.storage.files import read_json
from nnseg.storage.model_plans import read_model_plans
from nnseg.storage.plan_folder import SCHEMA_FILE, PlanFolder, read_plan, write_plan, write_schema
from nnseg.storage.pretrained import description_file, read_pretrained
from nnseg.storage.run import Run
from nnseg.system.machine import free_device_gb
from nnseg.system.progress import stage

log = logging.getLogger(__name__)

USED_SHARE = 0.9
"""Share of a device's free memory that a plan may fill; the rest is for the libraries."""


class PlanOrigin(BaseModel):
    """The plans that the planner wrote into a run, to tell edited plans from old ones.

    Args:
        written: keys of all of them; a plan with another key was edited by hand.
        current: keys of the last ones.
        asked: digest of the options; with the same ones plans stay, even if the machine has other memory free by now.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # records of earlier versions have more keys

    written: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    asked: str = ""


class PlanOnFile(FrozenModel):
    """A plan of a run and its file.

    Args:
        file: the plan.toml.
        plan: what it holds.
    """

    file: Path
    plan: Plan


class PlannedRun(FrozenModel):
    """What ``nnseg plan`` makes.

    Args:
        plans: with the reason for each decision.
        costs: estimated time, memory and disk of each.
        findings: problems of the dataset, errors first.
    """

    plans: tuple[PlanOnFile, ...]
    costs: tuple[Preflight, ...]
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)


def take_fingerprint(file: Path, run: Run) -> Fingerprint:
    """The fingerprint in a file, for which no image library is loaded; kept in the run.

    Raises:
        DatasetError: the file holds none, or the run was made from a dataset.
    """
    try:
        fingerprint = read_json(file, Fingerprint)
    except RunError as error:
        if error.is_fault:
            raise
        raise DatasetError(f"{file} is neither a folder nor the fingerprint.json of this version of nnseg") from error
    if run.has_dataset:
        raise DatasetError(f"{run.path} was made from a dataset; give its folder, or another run folder for a plan from {file}")
    run.fingerprint = fingerprint
    return fingerprint


def plan_run(run: Run, fingerprint: Fingerprint, options: Options) -> PlannedRun:
    """The plans of a run with their cost; raises as `plan` and `estimate_cost` do."""
    with stage("planning"):
        folders = plan(run, options)
    return PlannedRun(
        plans=tuple(PlanOnFile(file=folder.plan_file, plan=folder.plan) for folder in folders),
        costs=estimate_cost(run, options),
        findings=by_severity(fingerprint.findings),
    )


def check_options(options: Options) -> None:
    """Raise the errors of options that show without a dataset, before one is measured and before a finished run is changed.

    Raises:
        NnsegError: there is no such recipe, model, plan or file, or an expression for groups is wrong.
    """
    load_recipe(options.recipe)
    check_names(options.kinds)
    _beginning(options)
    for text, suffixes in ((options.split, SPLIT_FILES), (options.group_by or "", TABLES)):
        if Path(text).suffix.lower() in suffixes and not Path(text).is_file():
            raise DatasetError(f"{text}: there is no such file; give its path anew")
    if options.group_by not in (None, "none", "auto"):
        check_grouping(options.group_by)


class _Beginning(NamedTuple):
    """What a training begins with: plans of a trained model, or weights from elsewhere, or neither."""

    models: tuple[Plan, ...] = ()
    weights: Pretrained | None = None


def _beginning(options: Options) -> _Beginning:
    if options.init is None:
        return _Beginning()
    description = description_file(options.init)
    return _Beginning(weights=read_pretrained(description)) if description else _Beginning(models=read_model_plans(options.init))


def plan(run: Run, options: Options) -> tuple[PlanFolder, ...]:
    """The run's plans and folds: those on file, edits included, if options and decisions are the same as before; else new ones.

    Args:
        run: with its fingerprint. Candidate plans are tried on the dataset, if the run has it.
        options: of the command.

    Raises:
        PlanError: the plans would change, but one was edited by hand, and the edit would be lost.
        DatasetError: a label is annotated in no case, and no model to begin with has it.
    """
    recipe, fingerprint = load_recipe(options.recipe), run.fingerprint
    dataset = run.dataset if run.has_dataset else None
    beginning = _beginning(options)
    check_annotated(fingerprint, beginning.models)
    origin, asked = _origin(run), _options_key(fingerprint, recipe, options, beginning)
    folds = decide_folds(run, dataset, fingerprint, split=options.split, group_by=options.group_by, every_case=options.every_case)
    if _files(run) and not origin.current:
        log.warning("it is not known what the plans on file were made from, since run.json was lost: they are kept as they are")
        run.update_record(plan=PlanOrigin(current=tuple(folder.plan.key() for folder in run.plans), asked=asked).model_dump())
        origin = _origin(run)
    _complete_schemas(run)
    if asked == origin.asked and len(known := run.plans if _files(run) else ()) == len(origin.current):
        return known
    chosen = len(select_folds(options.folds, len(folds)))
    plans = _decide(run, dataset, fingerprint, recipe, options, folds=chosen, beginning=beginning)
    keys, folders = tuple(p.key() for p in plans), run.folders_for(plans)
    if origin.current != keys:
        if edited := _edited(run, origin):
            raise PlanError(
                f"{edited} was edited by hand, but the dataset, recipe or options now lead to another plan; use the old options, "
                "or a new run folder, or delete the file to have it made anew"
            )
        origin = origin.model_copy(update={"written": (*origin.written, *keys)})
        run.update_record(plan=origin.model_dump())  # before the files: if killed in between, no plan is taken for an edited one
        for old in set(run.plan_files) - {f.plan_file for f in folders}:
            old.unlink(missing_ok=True)
            old.with_name(SCHEMA_FILE).unlink(missing_ok=True)
    for folder, new in zip(folders, plans, strict=True):
        if origin.current != keys or not folder.plan_file.exists():
            write_plan(folder.plan_file, new)
    run.update_record(plan=origin.model_copy(update={"current": keys, "asked": asked}).model_dump())
    return folders


def _complete_schemas(run: Run) -> None:
    """Write the schemas that are missing beside plans."""
    for file in _files(run):
        if not file.with_name(SCHEMA_FILE).exists():
            write_schema(file)


def _options_key(fingerprint: Fingerprint, recipe: Recipe, options: Options, beginning: _Beginning) -> str:
    """A digest of what plans are made from, except the machine."""
    names = (
        "kinds", "budget", "steps", "epochs", "patience", "memory_gb", "folds", "device", "devices", "probe", "seed", "every_case",
        "register",
    )  # fmt: skip
    unasked = ("devices",) if options.cluster else ()  # as many as the cluster has now
    wanted = {name: value for name in names if (value := getattr(options, name)) not in (None, ()) and name not in unasked}
    begun: list[Any] = [[model.key() for model in beginning.models]] if beginning.models else []
    begun += [beginning.weights.model_dump(mode="json")] if beginning.weights else []
    test = [[case.name for case in fingerprint.cases if case.is_test]]
    return digest([fingerprint.key, recipe.model_dump(mode="json"), wanted, *begun, *(test if test[0] else [])])


def _files(run: Run) -> list[Path]:
    """The files of the run's plans; empty if there are none yet."""
    return [file for file in run.plan_files if file.exists()]


def _decide(
    run: Run,
    dataset: Dataset | None,
    fingerprint: Fingerprint,
    recipe: Recipe,
    options: Options,
    *,
    folds: int,
    beginning: _Beginning,
) -> tuple[Plan, ...]:
    """New plans, after trials of candidates if these are wanted and there is a dataset to try them on."""
    device, memory_gb = device_kind(options.device), options.memory_gb
    if memory_gb is None and device == "cuda" and recipe.planner.fills_memory:
        memory_gb = USED_SHARE * free_device_gb(options.device) or None
    steps = options.steps if options.epochs is None else options.epochs * recipe.for_device(device).training.epoch_steps
    budget = Budget(seconds=options.budget, steps=steps, device=device, memory_gb=memory_gb)
    candidates = make_candidates(
        fingerprint, budget, recipe, kinds=options.kinds, models=beginning.models, weights=beginning.weights
    )
    if beginning.weights:
        log.info("%s: %s", options.init, beginning.weights.describe())
    for candidate, *_ in candidates:
        if model := model_for(candidate.plan.name, beginning.models):
            log.info("%s: %s", options.init, describe_adoption(candidate.plan, model))
    if options.budget is not None:
        seconds = share_budget(options.budget, plans=len(candidates), folds=folds, parallel=len(options.devices))
        budget = budget.model_copy(update={"seconds": seconds})
    measured = None
    if dataset is not None and options.probe:
        measured = _try_candidates(run, dataset, fingerprint, candidates, budget, options.device)
    plans = (choose(of_kind, budget, measured) for of_kind in candidates)
    return tuple(_with_settings(plan, options) for plan in plans)


def _with_settings(plan: Plan, options: Options) -> Plan:
    """A plan with the settings that options give as they stand in it."""
    changes = {name: value for name in ("seed", "patience") if (value := getattr(options, name)) is not None}
    preprocessing = plan.preprocessing
    if options.register:
        why = preprocessing.why | {"registration": "given by --register"}
        preprocessing = preprocessing.model_copy(update={"registration": options.register, "why": why})
    return plan.model_copy(update={"training": plan.training.model_copy(update=changes), "preprocessing": preprocessing})


def _try_candidates(
    run: Run,
    dataset: Dataset,
    fingerprint: Fingerprint,
    candidates: Sequence[Sequence[Candidate]],
    budget: Budget,
    device: str,
) -> Probe:
    """Trials of the candidates: of each configuration the cheapest, then more expensive ones as long as the budget may suffice."""
    trials: dict[str, Trial] = {}

    def plans_to_try() -> Iterator[Plan]:
        for of_kind in candidates:
            for cheaper, candidate in zip((None, *of_kind), of_kind, strict=False):
                if cheaper and not is_worth_measuring(candidate, cheaper, trials[cheaper.plan.key()], budget):
                    break
                yield candidate.plan

    def keep(plan: Plan, trial: Trial) -> bool:
        trials[plan.key()] = trial
        return False

    most = sum(map(len, candidates))
    return probe(run, dataset, fingerprint, plans_to_try(), device=device, most=most, enough=keep)


def estimate_cost(run: Run, options: Options) -> tuple[Preflight, ...]:
    """The estimated cost of the run's plans as they are in their files.

    Raises:
        PlanError: one does not fit this machine; the message says what would fit.
    """
    folds, fingerprint = run.folds, run.fingerprint
    chosen = [folds[n] for n in select_folds(options.folds, len(folds))]
    measured = known_probe(run, fingerprint, device=options.device) if options.probe else None
    device = device_kind(options.device)
    plans = [folder.plan for folder in run.plans]
    alone = [preflight(p, fingerprint, measured, folds=chosen, workers=options.workers, device=device) for p in plans]
    found = add_first_stages(alone, plans)
    check_fits(found, free_resources(run, options.device))
    return found


def share_budget(budget: float, *, plans: int, folds: int, parallel: int = 1) -> float:
    """The seconds for one of all trainings, of which ``parallel`` run at a time."""
    return budget / math.ceil(plans * folds / max(1, parallel))


def _origin(run: Run) -> PlanOrigin:
    try:
        return PlanOrigin.model_validate(run.record.get("plan") or {})
    except ValidationError:
        return PlanOrigin()


def _edited(run: Run, origin: PlanOrigin) -> Path | None:
    """The file of a plan that was edited by hand."""
    return next((file for file in _files(run) if read_plan(file).key() not in origin.written), None)
