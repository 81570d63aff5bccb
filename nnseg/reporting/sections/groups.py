"""Part of the scores: are some groups of cases segmented worse than others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnseg.core.metrics import metric_of
from nnseg.core.scores import Grouped, GroupScores, GroupTest
from nnseg.reporting.sections.scores import Cell, cell

METRICS = ("dice", "hd95", "nsd_1", "absolute_volume_error")
"""Told of each group, where they were measured."""


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A group of cases; ``cells`` are its means, by the metric's title."""

    value: str
    n: int
    cells: Mapping[str, Cell]
    warning: str


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """All groups by one criterion.

    Args:
        by: the criterion.
        titles: of the metrics.
        rows: one a group.
        test: whether they differ beyond chance, in a sentence.
    """

    by: str
    titles: Sequence[str]
    rows: Sequence[GroupRow]
    test: str


def groupings(grouped: Grouped) -> list[Grouping]:
    """The groups of a run's cases, criterion by criterion."""
    tests = {test.by: test for test in grouped.tests}
    found = []
    for by in dict.fromkeys(group.by for group in grouped.groups):
        rows = [_row(group) for group in grouped.groups if group.by == by]
        found.append(Grouping(by=by, titles=list(rows[0].cells), rows=rows, test=_test(tests.get(by))))
    return found


def _row(group: GroupScores) -> GroupRow:
    cells = {}
    for name in METRICS:
        if name in group.averages:
            metric = metric_of(name)
            cells[metric.title + (f", {metric.unit}" if metric.unit else "")] = cell(group.averages[name], metric.digits)
    return GroupRow(value=group.value, n=group.n, cells=cells, warning=group.warning)


def _test(test: GroupTest | None) -> str:
    if test is None:
        return ""
    title = metric_of(test.metric).title
    if test.p_adjusted < 0.05:
        return f"The groups differ in {title} beyond chance (p = {test.p_adjusted:.2g}, corrected for the number of groupings)."
    return (
        f"The groups do not differ in {title} beyond chance (p = {test.p_adjusted:.2g}); that they are alike is not shown by this."
    )
