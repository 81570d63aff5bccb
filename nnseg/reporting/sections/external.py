"""The section of an external validation: scores beside those of held-out cases, and the model's estimates of its quality."""

from __future__ import annotations

from typing import Any

from nnseg.core.dataset import counted, listed
from nnseg.core.metrics import metric_of
from nnseg.core.units import LengthUnit
from nnseg.evaluation.external import Coverage, Difference, ExternalValidation
from nnseg.reporting.content import ReportContent
from nnseg.reporting.formatting import MISSING, decimals, interval

SAME = 0.0005
"""A difference that is shown as 0."""


def summarize_external(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``external.html.j2``; None unless the scores are of another dataset."""
    found = content.external
    if found is None:
        return None
    unit = content.scores.length_unit if content.scores else "mm"
    return {
        "sentence": describe_drop(found),
        "internal": counted(found.internal_cases, "held-out case"),
        "source": found.internal_source,
        "means": [_row(of, unit) for of in found.differences if not of.label],
        "labels": [(of.label, *_row(of, unit)[1:]) for of in found.differences if of.label and of.metric == "dice"],
        "estimates": _estimates(found),
        "known": listed(found.known) if found.known else "",
    }


def describe_drop(found: ExternalValidation) -> str:
    """By how much the mean Dice is lower than on held-out cases, in a sentence."""
    dice = next((of for of in found.differences if of.metric == "dice" and not of.label), None)
    if dice is None or dice.external is None:
        return "The mean Dice is not defined."
    if dice.internal is None or dice.difference is None:
        return f"The mean Dice is {dice.external:.3f}; what it is on held-out cases of the training data is not known."
    ends = f" (95 % interval of the difference {dice.interval[0]:+.3f} to {dice.interval[1]:+.3f})" if dice.interval else ""
    cases = f"{counted(found.internal_cases, 'held-out case')} of the training data"
    if abs(dice.difference) < SAME:
        return f"The mean Dice is {dice.external:.3f}, the same as of {cases}{ends}."
    change = "lower" if dice.difference < 0 else "higher"
    sure = "" if dice.interval and not dice.interval[0] <= 0 <= dice.interval[1] else ", which may be chance"
    change = f"{abs(dice.difference):.3f} {change} than the {dice.internal:.3f} of {cases}"
    return f"The mean Dice is {dice.external:.3f}, {change}{ends}{sure}."


def _row(of: Difference, unit: LengthUnit) -> tuple[str, str, str, str, str]:
    """Metric, internal and external mean, difference and its interval."""
    metric = metric_of(of.metric, unit)
    title = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
    means = (decimals(value, metric.digits) for value in (of.internal, of.external))
    change = MISSING if of.difference is None else f"{of.difference:+.{metric.digits}f}"
    inner, outer = means
    return title, inner, outer, change, interval(of.interval, f"+.{metric.digits}f") or MISSING


def _estimates(found: ExternalValidation) -> dict[str, str]:
    """What the model expected of itself and what was true, by name."""
    named = {
        "expected and true mean Dice": None if found.expected is None else f"{found.expected:.3f} and {decimals(found.true)}",
        "mean error of the expected Dice": None if found.error is None else _beside(found.error, found.internal_error),
        "true Dice within its interval": _covered(found.dice_coverage),
        "true volume within its interval": _covered(found.volume_coverage),
        "cases flagged": None if found.flagged is None else f"{found.flagged} of {found.cases}",
        "scans unlike those of the training": None if found.foreign is None else f"{found.foreign} of {found.cases}",
        "ECE": None if found.calibration is None else f"{found.calibration.after.ece:.4f}",
        "Brier score": None if found.calibration is None else f"{found.calibration.after.brier:.4f}",
    }
    return {name: text for name, text in named.items() if text}


def _beside(here: float, there: float | None) -> str:
    return f"{here:.3f}" + ("" if there is None else f" ({there:.3f} on held-out cases)")


def _covered(of: Coverage) -> str | None:
    return None if of.share is None else f"{of.share:.0%} of {of.n}; {of.stated:.0%} should be"
