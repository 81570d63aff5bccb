"""``nnseg preprocess``: every case onto the network's grid, once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.frozen import digest
from nnseg.core.plan import Plan
from nnseg.crossval.cascade import PreviousPrediction, answers, in_order
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.read import read_case
from nnseg.storage.images.read import read_label_map
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreprocessingTask:
    """One case to preprocess, with all a worker needs to know.

    Args:
        case: to preprocess.
        plan: for which.
        store: folder it is put into.
        key: that it is stored with, see `case_keys`.
        previous: file of the answer that a cascade is shown.
    """

    case: Case
    plan: Plan
    store: Path
    key: str
    previous: Path | None = None

    def __call__(self) -> None:
        """Put the case into the store."""
        labelled = read_case(self.case, channels=len(self.plan.channels), labels=self.plan.labels)
        previous = read_label_map(self.previous, like=labelled.scan.source) if self.previous else None
        done = preprocess(labelled.scan, labelled.label_map, self.plan, name=self.case.name, previous=previous)
        done = replace(done, known=self.plan.labels.known(self.case.annotated))
        CaseStore(self.store).write(done, self.key, dimensions=self.plan.dimensions)


def preprocess_run(run: Run, *, workers: int = 1) -> tuple[Finding, ...]:
    """Preprocess a planned run; returns the cases that failed and why. A cascade's cases are left to the training before it.

    Raises:
        RunError: the run is not planned yet.
    """
    first, *later = in_order(run)
    for plan in (folder.plan for group in later for folder in group):
        log.info("%s is shown the answers of %s, so its cases are made by nnseg train", plan.name, plan.previous)
    with run.locked(), run.timed("preprocess"):
        dataset, fingerprint = run.dataset, run.fingerprint
        return preprocess_plans(run, first, dataset, fingerprint, workers=workers)


def preprocess_plans(
    run: Run, plans: Sequence[PlanFolder], dataset: Dataset, fingerprint: Fingerprint, *, workers: int = 1
) -> tuple[Finding, ...]:
    """Preprocess every case for some plans of a run; returns the cases that failed and why."""
    return tuple(f for folder in plans for f in _preprocess_cases(run, folder, dataset, fingerprint, workers))


def _preprocess_cases(
    run: Run, folder: PlanFolder, dataset: Dataset, fingerprint: Fingerprint, workers: int
) -> tuple[Finding, ...]:
    """Preprocess what is not there yet; returns the cases that failed and why.

    Raises:
        DatasetError: every case failed.
    """
    plan, store, shown = folder.plan, CaseStore(folder.cases), answers(run, folder.plan)
    keys, files = case_keys(plan, fingerprint, shown), {name: answer.file for name, answer in (shown or {}).items()}
    tasks = [
        PreprocessingTask(case=case, plan=plan, store=folder.cases, key=keys[case.name], previous=files.get(case.name))
        for case in dataset.cases
        if case.name in keys and not store.has(case.name, keys[case.name])
    ]
    failures = []
    for outcome in map_items(_do, tasks, workers=workers, label=f"preprocessing for {plan.name}"):
        if outcome.reason is not None:
            failures.append(Finding(level="error", case=outcome.item.case.name, message=outcome.reason))
            log.error("%s", failures[-1])
            log.debug("%s", outcome.details)
    if failures and len(failures) == len(keys):
        raise DatasetError(f"no case could be preprocessed; the first: {failures[0]}")
    return tuple(failures)


def keys_of(run: Run, folder: PlanFolder, fingerprint: Fingerprint) -> dict[str, str]:
    """The keys of a plan's preprocessed cases, see `case_keys`; a cascade's are those that the plan before has answered."""
    plan = folder.plan
    return case_keys(plan, fingerprint, answers(run, plan))


def case_keys(plan: Plan, fingerprint: Fingerprint, shown: Mapping[str, PreviousPrediction] | None = None) -> dict[str, str]:
    """What each preprocessed case depends on, as a digest: its files' contents and the plan's preprocessing.

    Args:
        plan: which says how.
        fingerprint: of the dataset.
        shown: the answers that a cascade is shown, on which its cases depend too; there are no others.
    """
    decisions = plan.key("preprocessing", "labels", "channels", "previous")
    return {
        case.name: digest([case.key, decisions, PREPROCESSING_VERSION, *_more(case, shown)])
        for case in fingerprint.cases
        if shown is None or case.name in shown
    }


def _more(case: CaseMeasure, shown: Mapping[str, PreviousPrediction] | None) -> list[object]:
    """What not every case depends on; nothing where there is none, so that keys stay what they were."""
    return [*([case.annotated] if case.annotated else []), *([shown[case.name].hash] if shown is not None else [])]


PREPROCESSING_VERSION = 1
"""Raised when the code gives other numbers for the same plan, so that old cases are made anew."""


def _do(task: PreprocessingTask) -> None:
    task()
