"""The section on questions about scans: ROC curves, decision curves and how good the answers of the chosen cut-offs are."""

from __future__ import annotations

from typing import Any

from nnseg.core.cutoffs import CutOff
from nnseg.evaluation.cutoffs import describe_cutoff
from nnseg.reporting.charts.charts import Point, curves_svg
from nnseg.reporting.content import ReportContent

BENEFITS = {"chosen": "chosen cut-off", "usual": "label map as it is", "every": "yes for every scan"}
"""Ways to answer, by the field of `NetBenefit`."""


def summarize_cutoffs(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``cutoffs.html.j2``; None unless a question was asked."""
    known = content.cutoffs.cutoffs if content.cutoffs else ()
    if not known:
        return None
    questions = {of.question.describe(of.unit): of for of in known}
    return {
        "questions": {
            name: {
                "sentence": describe_cutoff(of),
                "roc": _draw_roc(name, of),
                "benefit": _draw_benefit(name, of),
                "rates": _rates(of),
            }
            for name, of in questions.items()
        },
        "benefits": BENEFITS.values(),
    }


def _rates(of: CutOff) -> dict[str, Any]:
    return {"chosen cut-off, other patients'": of.rates, "label map as it is": of.usual}


def _draw_roc(name: str, of: CutOff) -> str:
    inner = [
        Point(x=1.0 - point.specificity, y=point.sensitivity, tip=f"cut-off {point.cutoff_ml:.4g}") for point in reversed(of.roc)
    ]
    points = [Point(x=0.0, y=0.0), *inner, Point(x=1.0, y=1.0)]
    return curves_svg(
        f"ROC curve of {name}", {name: points}, x_label="1 - specificity", y_label="sensitivity", top=1.0, right=1.0, diagonal=True
    )


def _draw_benefit(name: str, of: CutOff) -> str:
    """Net benefit of each way to answer, cut off below that of acting upon no scan."""
    curves = {
        words: [Point(x=point.probability, y=value) for point in of.benefit if (value := getattr(point, field)) >= 0]
        for field, words in BENEFITS.items()
    }
    return curves_svg(f"Net benefit of {name}", curves, x_label="probability from which one acts", y_label="net benefit", right=1.0)
