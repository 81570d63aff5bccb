"""Section: scores of held-out cases, by every metric, label and case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnseg.core.metrics import Metric, metric_of
from nnseg.core.scores import Interval, Mean, Scores
from nnseg.evaluation.averages import table
from nnseg.reporting.charts.charts import strips_svg
from nnseg.reporting.charts.drawing import decimals
from nnseg.reporting.content import ReportContent

AVERAGES = {
    "per_image": ("per image", "case", "each case counts once: the mean over its labels, then over the cases"),
    "per_mask": ("per mask", "mask", "each label of each case counts once"),
    "pooled": (
        "pooled",
        "label",
        "each voxel counts once: summed over all cases before the ratio, so that large objects weigh more",
    ),
}
"""By key in `Averages`: title, what is counted, and what it means."""

MOST_DOTS = 12_000
"""On the page; with more, only the first metric is drawn case by case, and of it as many labels as fit."""
MOST_STRIPS = 16
"""Labels drawn case by case: those with the worst means."""
MOST_NUMBERS = 200_000
"""Of the cases' table, a metric's cell counted once for the script; with more, only the labels with the worst means are in it."""
CELL = 5
"""What a cell that is written out takes, in numbers for the script."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A mean and its 95 % interval in words; the interval is empty where none is known."""

    mean: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric over all cases.

    Args:
        averages: by the keys of `AVERAGES`.
        undefined: masks without a value.
    """

    name: str
    title: str
    unit: str
    meaning: str
    better: str
    averages: Mapping[str, Cell]
    undefined: int


@dataclass(frozen=True, kw_only=True)
class MetricPanel:
    """One metric in detail.

    Args:
        labels: per label the mean over cases, and the pooled ratio.
        strips: drawing of all cases; empty if they are too many, or nothing is defined.
        left_out: labels that the drawing leaves out.
    """

    name: str
    title: str
    unit: str
    meaning: str
    labels: Mapping[str, Mapping[str, Cell]]
    strips: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One case in the first metric: its mean and the value of each label, in words."""

    name: str
    values: Sequence[str]
    flagged: bool


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is told of the scores.

    Args:
        metrics: rows of the table of all.
        panels: one a metric.
        labels: names of those in the cases' table.
        left_out: labels that are not.
        cases: the worst first, by the first metric.
        numbers: JSON of all numbers of the cases' table, for the script that shows another metric.
        sure: what the intervals say, in a sentence.
        flags: is any case flagged?
    """

    metrics: Sequence[MetricRow]
    panels: Sequence[MetricPanel]
    labels: Sequence[str]
    left_out: int
    cases: Sequence[CaseRow]
    numbers: str
    sure: str
    flags: bool


def scored(content: ReportContent) -> Scored | None:
    """What is told of the scores; None before there are any."""
    scores = content.scores
    if scores is None:
        return None
    tables = {name: table(scores.cases, scores.labels, name) for name in scores.metrics}
    drawn = scores.metrics if len(scores.cases) * len(scores.labels) * len(tables) <= MOST_DOTS else scores.metrics[:1]
    columns = _columns(scores, tables)
    return Scored(
        metrics=[_row(scores, name) for name in scores.metrics],
        panels=[_panel(scores, name, tables[name], drawn=name in drawn) for name in scores.metrics],
        labels=[scores.labels[i] for i in columns],
        left_out=len(scores.labels) - len(columns),
        cases=_cases(scores, tables, columns, content.flagged),
        numbers=_numbers(scores, tables, columns),
        sure=_sure(scores),
        flags=bool(content.flagged),
    )


def typical_cases(scores: Scores) -> dict[str, str]:
    """Names of the best, the median and the worst case by mean Dice, by these words; fewer words for fewer cases."""
    ranked = [c.name for c in sorted(scores.cases, key=lambda c: (c.mean_dice or 0.0, c.name)) if c.mean_dice is not None]
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), reversed(ranked), strict=False))
    return {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}


def cell(mean: Mean, digits: int, label: str | None = None) -> Cell:
    """A mean in words, of all or of one label."""
    value = mean.mean if label is None else mean.labels[label]
    interval = mean.interval if label is None else mean.intervals.get(label)
    return Cell(mean=decimals(value, digits), interval=_interval(interval, digits))


def _interval(interval: Interval | None, digits: int) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else ""


def _row(scores: Scores, name: str) -> MetricRow:
    metric = metric_of(name)
    means = {key: getattr(scores.averages, key)[name] for key in AVERAGES}
    return MetricRow(
        name=name,
        title=metric.title,
        unit=metric.unit,
        meaning=metric.meaning,
        better={"higher": "more is better", "lower": "less is better", "zero": "0 is best"}[metric.better],
        averages={key: cell(mean, metric.digits) for key, mean in means.items()},
        undefined=means["per_mask"].n_undefined,
    )


def _panel(scores: Scores, name: str, values: Numbers, *, drawn: bool) -> MetricPanel:
    metric, averages = metric_of(name), scores.averages
    strips, left_out = _strips(scores, metric, values) if drawn else ("", 0)
    return MetricPanel(
        name=name,
        title=metric.title,
        unit=metric.unit,
        meaning=metric.meaning,
        labels={
            label: {key: cell(getattr(averages, key)[name], metric.digits, label) for key in ("per_mask", "pooled")}
            for label in scores.labels
        },
        strips=strips,
        left_out=left_out,
    )


def _strips(scores: Scores, metric: Metric, values: Numbers) -> tuple[str, int]:
    """The drawing of one metric, and how many labels it leaves out."""
    if not np.isfinite(values).any():
        return "", 0
    shown = _worst(values, metric, min(MOST_STRIPS, max(1, MOST_DOTS // len(values))))
    strips = {
        scores.labels[i]: {case.name: float(v) for case, v in zip(scores.cases, values[:, i], strict=True) if np.isfinite(v)}
        for i in shown
    }
    share = metric.better == "higher" and not metric.unit
    title = f"{metric.title} of each case, by label"
    return strips_svg(title, strips, digits=metric.digits, top=1.0 if share else None), len(scores.labels) - len(shown)


def _columns(scores: Scores, tables: Mapping[str, Numbers]) -> list[int]:
    """The labels in the cases' table."""
    name, each = scores.metrics[0], len(scores.cases) * (len(tables) + CELL)
    return _worst(tables[name], metric_of(name), max(1, MOST_NUMBERS // max(1, each) - 1))


def _worst(values: Numbers, metric: Metric, most: int) -> list[int]:
    """The labels with the worst means, in their order; those that no case has come last."""
    worth = [_worth(known, metric).mean() if len(known := column[np.isfinite(column)]) else np.inf for column in values.T]
    return sorted(np.argsort(worth, kind="stable")[:most].tolist())


def _worth(values: Numbers, metric: Metric) -> Numbers:
    """Higher where better."""
    size: Numbers = np.abs(values) if metric.better == "zero" else values
    return size if metric.better == "higher" else -size


def _cases(scores: Scores, tables: Mapping[str, Numbers], columns: Sequence[int], flagged: frozenset[str]) -> list[CaseRow]:
    if not scores.cases:
        return []
    name = scores.metrics[0]
    values, metric = tables[name], metric_of(name)
    means = _means(values)
    worth = _worth(means, metric)
    order = sorted(range(len(scores.cases)), key=lambda i: (np.isnan(worth[i]), np.nan_to_num(worth[i]), scores.cases[i].name))
    return [
        CaseRow(
            name=scores.cases[i].name,
            values=[_words(v, metric.digits) for v in (means[i], *values[i, columns])],
            flagged=scores.cases[i].name in flagged,
        )
        for i in order
    ]


def _numbers(scores: Scores, tables: Mapping[str, Numbers], columns: Sequence[int]) -> str:
    """All numbers of the cases' table, in the order of ``scores.cases``; "<" is written so that no name can end the script."""
    content = {
        "cases": [case.name for case in scores.cases],
        "metrics": {
            name: {
                "title": (metric := metric_of(name)).title + (f", {metric.unit}" if metric.unit else ""),
                "better": metric.better,
                "digits": metric.digits,
                "values": [
                    [None if np.isnan(v) else round(float(v), metric.digits + 2) for v in (mean, *row)]
                    for mean, row in zip(_means(values), values[:, columns], strict=True)
                ],
            }
            for name, values in tables.items()
        },
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _means(values: Numbers) -> Numbers:
    """Of each case over its defined labels; NaN without any."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0).sum(1), known.sum(1)
    means: Numbers = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _words(value: float, digits: int) -> str:
    return decimals(None if np.isnan(value) else value, digits)


def _sure(scores: Scores) -> str:
    """What the interval of the mean Dice says; empty for few cases."""
    dice = scores.averages.per_image["dice"] if "dice" in scores.metrics else None
    if dice is None or dice.interval is None:
        return "" if dice is None else f"{dice.n} cases are too few to say how far chance moves these means."
    low, high = dice.interval
    return (
        f"The mean Dice per image of all cases of this kind lies between {low:.3f} and {high:.3f}, as far as {dice.n} of them can "
        f"tell: in 95 of 100 such samples an interval made like this holds it. It covers the chance of which cases these are; what "
        f"another training would change is not in it."
    )
