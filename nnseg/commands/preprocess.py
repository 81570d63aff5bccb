"""``nnseg preprocess``: every case onto the network's grid, once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import DatasetError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import digest
from nnseg.core.label_files import LabelSource
from nnseg.core.plan import Plan
from nnseg.core.registration import Registration
from nnseg.planning.measure import failure_of
from nnseg.preprocessing.fill_in import fill_in
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.files import read_json, write_json
from nnseg.storage.images.read import read_labels_of, read_objects
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.predictions import held_out_predictions
from nnseg.storage.pseudo_labels import PseudoLabels, read_pseudo_labels
from nnseg.storage.run import Run
from nnseg.system.parallel import map_items
from nnseg.system.progress import sizes_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreprocessingTask:
    """One case to preprocess, with all that a worker process needs.

    Args:
        case: to preprocess.
        plan: that it is preprocessed for.
        store: folder of the preprocessed cases.
        key: see `case_keys`.
        previous: label map that a cascade takes as input.
        pseudo_labels: that fill in what was not annotated.
    """

    case: Case
    plan: Plan
    store: Path
    key: str
    previous: LabelSource | None = None
    pseudo_labels: PseudoLabels | None = None

    def __call__(self) -> tuple[Registration, ...]:
        """Preprocess the case and store it; how its channels were moved."""
        labels, annotated = self.plan.labels.whole, self.case.annotated
        labelled = read_case(self.case, channels=len(self.plan.channels), labels=labels)
        label_map = labelled.label_map
        if self.pseudo_labels and annotated is not None:
            predicted = read_labels_of(self.pseudo_labels.file, labelled.scan)
            label_map = fill_in(label_map, predicted, labels, self.pseudo_labels.names)
            annotated = (*annotated, *self.pseudo_labels.names)
        previous = read_labels_of(self.previous, labelled.scan) if self.previous else None
        objects = read_objects(self.case.labels, labelled.scan) if self.case.labels and self.plan.labels.borders else None
        done = preprocess(labelled.scan, label_map, self.plan, name=self.case.name, previous=previous, objects_ZYX=objects)
        CaseStore(self.store).write(
            replace(done, known=self.plan.labels.known(annotated)), self.key, dimensions=self.plan.dimensions
        )
        return done.registrations


def preprocess_run(run: Run, *, workers: int = 0) -> tuple[Finding, ...]:
    """Preprocess a planned run; returns the cases that failed. Cases of cascades are left to `nnseg.commands.train`.

    Raises:
        RunError: the run is not planned yet.
    """
    first, *later = run.stages
    for plan in (folder.plan for stage in later for folder in stage):
        log.info("%s takes the predictions of %s as input, so its cases are preprocessed by nnseg train", plan.name, plan.previous)
    with run.locked(), run.timed("preprocess"):
        return preprocess_plans(run, first, workers=workers)


def preprocess_plans(run: Run, plans: Sequence[PlanFolder], *, workers: int = 0) -> tuple[Finding, ...]:
    """Preprocess every case for some plans of a run; returns the cases that failed."""
    return tuple(finding for folder in plans for finding in _preprocess_plan(run, folder, workers))


def _preprocess_plan(run: Run, folder: PlanFolder, workers: int) -> tuple[Finding, ...]:
    """Preprocess the cases that are missing or out of date; returns those that failed.

    Raises:
        DatasetError: every case failed.
    """
    plan, store, made = folder.plan, CaseStore.of(folder.cases, folder.plan), predicted_labels(run, folder)
    keys = case_keys(plan, run.fingerprint, made)
    stored = [case for case in run.dataset.cases if case.name in keys and store.has(case.name, keys[case.name])]
    intact = map_items(partial(_is_intact, store), stored, label="looking for damaged cases")
    kept = {outcome.item.name for outcome in intact if outcome.result}
    for case in stored:
        if case.name not in kept:
            log.warning("case %s: its preprocessed file for %s is damaged; it is made again from its scan", case.name, plan.name)
    tasks = [
        PreprocessingTask(
            case=case,
            plan=plan,
            store=folder.cases,
            key=keys[case.name],
            previous=made.previous[case.name].file if made.previous is not None else None,
            pseudo_labels=made.pseudo.get(case.name),
        )
        for case in run.dataset.cases
        if case.name in keys and case.name not in kept
    ]
    failures, moved = [], dict[str, tuple[Registration, ...]]()
    sizes, label = sizes_of({task.case.name: task.case.files for task in tasks}), f"preprocessing for {plan.name}"
    weigh = lambda task: sizes[task.case.name]  # noqa: E731
    for outcome in map_items(PreprocessingTask.__call__, tasks, workers=workers, label=label, weigh=weigh):
        if outcome.reason is not None:
            failures.append(failure_of(outcome.item.case, outcome))
            log.error("%s", failures[-1])
        elif outcome.result:
            moved[outcome.item.case.name] = outcome.result
    _record_registrations(folder.registrations_file, moved, kept)
    if failures and len(failures) == len(keys):
        raise DatasetError(f"no case could be preprocessed; the first: {failures[0]}")
    return tuple(failures)


def _record_registrations(file: Path, moved: Mapping[str, tuple[Registration, ...]], kept: Collection[str]) -> None:
    """Write how channels were moved, by case; of cases that are kept as it is known; no file where no channel was moved."""
    known = read_json(file, dict[str, tuple[Registration, ...]]) if file.exists() else {}
    found = {name: of for name, of in known.items() if name in kept} | dict(moved)
    if found and found != known:
        write_json(file, found)
    elif not found:
        file.unlink(missing_ok=True)


def _is_intact(store: CaseStore, case: Case) -> bool:
    return store.is_intact(case.name)


@dataclass(frozen=True, kw_only=True)
class PreviousPrediction:
    """The input that a cascade takes from another plan: the label map of a case, and its hash."""

    file: Path
    hash: str


def previous_predictions(run: Run, folder: PlanFolder) -> dict[str, PreviousPrediction] | None:
    """The predictions that a cascade takes as input, by case; None if the plan is no cascade."""
    if not (inputs := run.previous([folder])):
        return None
    place = inputs[0].path
    found = held_out_predictions(place, run.folds)
    return {name: PreviousPrediction(file=place / r.file, hash=r.hash) for name, r in found.items() if r.status == "done"}


@dataclass(frozen=True, kw_only=True)
class PredictedLabels:
    """Label maps of networks that preprocessing takes besides a dataset's own, by case.

    Args:
        previous: input of a cascade, without which a case cannot be preprocessed; None if the plan is no cascade.
        pseudo: what fills in labels that were not annotated.
    """

    previous: Mapping[str, PreviousPrediction] | None = None
    pseudo: Mapping[str, PseudoLabels] = field(default_factory=dict)


def predicted_labels(run: Run, folder: PlanFolder) -> PredictedLabels:
    """The label maps of networks that the cases of a plan are preprocessed with."""
    pseudo = read_pseudo_labels(run.pseudo_labels_folder, run.fingerprint.cases)
    return PredictedLabels(previous=previous_predictions(run, folder), pseudo=pseudo)


def preprocessed_keys(run: Run, folder: PlanFolder) -> dict[str, str]:
    """The keys of a plan's preprocessed cases by name, see `case_keys`."""
    return case_keys(folder.plan, run.fingerprint, predicted_labels(run, folder))


def case_keys(plan: Plan, fingerprint: Fingerprint, made: PredictedLabels | None = None) -> dict[str, str]:
    """A digest for each preprocessed case, by name, of all that it depends on: the case's files and how they are preprocessed.

    Args:
        plan: that they are preprocessed for.
        fingerprint: of the dataset.
        made: label maps of networks, if any; cases without the input of a cascade have no key.
    """
    decisions, keys, made = plan.key("preprocessing", "labels", "channels", "previous"), {}, made or PredictedLabels()
    for case in fingerprint.cases:
        if made.previous is None or case.name in made.previous:
            more: list[object] = [case.annotated] if case.annotated else []  # only where it applies, so that old keys stay valid
            more += [made.previous[case.name].hash] if made.previous is not None else []
            more += [[found.names, found.hash]] if (found := made.pseudo.get(case.name)) else []
            keys[case.name] = digest([case.key, decisions, PREPROCESSING_VERSION, *more])
    return keys


PREPROCESSING_VERSION = 1
"""Raised when the code gives other numbers for the same plan, so that old cases are preprocessed anew."""
