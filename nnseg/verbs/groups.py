"""Scores of groups of cases, by a table or by what the scans' DICOM headers say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.dataset import Dataset
from nnseg.core.errors import EvaluationError, ScanError
from nnseg.evaluation.cohorts import Grouped, cohorts_of, grouped, read_cohorts
from nnseg.evaluation.scores import Scores
from nnseg.storage.dicom_tags import TAGS, read_tags
from nnseg.storage.runs import RunFolder, read_json

log = logging.getLogger(__name__)

DICOM = "dicom"
"""Asks for groups by the headers of a run's own scans."""


def group(scores: Scores, source: str, *, run: RunFolder | None = None) -> Grouped:
    """Scores by group.

    Args:
        scores: of the cases.
        source: a CSV with a column "case"; a folder of DICOM series, one folder a case; or "dicom" for the scans of the run.
        run: whose scans are meant.

    Raises:
        EvaluationError: nothing is known of any case, or the table cannot be used.
        DatasetError: the table cannot be read.
    """
    return grouped(scores, _cohorts({case.name for case in scores.cases}, source, run))


def _cohorts(names: set[str], source: str, run: RunFolder | None) -> dict[str, dict[str, str]]:
    path = Path(source)
    if source != DICOM and not path.is_dir():
        return read_cohorts(path)
    if source == DICOM:
        if run is None or not run.dataset_file.exists():
            raise EvaluationError('groups by "dicom" are read from the scans of a run; name it with --run, or give their folder')
        scans = {case.name: case.images[0] for case in read_json(run.dataset_file, Dataset).cases if case.name in names}
    else:
        scans = {name: path / name for name in sorted(names) if (path / name).exists()}
    return _by_tags(scans)


def _by_tags(scans: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {by: {} for by in TAGS}
    for name, scan in scans.items():
        try:
            tags = read_tags(scan)
        except (ScanError, OSError) as error:
            log.warning("case %s: %s", name, error)
            continue
        for by, value in tags.items():
            found[by][name] = value
    if not any(found.values()):
        raise EvaluationError(
            f"none of {len(scans)} scans is DICOM and says where it comes from; give a CSV with a column called case"
        )
    return cohorts_of(found)
