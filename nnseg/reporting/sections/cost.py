"""Section: time, memory and energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.charts import histogram_svg
from nnseg.reporting.charts.drawing import duration, energy, moment
from nnseg.reporting.content import PredictedCase, ReportContent


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage of the run, in words; ``share`` of the longest, 0 to 100."""

    name: str
    time: str
    share: float
    memory: str


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """What one training took, in words; empty where nobody counted."""

    name: str
    steps: str
    time: str
    processor: str
    energy: str


@dataclass(frozen=True, kw_only=True)
class CostSection:
    """What the run took.

    Args:
        facts: in words, by name.
        stages: of the run.
        total: of all stages.
        trainings: one by one.
        energy: do any of them know what they took?
        scans: captions and drawings, of what a prediction takes.
        parts: median seconds of each stage of a prediction, in words, by its name.
        scans_words: what a scan takes, in a sentence.
    """

    facts: dict[str, str]
    stages: Sequence[StageRow]
    total: str
    trainings: Sequence[TrainingRow]
    energy: bool
    scans: Sequence[tuple[str, str]]
    parts: dict[str, str]
    scans_words: str


def cost(content: ReportContent) -> CostSection | None:
    """What the run took; None if nobody counted."""
    trainings = {name: epochs[-1] for name, epochs in content.histories.items() if epochs}
    predicted = [p for p in content.predicted if p.seconds]
    if not content.stages and not trainings and not predicted:
        return None
    total = sum(stage.seconds for stage in content.stages.values())
    return CostSection(
        facts=_facts(content, trainings),
        stages=_stages(content),
        total=duration(total) if len(content.stages) > 1 else "",
        trainings=[_training(name, last) for name, last in trainings.items()],
        energy=any(last.joules is not None for last in trainings.values()),
        scans=_scans(predicted),
        parts=_parts(predicted),
        scans_words=_scans_words(predicted),
    )


def _facts(content: ReportContent, trainings: dict[str, Epoch]) -> dict[str, str]:
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


def _stages(content: ReportContent) -> list[StageRow]:
    longest = max((stage.seconds for stage in content.stages.values()), default=0.0) or 1.0
    return [
        StageRow(
            name=name,
            time=duration(stage.seconds),
            share=100 * stage.seconds / longest,
            memory=f"{stage.peak_gb:.2f} GB" if stage.peak_gb else "",
        )
        for name, stage in content.stages.items()
    ]


def _training(name: str, last: Epoch) -> TrainingRow:
    return TrainingRow(
        name=name,
        steps=f"{last.step:,}",
        time=duration(last.total_seconds),
        processor="" if last.cpu_seconds is None else duration(last.cpu_seconds),
        energy="" if last.joules is None else energy(last.joules),
    )


def _scans(predicted: Sequence[PredictedCase]) -> list[tuple[str, str]]:
    figures = []
    seconds, memory = [sum(p.seconds.values()) for p in predicted], [p.peak_gb for p in predicted if p.peak_gb]
    for caption, values, unit in (("Time of a scan", seconds, "seconds"), ("Memory of a scan", memory, "GB")):
        if len(set(values)) > 2:
            figures.append((caption, histogram_svg(f"{caption} in {unit}", values, label=unit)))
    return figures


def _parts(predicted: Sequence[PredictedCase]) -> dict[str, str]:
    names = dict.fromkeys(stage for p in predicted for stage in p.seconds)
    return {name: moment(median(p.seconds.get(name, 0.0) for p in predicted)) for name in names}


def _scans_words(predicted: Sequence[PredictedCase]) -> str:
    if not predicted:
        return ""
    seconds = [sum(p.seconds.values()) for p in predicted]
    memory = [p.peak_gb for p in predicted if p.peak_gb]
    most = f", and never more than {max(memory):.2f} GB of memory" if memory else ""
    return (
        f"A held-out scan took {moment(median(seconds))} in the median, {moment(max(seconds))} at most{most}. That is with the "
        f"network of one fold; the model of all folds takes its network's share as often as there are folds."
    )
