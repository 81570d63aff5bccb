"""The section on time, memory and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.charts import Figure, histogram_svg
from nnseg.reporting.content import PredictedCase, ReportContent
from nnseg.reporting.formatting import duration, energy, short_duration


def summarize_cost(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``cost.html.j2``; None if neither time nor memory was recorded."""
    trainings = {name: epochs[-1] for name, epochs in content.histories.items() if epochs}
    predicted = [p for p in content.predicted if p.seconds]
    if not content.stages and not trainings and not predicted:
        return None
    seconds = [stage.seconds for stage in content.stages.values()]
    return {
        "facts": _facts(content, trainings),
        "total": sum(seconds),
        "longest": max(seconds, default=0.0) or 1.0,
        "trainings": trainings,
        "energy": any(last.joules is not None for last in trainings.values()),
        "prediction": _describe_prediction(predicted) if predicted else "",
        "histograms": _draw_prediction_cost(predicted),
        "parts": _median_seconds(predicted),
    }


def _facts(content: ReportContent, trainings: Mapping[str, Epoch]) -> dict[str, str]:
    peaks = [stage.peak_gb for stage in content.stages.values() if stage.peak_gb]
    joules = [last.joules for last in trainings.values() if last.joules is not None]
    processor = [last.cpu_seconds for last in trainings.values() if last.cpu_seconds is not None]
    facts = {}
    if content.stages:
        facts["All stages"] = duration(sum(stage.seconds for stage in content.stages.values()))
    if peaks:
        facts["Most memory"] = f"{max(peaks):.2f} GB"
    if processor:
        facts["Processor time of training"] = duration(sum(processor))
    if joules:
        facts["Energy of training"] = energy(sum(joules))
    return facts


def _draw_prediction_cost(predicted: Sequence[PredictedCase]) -> list[Figure]:
    seconds, memory = [sum(p.seconds.values()) for p in predicted], [p.peak_gb for p in predicted if p.peak_gb]
    return [
        (caption, histogram_svg(f"{caption} in {unit}", values, label=unit))
        for caption, values, unit in (("Time of a scan", seconds, "seconds"), ("Memory of a scan", memory, "GB"))
        if len(set(values)) > 2
    ]


def _median_seconds(predicted: Sequence[PredictedCase]) -> dict[str, float]:
    names = dict.fromkeys(stage for p in predicted for stage in p.seconds)
    return {name: median(p.seconds.get(name, 0.0) for p in predicted) for name in names}


def _describe_prediction(predicted: Sequence[PredictedCase]) -> str:
    seconds = [sum(p.seconds.values()) for p in predicted]
    memory = [p.peak_gb for p in predicted if p.peak_gb]
    most = f", and {max(memory):.2f} GB of memory at most" if memory else ""
    return (
        f"A held-out scan took {short_duration(median(seconds))} in the median, {short_duration(max(seconds))} at most{most}. "
        f"That is with the network of one fold; a model of all folds runs one network for each."
    )
