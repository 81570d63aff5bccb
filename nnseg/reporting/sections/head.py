"""The head of the page: the main results in a few numbers."""

from __future__ import annotations

from typing import Any

from nnseg.core.metrics import metric_of
from nnseg.core.scores import CaseScore, Scores
from nnseg.planning.verdict import FEW_CASES
from nnseg.reporting.content import ReportContent

FURTHER_METRICS = ("hd95", "nsd_1")
"""Shown beside Dice, where they were measured."""


def summarize_head(content: ReportContent) -> dict[str, Any]:
    """Variables of ``head.html.j2``; ``averages`` is None before there is a mean Dice."""
    scores = content.scores if content.scores and content.scores.cases and "dice" in content.scores.metrics else None
    return {
        "averages": scores.averages if scores else None,
        "sentence": _explain_dice(scores, external=content.external is not None) if scores else "",
        "few": scores is not None and len(scores.cases) < FEW_CASES,
        "worst": _worst_case(scores) if scores else None,
        "metrics": {
            name: metric_of(name, scores.length_unit)
            for name in FURTHER_METRICS
            if scores and name in scores.metrics and scores.averages.per_image[name].mean is not None
        },
        "trainings": [epochs[-1] for epochs in content.histories.values() if epochs],
    }


def _explain_dice(scores: Scores, *, external: bool) -> str:
    dice = scores.averages.per_image["dice"]
    if dice.mean is None:
        return "No held-out case has any label, in the reference or the prediction."
    cases = "case" if dice.n == 1 else "cases"
    if external:
        return (
            f"On {dice.n} {cases} of another dataset the mean Dice of prediction and reference is {dice.mean:.3f} (1 is perfect)."
        )
    return (
        f"On {dice.n} held-out {cases} the mean Dice of prediction and reference is {dice.mean:.3f} (1 is perfect). "
        f"Each was predicted only by networks that were not trained on it."
    )


def _worst_case(scores: Scores) -> CaseScore | None:
    """The case with the lowest mean Dice, of two or more."""
    known = [case for case in scores.cases if case.mean_dice is not None]
    return min(known, key=lambda case: (case.mean_dice or 0.0, case.name)) if len(known) > 1 else None
