"""The section on the learning curve: Dice over the number of training cases."""

from __future__ import annotations

from typing import Any

from nnseg.core.learning_curve import LearningCurve
from nnseg.reporting.charts.charts import Point, curves_svg
from nnseg.reporting.content import ReportContent


def summarize_learning(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``learning.html.j2``; None where no learning curve was measured."""
    found = content.learning_curve
    if found is None:
        return None
    points = [Point(x=one.cases, y=one.dice, tip=f"{one.cases} cases: {one.dice:.3f}") for one in found.points]
    chart = curves_svg(
        "Dice over training cases", {found.plan: points}, x_label="training cases", y_label="mean Dice of held-out cases",
        right=found.points[-1].cases,
    )  # fmt: skip
    return {
        "charts": [("Dice of held-out cases over the number of training cases", chart)],
        "curve": found,
        "sentences": describe_gains(found),
    }


def describe_gains(found: LearningCurve) -> list[str]:
    """What each number of further cases is expected to add, in words."""
    return [
        f"{one.cases} more cases are expected to add {one.dice:z.3f} to the mean Dice"
        + (f" ({one.interval[0]:z.3f} to {one.interval[1]:z.3f})" if one.interval else "")
        for one in found.gains
    ]
