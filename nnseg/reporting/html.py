"""The report of a run: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import stdev
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from pydantic import BaseModel

from nnseg.core.dataset import Finding
from nnseg.core.history import Epoch
from nnseg.core.plan import Plan, Section
from nnseg.evaluation.evaluate import Average, CaseScore, Scores
from nnseg.reporting.contours import ExamplePicture, picture_svg, views
from nnseg.reporting.curves import charts, standings
from nnseg.reporting.figures import strips_svg
from nnseg.reporting.quantities import duration
from nnseg.storage.files import write_text

MOST_FINDINGS = 100
"""Findings shown; a broken dataset has thousands, and the run folder lists them all."""
FEW_CASES = 5
"""Below so many cases no uncertainty of a mean is given."""
RELOAD_SECONDS = 60
"""Between two looks of a live page for news."""

AVERAGES = (
    ("per_mask", "Mean per mask", "mask", "Each label of each case counts once."),
    ("per_image", "Mean per image", "case", "Each case counts once: the mean over its labels, then over the cases."),
    (
        "pooled",
        "Pooled mean",
        "label",
        "Each voxel counts once: summed over all cases before each label's ratio, so large objects weigh more.",
    ),
)
"""Key in `Averages`, title, what is counted, and what it means."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What there is to tell about a run; whatever is empty is left out of the page.

    Args:
        title: of the page.
        dataset: the dataset in one line (`Dataset.describe`).
        findings: what was seen while looking through the dataset.
        plans: the decisions, with reasons.
        histories: epochs of each training, by a name such as "3d fold 0".
        scores: of held-out cases.
        examples: cases to look at, best first.
        timings: seconds of each stage, by its name.
        provenance: versions, hashes, command, date: whatever it takes to do it again.
        live: when this was, in words, if trainings still run; the page then looks for news by itself.
    """

    title: str
    dataset: str
    findings: Sequence[Finding] = ()
    plans: Sequence[Plan] = ()
    histories: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)
    scores: Scores | None = None
    examples: Sequence[ExamplePicture] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    live: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One setting of a plan, as people read it."""

    setting: str
    value: str
    why: str


def write_report(path: Path, story: Story) -> None:
    """Write the report.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(path, render(story))


def render(story: Story) -> str:
    """The report as HTML. Every text is escaped: names of cases and labels come from files of unknown origin."""
    return _template().render(
        story=story,
        findings=sorted(story.findings, key=lambda f: ("error", "warning", "note").index(f.level)),
        most_findings=MOST_FINDINGS,
        averages=_averages(story.scores),
        trust=_trust(story.scores),
        cases=_worst_first(story.scores),
        strips=_strips(story.scores),
        charts=charts(story.histories),
        standings=standings(story.histories),
        reload_seconds=RELOAD_SECONDS,
        examples=[_pictures(e) for e in story.examples],
        plans=[(plan, describe(plan), decisions(plan)) for plan in story.plans],
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _score, "duration": duration}
    return environment.from_string(resources.files("nnseg.reporting").joinpath("report.html.j2").read_text("utf-8"))


def typical_cases(scores: Scores) -> dict[str, str]:
    """Names of the best, the median and the worst case by mean Dice, by these words; fewer words for fewer cases."""
    ranked = [c.name for c in _worst_first(scores) if c.mean_dice is not None]
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), reversed(ranked), strict=False))
    return {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}


def decisions(plan: Plan) -> list[Decision]:
    """Every setting of a plan in order, with the planner's reason where it gave one."""
    return _decisions(plan, "")


def describe(plan: Plan) -> str:
    """A plan in a few sentences."""
    network, training = plan.network, plan.training
    length = f"{training.steps:,} steps" if training.steps else "as many steps as the time budget allows"
    mirrored = 2 ** len(plan.inference.mirror_axes)
    again = f", averaged over {mirrored} mirrored copies" if mirrored > 1 else ""
    return (
        f"Scans are brought to a voxel spacing of {_times(plan.preprocessing.spacing)} mm and normalized "
        f"({', '.join(dict.fromkeys(n.scheme for n in plan.preprocessing.normalization))}). "
        f"A {network.kind} {plan.dimensions}D U-Net of {len(network.features)} stages "
        f"({', '.join(map(str, network.features))} features) "
        f"sees patches of {_times(plan.patch)} voxels, {training.batch_size} at a time. "
        f"It is trained for {length} with {training.optimizer} on {training.loss} "
        f"(learning rate {training.learning_rate:g}, {training.schedule} schedule). "
        f"A scan is predicted in overlapping tiles, {plan.inference.step:g} of a patch apart{again}."
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001 (a dash in a table is an en dash)


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)


def _averages(scores: Scores | None) -> list[tuple[str, str, str, Average]]:
    if scores is None:
        return []
    return [(title, unit, meaning, getattr(scores.averages, key)) for key, title, unit, meaning in AVERAGES]


def _trust(scores: Scores | None) -> str:
    """How far the per-image mean may be off by chance, in a sentence; empty for few cases."""
    known = [c.mean_dice for c in scores.cases if c.mean_dice is not None] if scores else []
    if len(known) < FEW_CASES:
        return ""
    half = 1.96 * stdev(known) / math.sqrt(len(known))
    return f"With {len(known)} cases, chance alone moves the per-image Dice by about ± {half:.3f} (95 %, normal approximation)."


def _worst_first(scores: Scores | None) -> list[CaseScore]:
    if scores is None:
        return []
    return sorted(scores.cases, key=lambda c: (c.mean_dice is None, c.mean_dice or 0.0, c.name))


def _strips(scores: Scores | None) -> str:
    if scores is None or not scores.cases:
        return ""
    strips: dict[str, dict[str, float]] = {label: {} for label in scores.labels}
    for case in scores.cases:
        for label, mask in case.labels.items():
            if mask.dice is not None:
                strips[label][case.name] = mask.dice
    return strips_svg("Dice of each case, by label", strips)


def _pictures(example: ExamplePicture) -> dict[str, Any]:
    shown = []
    for view in views(example):
        seen = f"{example.caption}. {example.name} {view.title}: outlines of the reference (solid) and the prediction (dashed)"
        height, width = view.grey.shape
        shown.append({"title": view.title, "svg": picture_svg(view, seen), "aspect": round(width / height, 4)})
    return {"name": example.name, "caption": example.caption, "views": shown}


def _decisions(section: Section, prefix: str) -> list[Decision]:
    plain, nested = [], []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            nested += _decisions(value, f"{prefix}{name}.")
        elif name != "why" and not (prefix == "" and name == "labels"):
            plain.append(Decision(setting=prefix + name, value=_in_words(value), why=section.why.get(name, "")))
    return plain + nested


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        return ", ".join(f"{k} {_in_words(v)}" for k, v in value if v != type(value).model_fields[k].default)
    if isinstance(value, tuple):
        return ", ".join(_times(v) if isinstance(v, tuple) else _in_words(v) for v in value) or "none"
    return "not set" if value is None else str(value)
