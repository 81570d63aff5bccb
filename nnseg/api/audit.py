"""`audit`: what ``nnseg audit`` finds."""

from __future__ import annotations

from pathlib import Path

from nnseg.commands.audit import AuditedRun
from nnseg.commands.audit import audit as audit_run
from nnseg.core.processors import default_workers
from nnseg.storage.path_kinds import check_path
from nnseg.storage.run import Run


def audit(run: str | Path, *, groups: str | Path | None = None, workers: int = 0) -> AuditedRun:
    """Properties of the scans that the scores or labels of a run depend on, and scans that are there twice, as ``nnseg audit``.

    Args:
        run: its folder, into which ``audit.json`` is written.
        groups: further properties of the cases: a CSV with a column "case", a folder of DICOM series, or "dicom" for the scans of
            the run; without it the headers of DICOM scans.
        workers: processes; 0 for one per core.

    Raises:
        RunError: the folder holds no run with a dataset, or none of its scans can be read.
        EvaluationError: the groups cannot be used.

    Example:
        >>> audited = nnseg.audit("run")
        >>> [finding.message for finding in audited.findings]
    """
    check_path(Path(run), "run")
    return AuditedRun(audit=audit_run(Run(Path(run)), groups=str(groups or ""), workers=workers or default_workers()))
