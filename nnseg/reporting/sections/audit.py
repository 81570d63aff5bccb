"""The section on the audit: properties of the scans that explain scores or volumes, subgroups, and scans that are there twice."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import Any

from nnseg.core.audit import Audit
from nnseg.core.dataset import counted
from nnseg.reporting.content import ReportContent

STRONGEST = 10
"""Rows of the table of associations."""
MOST_SAME = 30
"""Rows of the table of same scans."""


def summarize_audit(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``audit.html.j2``; None without an audit."""
    found = content.audit
    if found is None:
        return None
    return {
        "sentence": _describe(found),
        "findings": found.findings,
        "associations": found.associations[:STRONGEST],
        "weaker": len(found.associations[STRONGEST:]),
        "subgroups": [(name, list(those)) for name, those in groupby(found.subgroups, attrgetter("predictor"))],
        "same": found.same_scans[:MOST_SAME],
        "more": len(found.same_scans[MOST_SAME:]),
        "has_groups": bool(found.groups),
    }


def _describe(found: Audit) -> str:
    """What was looked at, and what was found, in two sentences."""
    looked = f"{counted(found.cases, 'scan')} were read" if found.cases > 1 else "1 scan was read"
    tested = f"{counted(len(found.associations), 'association')} tested, with a chance of 1 % of any false alarm"
    result = (
        f"{counted(len(found.findings), 'finding')}." if found.findings else "No shortcut was found, and no scan is there twice."
    )
    return f"{looked}, {found.scored} with scores; {tested}. {result}"
