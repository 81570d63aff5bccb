"""The fingerprint of a run's dataset, measured when a file has changed; `nnseg.commands.plan` loads no image library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

from nnseg.core.dataset import AS_FOUND, Case, Dataset, Reading
from nnseg.core.errors import NewerVersionError, RunError, suppress_unless_fault
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.options import Options
from nnseg.planning.dataset_summary import WIDTH, summarize_dataset
from nnseg.planning.measure import read_and_measure, refuse
from nnseg.planning.measure_folder import measure_folder
from nnseg.planning.run_folds import check_fold_options, split_of_run
from nnseg.storage.datasets.content import case_key
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.splits import cases_for_testing
from nnseg.storage.run import Run
from nnseg.system.parallel import map_items
from nnseg.system.progress import columns

log = logging.getLogger(__name__)

TIME_COLUMNS = 10
"""Columns of a terminal that the time of day takes, and the last one, which stays free."""


def reading_for(run: Run, options: Options) -> Reading:
    """How a run's dataset is to be read: as the options of the command say, or without any as those that were given before."""
    given = Reading.of(options)
    if given != AS_FOUND or not run.has_dataset:
        return given
    with suppress_unless_fault(RunError):  # written by another version
        return run.dataset.reading
    return given


def find_dataset(run: Run, folder: Path, options: Options) -> FoundDataset:
    """What a dataset's folder holds, before any case is read, and before a folder is made for the run.

    Raises:
        DatasetError: it holds no dataset.
        NnsegError: options of the folds do not fit its cases.
    """
    found = find_layout(folder.absolute(), reading_for(run, options))
    check_fold_options(run, folder, found, options)
    return found


def measure_dataset(
    run: Run,
    folder: Path,
    workers: int,
    *,
    split: str = "auto",
    allow: Collection[str] = (),
    found: FoundDataset | None = None,
) -> Fingerprint:
    """The fingerprint of the dataset in a folder, measured again only if a file has changed; written to the run with the dataset.

    Args:
        run: that it is of.
        folder: of the dataset.
        workers: processes.
        allow: codes of findings that do not stop a run.
        split: option for the folds, of which a file may set cases apart for testing.
        found: what the folder holds, if `find_dataset` has looked already.

    Raises:
        DatasetError: the folder holds no dataset that can be used, or a finding stops the run.
    """
    known, split, found = None, split_of_run(run, split), found or find_layout(folder.absolute(), AS_FOUND)
    if run.has_dataset:
        dataset = read_dataset(folder, workers=workers, found=found)
        known = _known_fingerprint(run, dataset, split, workers)
    if known is None:
        dataset, fingerprint = measure_folder(folder, workers=workers, found=found, split=split)
        run.fingerprint = fingerprint
    else:
        fingerprint = known
    for line in summarize_dataset(dataset, fingerprint, width=columns() - TIME_COLUMNS if sys.stderr.isatty() else WIDTH):
        log.info("%s", line)
    run.dataset = dataset
    allowed = refuse(fingerprint, allow, folder)
    if allowed != fingerprint:
        run.fingerprint = allowed
    return allowed


def _known_fingerprint(run: Run, dataset: Dataset, split: str, workers: int) -> Fingerprint | None:
    """The run's fingerprint, if it is of this version of nnseg, and neither files nor the cases for testing have changed since."""
    try:
        known, described = run.fingerprint, run.dataset
    except NewerVersionError:
        raise
    except RunError:  # missing, or written by another version
        return None
    if described != dataset or "format" not in known.model_fields_set:
        return None
    test = cases_for_testing(dataset.cases, split, unusable={finding.case for finding in dataset.findings})
    if any(case.is_test != (case.name in test) for case in known.cases):
        return None
    keys = {case.name: case.key for case in known.cases} | known.unusable
    found = {o.item.name: o.result or "" for o in map_items(_hash_of, dataset.cases, workers=workers, label="looking for changes")}
    unchanged = all(found[case.name] == keys.get(case.name) for case in dataset.cases)
    return known if unchanged and not _recovered(known, dataset, workers) else None


def _recovered(known: Fingerprint, dataset: Dataset, workers: int) -> bool:
    """True if a case that could not be used can be now, though its files are the same: a disk had failed, or memory had run out."""
    lost = [case for case in dataset.cases if case.name in known.unusable]
    measure_again = partial(read_and_measure, labels=dataset.labels, channels=len(dataset.channels), sample=1)
    return any(outcome.reason is None for outcome in map_items(measure_again, lost, workers=workers))


def _hash_of(case: Case) -> str:
    return case_key(case)
