"""Properties of cases that scores are grouped by: from a table, or from the DICOM headers of scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.errors import EvaluationError, ScanError, is_fault
from nnseg.core.names import fault_of_name
from nnseg.evaluation.groups import cohorts_of, read_cohorts
from nnseg.storage.images.dicom_headers import TAGS, read_tags
from nnseg.storage.run import Run

log = logging.getLogger(__name__)

DICOM = "dicom"
"""The source of groups that stands for the DICOM headers of a run's own scans."""


def find_cohorts(names: set[str], source: str, run: Run | None) -> dict[str, dict[str, str]]:
    """The groups of cases, by grouping and then by case.

    Args:
        names: of the cases.
        source: a CSV with a column "case"; a folder of DICOM series, one folder a case; or "dicom" for the scans of the run.
        run: with the scans, for "dicom".

    Raises:
        EvaluationError: the scans have no tags, or the table cannot be used.
        DatasetError: the table cannot be read.
    """
    path = Path(source)
    if source != DICOM and not path.is_dir():
        return read_cohorts(path)
    if source == DICOM:
        if run is None or not run.has_dataset:
            raise EvaluationError('groups by "dicom" are read from the scans of a run; name it with --run, or give their folder')
        scans = {case.name: case.images[0] for case in run.dataset.cases if case.name in names}
    else:
        scans = {name: path / name for name in sorted(names) if not fault_of_name(name) and (path / name).exists()}
    return _by_tags(scans)


def _by_tags(scans: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {by: {} for by in TAGS}
    for name, scan in scans.items():
        try:
            tags = read_tags(scan)
        except (ScanError, OSError) as error:
            if is_fault(error) or is_fault(error.__cause__):
                raise
            log.warning("case %s: %s", name, error)
            continue
        for by, value in tags.items():
            found[by][name] = value
    if not any(found.values()):
        raise EvaluationError(
            f"none of {len(scans)} scans is DICOM with {', '.join(TAGS)} in its header; give a CSV with a column called case"
        )
    return cohorts_of(found)
