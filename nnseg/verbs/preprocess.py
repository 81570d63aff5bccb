"""``nnseg preprocess``: every case onto the network's grid, once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError
from nnseg.core.parallel import each
from nnseg.core.plan import Plan, digest
from nnseg.planning.fingerprint import Fingerprint
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets import read_case
from nnseg.storage.runs import PlanFolder, RunFolder, read_json
from nnseg.verbs.record import timed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case to preprocess, with all a worker needs to know."""

    case: Case
    plan: Plan
    store: Path
    key: str

    def __call__(self) -> None:
        """Put the case into the store."""
        labelled = read_case(self.case, channels=len(self.plan.channels), labels=self.plan.labels)
        done = preprocess(labelled.scan, labelled.label_map, self.plan, name=self.case.name)
        CaseStore(self.store).write(done, self.key, dimensions=self.plan.dimensions)


def preprocess_run(run: RunFolder, *, workers: int = 1) -> tuple[Finding, ...]:
    """Preprocess a planned run; returns the cases that failed and why.

    Raises:
        RunError: the run is not planned yet.
    """
    run.plans()
    with run.locked(), timed(run, "preprocess"):
        dataset, fingerprint = read_json(run.dataset_file, Dataset), read_json(run.fingerprint_file, Fingerprint)
        return preprocess_plans(run, dataset, fingerprint, workers=workers)


def preprocess_plans(run: RunFolder, dataset: Dataset, fingerprint: Fingerprint, *, workers: int = 1) -> tuple[Finding, ...]:
    """Preprocess every case for every plan of a run; returns the cases that failed and why."""
    return tuple(f for folder in run.plans() for f in preprocess_cases(folder, dataset, fingerprint, workers=workers))


def preprocess_cases(folder: PlanFolder, dataset: Dataset, fingerprint: Fingerprint, *, workers: int = 1) -> tuple[Finding, ...]:
    """Preprocess what is not there yet; returns the cases that failed and why.

    Raises:
        DatasetError: every case failed.
    """
    plan, store = folder.plan(), CaseStore(folder.cases)
    keys = case_keys(plan, fingerprint)
    tasks = [
        Task(case=case, plan=plan, store=folder.cases, key=keys[case.name])
        for case in dataset.cases
        if case.name in keys and not store.has(case.name, keys[case.name])
    ]
    failures = []
    for outcome in each(_do, tasks, workers=workers, label=f"preprocessing for {plan.name}"):
        if outcome.reason is not None:
            failures.append(Finding(level="error", case=outcome.item.case.name, message=outcome.reason))
            log.error("%s", failures[-1])
            log.debug("%s", outcome.details)
    if failures and len(failures) == len(keys):
        raise DatasetError(f"no case could be preprocessed; the first: {failures[0]}")
    return tuple(failures)


def case_keys(plan: Plan, fingerprint: Fingerprint) -> dict[str, str]:
    """What each preprocessed case depends on, as a digest: its files' contents and the plan's preprocessing."""
    decisions = plan.key("preprocessing", "labels", "channels")
    return {case.name: digest([case.key, decisions, PREPROCESSING_VERSION]) for case in fingerprint.cases}


PREPROCESSING_VERSION = 1
"""Raised when the code gives other numbers for the same plan, so that old cases are made anew."""


def _do(task: Task) -> None:
    task()
