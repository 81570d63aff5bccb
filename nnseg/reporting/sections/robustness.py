"""The section on changed scans: Dice of held-out cases that were degraded, and of those without a channel."""

from __future__ import annotations

from typing import Any

from nnseg.core.dataset import counted
from nnseg.core.robustness import DEGRADATIONS, Robustness
from nnseg.reporting.content import ReportContent
from nnseg.reporting.formatting import interval


def summarize_robustness(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``robustness.html.j2``; None unless held-out cases were predicted from changed scans."""
    given = {"Degraded scans": content.robustness, "Scans without a channel": content.channel_scores}
    tables = {title: found for title, found in given.items() if found and found.changes}
    if not tables:
        return None
    return {
        "tables": {
            title: {
                "sentence": describe_robustness(found),
                "rows": found.changes,
                "labels": list(found.changes[0].labels) if len(found.changes[0].labels) > 1 else [],
            }
            for title, found in tables.items()
        },
        "units": {kind.replace("_", " "): levels.unit for kind, levels in DEGRADATIONS.items()} if content.robustness else {},
    }


def describe_robustness(found: Robustness) -> str:
    """The mean Dice of the scans as they are, and with the change that lowers it most, in a sentence."""
    known = [row for row in found.changes if row.difference is not None]
    cases = counted(len(found.cases), "held-out case")
    worst = min(known, key=lambda row: row.difference or 0.0, default=None)
    if worst is None:
        return f"The Dice of {cases} is not defined."
    ends = f", 95 % {interval(worst.interval, '+.3f')}" if worst.interval else ""
    lowest = f"{worst.changed:.3f}, {worst.title} (difference {worst.difference:+.3f}{ends})"
    return f"The mean Dice of {cases} is {worst.unchanged:.3f}, and at the lowest {lowest}."
