"""The section on scores of held-out cases, by every metric, label and case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.metrics import Metric, metric_of
from nnseg.core.scores import Grouped, GroupScores, GroupTest, Scores
from nnseg.evaluation.averages import table
from nnseg.reporting.charts.charts import strips_svg
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
GROUP_METRICS = ("dice", "hd95", "nsd_1", "absolute_volume_error")
"""Shown for each group of cases, where they were measured."""

MOST_DOTS = 12_000
"""On the page; with more, only the first metric is drawn case by case, and of it as many labels as fit."""
MOST_STRIPS = 16
"""Labels drawn case by case: those with the worst means."""
MOST_NUMBERS = 200_000
"""Of the cases' table, a metric's cell counted once for the script; with more, only the labels with the worst means are in it."""
CELL = 5
"""Size of a cell in HTML, in numbers of the script."""

Numbers = npt.NDArray[np.float64]


def summarize_scores(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``scores.html.j2``; None before there are scores."""
    scores = content.scores
    if scores is None:
        return None
    tables = {name: table(scores.cases, scores.labels, name) for name in scores.metrics}
    drawn = scores.metrics if len(scores.cases) * len(scores.labels) * len(tables) <= MOST_DOTS else scores.metrics[:1]
    columns = _choose_columns(scores, tables)
    return {
        "metrics": {name: metric_of(name, scores.length_unit) for name in scores.metrics},
        "strips": {
            name: _draw_strips(scores, metric_of(name, scores.length_unit), tables[name]) if name in drawn else ("", 0)
            for name in tables
        },
        "labels": [scores.labels[i] for i in columns],
        "left_out": len(scores.labels) - len(columns),
        "cases": _sort_cases(scores, tables, columns),
        "numbers": _numbers_as_json(scores, tables, columns),
        "intervals": _explain_interval(scores),
    }


def typical_cases(scores: Scores) -> dict[str, str]:
    """Names of the "best", "median" and "worst" case by mean Dice, by these words; fewer of them for fewer cases."""
    ranked = [c.name for c in sorted(scores.cases, key=lambda c: (c.mean_dice or 0.0, c.name)) if c.mean_dice is not None]
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), reversed(ranked), strict=False))
    return {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}


def _draw_strips(scores: Scores, metric: Metric, values: Numbers) -> tuple[str, int]:
    """The chart of one metric by case and label, and the number of labels that it leaves out; empty if nothing is defined."""
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


def _choose_columns(scores: Scores, tables: Mapping[str, Numbers]) -> list[int]:
    """Indices of the labels in the cases' table."""
    name, size = scores.metrics[0], len(scores.cases) * (len(tables) + CELL)
    return _worst(tables[name], metric_of(name), max(1, MOST_NUMBERS // max(1, size) - 1))


def _worst(values: Numbers, metric: Metric, most: int) -> list[int]:
    """Sorted indices of the labels with the worst means; labels without a value are the last to be chosen."""
    quality = [_quality(known, metric).mean() if len(known := column[np.isfinite(column)]) else np.inf for column in values.T]
    return sorted(np.argsort(quality, kind="stable")[:most].tolist())


def _quality(values: Numbers, metric: Metric) -> Numbers:
    """Values of a metric, negated where lower is better."""
    size: Numbers = np.abs(values) if metric.better == "zero" else values
    return size if metric.better == "higher" else -size


def _sort_cases(scores: Scores, tables: Mapping[str, Numbers], columns: Sequence[int]) -> list[tuple[str, list[float]]]:
    """Name of each case with its mean and each label's value of the first metric, worst first; NaN where there is none."""
    if not scores.cases:
        return []
    name = scores.metrics[0]
    values, means = tables[name], _means(tables[name])
    quality = _quality(means, metric_of(name))
    order = sorted(range(len(scores.cases)), key=lambda i: (np.isnan(quality[i]), np.nan_to_num(quality[i]), scores.cases[i].name))
    return [(scores.cases[i].name, [float(means[i]), *values[i, columns].tolist()]) for i in order]


def _numbers_as_json(scores: Scores, tables: Mapping[str, Numbers], columns: Sequence[int]) -> str:
    """All numbers of the cases' table, in the order of ``scores.cases``; "<" is escaped so that no name can end the script."""
    content = {
        "cases": [case.name for case in scores.cases],
        "metrics": {
            name: {
                "title": (metric := metric_of(name, scores.length_unit)).title + (f", {metric.unit}" if metric.unit else ""),
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
    """Mean of each case over its defined labels; NaN without any."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0).sum(1), known.sum(1)
    means: Numbers = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _explain_interval(scores: Scores) -> str:
    """Meaning of the confidence interval of the mean Dice."""
    dice = scores.averages.per_image["dice"] if "dice" in scores.metrics else None
    if dice is None or dice.interval is None:
        return "" if dice is None else f"{dice.n} cases are too few for confidence intervals."
    low, high = dice.interval
    return (
        f"The 95 % confidence interval of the mean Dice per image is {low:.3f} to {high:.3f} ({dice.n} cases): in 95 of 100 such "
        f"samples an interval made like this contains the mean of all cases of this kind. It reflects the choice of the cases, not "
        f"the variation between trainings."
    )


def summarize_groups(grouped: Grouped) -> dict[str, tuple[list[GroupScores], str]]:
    """Groups by each criterion, with the result of the test whether they differ."""
    tests = {test.by: test for test in grouped.tests}
    return {
        by: ([group for group in grouped.groups if group.by == by], _describe_test(tests.get(by)))
        for by in dict.fromkeys(group.by for group in grouped.groups)
    }


def _describe_test(test: GroupTest | None) -> str:
    if test is None:
        return ""
    title = metric_of(test.metric).title
    if test.p_adjusted < 0.05:
        return f"The groups differ significantly in {title} (Holm-adjusted p = {test.p_adjusted:.2g})."
    return (
        f"The groups do not differ significantly in {title} (Holm-adjusted p = {test.p_adjusted:.2g}), which does not prove that "
        f"they are alike."
    )
