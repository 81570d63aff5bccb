"""Scores by group: by site, scanner, sex, age or any other property of the cases.

A mean over all cases can hide a scanner on which a model fails. Each grouping is tested once for differences, on the mean of each
case over its labels, with Holm's correction for the number of groupings; such a test can never show that groups do not differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnseg.core.errors import DatasetError, EvaluationError
from nnseg.core.limits import check_limit
from nnseg.core.scores import Grouped, GroupScores, GroupTest, Scores
from nnseg.evaluation.averages import FEW, averages, means_of_cases, table
from nnseg.evaluation.statistics import holm, kruskal_wallis
from nnseg.storage.tables import read_case_table

MOST_VALUES = 6
"""Numbers with more distinct values are divided into thirds."""

UNKNOWN = ("", "n/a", "na", "nan", "none")
"""Cells without a value."""

Cohorts = Mapping[str, Mapping[str, str]]
"""The group of each case, by grouping ("site") and then by case; a case that is not listed is in no group."""


def grouped(scores: Scores, cohorts: Cohorts, metric: str | None = None) -> Grouped:
    """Scores by group, and tests for differences between groups.

    The metric that is tested is the first measured one unless given.

    Raises:
        EvaluationError: no case is in any group, or the metric was not measured.
    """
    return Grouped(groups=group_scores(scores, cohorts), tests=group_tests(scores, cohorts, metric or scores.metrics[0]))


def group_scores(scores: Scores, cohorts: Cohorts) -> tuple[GroupScores, ...]:
    """The scores of each group, in the order of the groupings and then of their values; cases without a group are left out.

    Raises:
        EvaluationError: no case is in any group.
    """
    _check(scores, cohorts)
    found = []
    for by, group_of in cohorts.items():
        for value in _sorted({group_of[case.name] for case in scores.cases if case.name in group_of}):
            cases = [case for case in scores.cases if group_of.get(case.name) == value]
            warning = f"{len(cases)} case{'s' * (len(cases) > 1)}: too few for a reliable mean" if len(cases) < FEW else ""
            average = averages(cases, scores.labels, scores.metrics).per_image
            found.append(GroupScores(by=by, value=value, n=len(cases), averages=average, warning=warning))
    return tuple(found)


def group_tests(scores: Scores, cohorts: Cohorts, metric: str) -> tuple[GroupTest, ...]:
    """Tests for a difference between the groups of each grouping; groupings with a single group are left out.

    Raises:
        EvaluationError: the metric was not measured.
    """
    if metric not in scores.metrics:
        raise EvaluationError(f'"{metric}" was not measured; there are {", ".join(scores.metrics)}')
    means = means_of_cases(table(scores.cases, scores.labels, metric, signed=False))
    found: list[tuple[str, list[float], list[str]]] = []
    for by, group_of in cohorts.items():
        known = [(m, group_of[c.name]) for m, c in zip(means, scores.cases, strict=True) if c.name in group_of and np.isfinite(m)]
        if len({group for _, group in known}) > 1:
            found.append((by, [m for m, _ in known], [group for _, group in known]))
    p_values = [kruskal_wallis(np.array(numbers), groups) for _, numbers, groups in found]
    return tuple(
        GroupTest(by=by, metric=metric, n=len(groups), groups=len(set(groups)), p=p, p_adjusted=adjusted)
        for (by, _, groups), p, adjusted in zip(found, p_values, holm(p_values), strict=True)
    )


def read_cohorts(path: Path) -> dict[str, dict[str, str]]:
    """The groups of cases in a table: a column for each grouping, besides ``case``; empty cells and n/a are no group.

    Raises:
        EvaluationError: the table cannot be read, no column is called "case", or a case or a column stands there twice.
    """
    try:
        table = read_case_table(path)
        check_limit("groupings", len(table.columns) - 1, path, "has {:,} columns besides the case", DatasetError, "leave some out")
        rows = table.by_case()
        for row in rows.values():
            if row.count < len(table.columns):
                raise table.wrong(f"has {row.count} cells below {len(table.columns)} columns", "complete the line", row)
    except DatasetError as error:
        raise EvaluationError(str(error)) from None
    return cohorts_of(
        {
            name: {case: row.cells[column] for case, row in rows.items() if row.cells[column].lower() not in UNKNOWN}
            for name, column in zip(table.header, table.columns, strict=True)
            if column != "case"
        }
    )


def cohorts_of(known: Cohorts) -> dict[str, dict[str, str]]:
    """The groups of cases by their values; numbers with over `MOST_VALUES` distinct ones are divided into thirds."""
    return {by: _thirds(values) for by, values in known.items() if values}


def _thirds(values: Mapping[str, str]) -> dict[str, str]:
    numbers = {case: _number(text) for case, text in values.items()}
    known = {case: number for case, number in numbers.items() if number is not None}
    distinct = sorted(set(known.values()))
    if len(known) < len(values) or len(distinct) <= MOST_VALUES:
        return dict(values)
    cuts = np.quantile(list(known.values()), [1 / 3, 2 / 3])
    parts = {case: int(np.searchsorted(cuts, number)) for case, number in known.items()}
    ranges = {part: [known[case] for case in known if parts[case] == part] for part in set(parts.values())}
    names = {part: f"{min(inside):g} to {max(inside):g}" for part, inside in ranges.items()}
    return {case: names[part] for case, part in parts.items()}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _sorted(values: set[str]) -> list[str]:
    """Sorted by the number that a value is or begins with, then by name."""
    first = {value: _number(value.split(" to ")[0]) for value in values}
    return sorted(values, key=lambda v: (first[v] is None, first[v] or 0.0, v))


def _check(scores: Scores, cohorts: Cohorts) -> None:
    names = {case.name for case in scores.cases}
    if not any(names & set(group_of) for group_of in cohorts.values()):
        given = sorted(set().union(*cohorts.values()))
        example = f"such as {given[0]}" if given else "at all"
        whom = f"any of the {len(names)} cases such as {min(names, default='none')}"
        raise EvaluationError(f"no group is given for {whom}; the table has no case {example}")
