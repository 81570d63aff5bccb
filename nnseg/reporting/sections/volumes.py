"""Part of the scores: agreement of predicted with reference volumes."""

from __future__ import annotations

from typing import Any

from nnseg.core.dataset import counted, list_some
from nnseg.core.scores import Scores
from nnseg.core.units import volume_name
from nnseg.evaluation.volume_agreement import VolumeAgreement, agreement, volumes
from nnseg.planning.verdict import FEW_CASES
from nnseg.reporting.charts.charts import Guide, Point, Scale, scatter_svg
from nnseg.reporting.formatting import short, signed

MOST_PLOTS = 8
"""Labels that are drawn; the table has all."""


def summarize_volumes(scores: Scores) -> dict[str, Any] | None:
    """Variables of ``volumes.html.j2``; None if too few cases have reference volumes."""
    agreements = agreement(scores)
    if not agreements:
        return None
    plots = [(label, _draw_differences(scores, label, of)) for label, of in list(agreements.items())[:MOST_PLOTS]]
    return {
        "agreements": agreements,
        "plots": plots,
        "verdict": _describe_bias(agreements),
        "unit": volume_name(scores.length_unit),
    }


def _draw_differences(scores: Scores, label: str, of: VolumeAgreement) -> str:
    """Difference of predicted and reference volume against their mean. Source: Bland and Altman 1986."""
    shown = [case for case in scores.cases if len(volumes([case.labels[label]]))]
    pairs = volumes([case.labels[label] for case in shown])
    unit = volume_name(scores.length_unit)
    dots = [
        Point(
            x=float(predicted + reference) / 2,
            y=float(predicted - reference),
            tip=f"{case.name}: {short(predicted)} {unit}, reference {short(reference)} {unit}",
        )
        for case, (predicted, reference) in zip(shown, pairs.tolist(), strict=True)
    ]
    low, high = of.limits_ml
    guides = [
        Guide(left=high, right=high, label=signed(high), kind="bound"),
        Guide(left=of.bias_ml, right=of.bias_ml, label=f"mean {signed(of.bias_ml)}"),
        Guide(left=low, right=low, label=signed(low), kind="bound"),
    ]
    title = (
        f"{label}: predicted minus reference volume by their mean, in {of.n} cases; mean {signed(of.bias_ml)} {unit}, "
        f"95 % between {low:+.3g} and {high:+.3g} {unit}"
    )
    return scatter_svg(
        title, dots, x=Scale(label=f"mean of both, {unit}"), y=Scale(label=f"predicted - reference, {unit}"), guides=guides
    )


def _describe_bias(agreements: dict[str, VolumeAgreement]) -> str:
    if (most := max(of.n for of in agreements.values())) < FEW_CASES:
        return f"{counted(most, 'case')} are too few to tell whether mean volumes differ from the references."
    high = [label for label, of in agreements.items() if of.bias_interval[0] > 0]
    low = [label for label, of in agreements.items() if of.bias_interval[1] < 0]
    parts = [f"{list_some(names, 6)} {verb}" for names, verb in ((high, "too large"), (low, "too small")) if names]
    if not parts:
        return "No label's mean volume differs significantly from the reference; single volumes do, within the limits of agreement."
    return f"Mean volumes differ significantly from the references: {'; '.join(parts)}."
