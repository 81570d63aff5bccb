"""The section on objects that are detected one by one: sensitivity by false positives a scan, and by threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnseg.core.dataset import counted
from nnseg.core.detection import FALSE_POSITIVES, Detection, OperatingPoint
from nnseg.reporting.charts.charts import Point, curves_svg
from nnseg.reporting.content import ReportContent


def summarize_lesions(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``lesions.html.j2``; None if no label's objects were detected one by one."""
    found = content.scores.detection if content.scores else {}
    if not found:
        return None
    curves = {name: list(_curve(of)) for name, of in found.items() if of.objects}
    drawn = curves_svg(
        "Sensitivity by false positives a scan",
        curves,
        x_label="false positives a scan",
        y_label="sensitivity",
        top=1.0,
        right=FALSE_POSITIVES[-1],
    )
    return {"labels": found, "facts": {name: _describe(of) for name, of in found.items()}, "froc": drawn if curves else ""}


def _curve(of: Detection) -> Iterator[Point]:
    """The highest sensitivity with at most as many false positives as each threshold gives."""
    best = 0.0
    yield Point(x=0.0, y=0.0)
    for point in sorted(of.points, key=lambda point: point.false_positives):
        if point.false_positives <= FALSE_POSITIVES[-1]:
            best = max(best, point.sensitivity or 0.0)
            yield Point(x=point.false_positives, y=best, tip=_name(point))


def _name(point: OperatingPoint) -> str:
    return "label map" if point.threshold is None else f"threshold {point.threshold:g}"


def _describe(of: Detection) -> str:
    """The objects and scans, and the mean sensitivity, in a sentence."""
    about = f"{counted(of.objects, 'object')} in {counted(of.scans, 'scan')}, of which {of.scans_without} have none"
    if of.mean_sensitivity is None:
        return f"{about}."
    ends = "" if of.interval is None else f" (95 % interval {of.interval[0]:.3f} to {of.interval[1]:.3f})"
    return f"{about}. Mean sensitivity at 1/8 to 8 false positives a scan: {of.mean_sensitivity:.3f}{ends}."
