"""What a dataset holds: its fingerprint, measured when it has changed."""

from __future__ import annotations

import logging

from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import RunError
from nnseg.core.parallel import each
from nnseg.planning.fingerprint import Fingerprint
from nnseg.planning.measure import measure
from nnseg.storage.datasets import content_hash
from nnseg.storage.runs import RunFolder, read_json, write_json
from nnseg.verbs.plan import findings_of

log = logging.getLogger(__name__)


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


def _known_fingerprint(dataset: Dataset, run: RunFolder, workers: int) -> Fingerprint | None:
    try:
        known, described = read_json(run.fingerprint_file, Fingerprint), read_json(run.dataset_file, Dataset)
    except RunError:  # there is none, or another version of nnseg wrote it: measuring again mends that
        return None
    if described != dataset or "format" not in known.model_fields_set:
        return None
    keys = {case.name: case.key for case in known.cases} | known.unusable
    found = {o.item.name: o.result or "" for o in each(_hash_of, dataset.cases, workers=workers, label="looking for changes")}
    return known if all(found[case.name] == keys.get(case.name) for case in dataset.cases) else None


def _hash_of(case: Case) -> str:
    return content_hash(case.files)
