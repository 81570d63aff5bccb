"""The section on what predictions rest on: maps of held-out cases, with the checks that each must pass."""

from __future__ import annotations

from typing import Any

from nnseg.core.explanation import LEAST_REPEATED, MOST_LIKE_OTHER, MOST_LIKE_RANDOM, NEAR_MM
from nnseg.reporting.content import ReportContent

MOST_SHOWN = 24
"""Maps that are shown."""


def summarize_explanations(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``explanations.html.j2``; None if nothing was explained."""
    if not content.explanations:
        return None
    withheld = [one for one in content.explanations if one.explanation.withheld]
    return {
        "shown": content.explanations[:MOST_SHOWN],
        "more": max(0, len(content.explanations) - MOST_SHOWN),
        "count": len(content.explanations),
        "withheld": len(withheld),
        "noise": any(one.explanation.repeated is not None for one in content.explanations),
        "limits": {"random": MOST_LIKE_RANDOM, "other": MOST_LIKE_OTHER, "repeated": LEAST_REPEATED, "near": f"{NEAR_MM:g}"},
    }
