"""Tables of scores, groups and comparisons, printed to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nnseg.cli.output import show
from nnseg.commands.compare import Comparisons
from nnseg.core.dataset import counted, listed
from nnseg.core.metrics import Metric, metric_of
from nnseg.core.names import printable
from nnseg.core.scores import Grouped, Mean, Scores
from nnseg.core.units import LengthUnit
from nnseg.evaluation.compare import Comparison, ComparisonRow

AT_A_GLANCE = ("dice", "iou", "hd95", "assd", "relative_volume_error", "lesion_f1", "panoptic_quality")
"""Metrics shown for each label, together with NSD."""


def print_scores(scores: Scores | None, *, cases: bool = False) -> None:
    """Print the metrics of every label and the three averages; with ``cases``, those of every case too."""
    if scores is None:
        show("no scores, because no case was held out")
        return
    show(f"scores of {counted(len(scores.cases), 'case')}")
    if cases:
        columns = ["case", *(f"{label} {title}" for label in scores.labels for title in ("Dice", "IoU"))]
        _print_table(columns, ([c.name, *(_number(v) for m in c.labels.values() for v in (m.dice, m.iou))] for c in scores.cases))
        show()
    averages, metrics = scores.averages, {name: metric_of(name, scores.length_unit) for name in scores.metrics}
    shown = {name: metric for name, metric in metrics.items() if name in AT_A_GLANCE or name.startswith("nsd")}
    per_label = (
        [label, *(_number(averages.per_mask[name].labels[label], metric.digits) for name, metric in shown.items())]
        for label in scores.labels
    )
    _print_table(["label", *map(_title, shown.values())], per_label)
    show()
    three = (averages.per_mask, averages.per_image, averages.pooled)
    means = ([_title(metric), *(_with_interval(of[name], metric, " ({})") for of in three)] for name, metric in metrics.items())
    _print_table(["mean (95 % bootstrap interval)", "per_mask", "per_image", "pooled"], means)
    show()


def print_groups(found: Grouped, metrics: Sequence[str], unit: LengthUnit = "mm") -> None:
    """Print each group's means of some metrics with intervals, and for each grouping whether its groups differ."""
    shown = {name: metric_of(name, unit) for name in metrics}
    rows = []
    for by, groups in groupby(found.groups, attrgetter("by")):
        for i, group in enumerate(groups):
            means = (_with_interval(group.averages[name], metric, "\n{}") for name, metric in shown.items())
            rows.append(["" if i else by, group.value, str(group.n), *means, group.warning])
    show("by group: mean over cases of their mean over labels; below each its 95 % bootstrap interval")
    _print_table(["", "", "cases", *(metric.title for metric in shown.values()), ""], rows)
    for test in found.tests:
        verdict = "groups differ" if test.p_adjusted <= 0.05 else "no significant difference between groups"
        title, corrected = metric_of(test.metric, unit).title, f"corrected for {len(found.tests)} groupings {test.p_adjusted:.2g}"
        show(f"{test.by}: {verdict} in {title} ({test.n} cases, Kruskal-Wallis by permutation p = {test.p:.2g}, {corrected})")


def print_comparisons(found: Comparisons) -> None:
    """Print a table for each model against the first, the verdict of each metric, and the mean ranks of three or more models."""
    for comparison in found.comparisons:
        _print_comparison(comparison)
    if found.mean_ranks:
        ranks = sorted(found.mean_ranks.items(), key=lambda item: item[1])
        show(f"mean rank by {found.metric} (1 is best): " + ", ".join(f"{name} {rank:.2f}" for name, rank in ranks))


def _print_comparison(found: Comparison) -> None:
    show(f"{found.b} against {found.a}: {found.cases} cases with scores of both")
    for name, alone in ((found.a, found.only_a), (found.b, found.only_b)):
        if alone:
            show(f"left out, with scores of {name} only: {listed(alone)}")
    columns = ("", "", found.a, found.b, "difference (95 %)", "p", "p (Holm)", "p (Wilcoxon)", "cases", "better/same/worse")
    _print_table(columns, (_cells(row, found.length_unit) for row in found.rows))
    show("p: two-sided sign-flip test; Holm: corrected for all rows; differences: cases with values of both models")
    for row in found.rows:
        if row.label is None:
            show(f"{_compared(row, found.length_unit)}: {row.verdict}{_left_out(row, found)}")
    show("intervals and tests describe other cases with these models; training again with another seed may change a model as much")
    show()


def _cells(row: ComparisonRow, unit: LengthUnit) -> list[str]:
    digits = metric_of(row.metric).digits
    difference = _number(row.difference, digits + 1, sign="+")
    if row.interval:
        difference += " ({:+.{d}f} to {:+.{d}f})".format(*row.interval, d=digits + 1)
    name = ["", row.label] if row.label is not None else [_compared(row, unit), "mean"]
    p_values = [f"{p:.2g}" for p in (row.p, row.p_adjusted, row.p_wilcoxon)]
    counts = [str(row.n), f"{row.wins}/{row.ties}/{row.losses}"]
    return [*name, _number(row.a, digits), _number(row.b, digits), difference, *p_values, *counts]


def _compared(row: ComparisonRow, unit: LengthUnit) -> str:
    metric = metric_of(row.metric, unit)
    return f"{'size of ' if metric.better == 'zero' else ''}{_title(metric)}"


def _left_out(row: ComparisonRow, found: Comparison) -> str:
    counts = ((found.a, row.only_a), (found.b, row.only_b))
    alone = [f"{n} with a value of {name} only" for name, n in counts if n]
    return f" (masks left out: {', '.join(alone)})" if alone else ""


def _print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*map(_cell, columns), box=None)
    for row in rows:
        table.add_row(*map(_cell, row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(text: str) -> str:
    return escape(printable(text, lines=True))


def _title(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _number(value: float | None, digits: int = 4, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _with_interval(mean: Mean, metric: Metric, form: str) -> str:
    interval = " to ".join(_number(end, metric.digits) for end in mean.interval or ())
    return _number(mean.mean, metric.digits) + (form.format(interval) if interval else "")
