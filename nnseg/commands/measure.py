"""The fingerprint of a run's dataset, measured when a file has changed; `nnseg.commands.plan` loads no image library."""

from __future__ import annotations

import logging

from nnseg.core.dataset import Case, Dataset, by_severity
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.planning.measure import measure
from nnseg.storage.datasets.read import case_key
from nnseg.storage.run import Run
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)


def measure_dataset(run: Run, dataset: Dataset, workers: int) -> Fingerprint:
    """The dataset's fingerprint, measured again only if one of its files has changed; written to the run with the dataset."""
    log.info("%s: %s", dataset.name, dataset.describe())
    fingerprint = _known_fingerprint(run, dataset, workers)
    if fingerprint is None:
        fingerprint = measure(dataset, workers=workers)
        run.fingerprint = fingerprint
    for finding in by_severity(fingerprint.findings):
        if finding.level != "note":
            log.warning("%s: %s", finding.level, finding)
    run.dataset = dataset
    return fingerprint


def _known_fingerprint(run: Run, dataset: Dataset, workers: int) -> Fingerprint | None:
    """The run's fingerprint, if it is of this version of nnseg and no file of the dataset has changed since."""
    try:
        known, described = run.fingerprint, run.dataset
    except RunError:  # missing, or written by another version
        return None
    if described != dataset or "format" not in known.model_fields_set:
        return None
    keys = {case.name: case.key for case in known.cases} | known.unusable
    found = {o.item.name: o.result or "" for o in map_items(_hash_of, dataset.cases, workers=workers, label="looking for changes")}
    return known if all(found[case.name] == keys.get(case.name) for case in dataset.cases) else None


def _hash_of(case: Case) -> str:
    return case_key(case)
