"""Groups of cases, such as those of one patient: from BIDS names, a table, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, counted, listed
from nnseg.core.errors import DatasetError
from nnseg.storage.tables import read_case_table
from nnseg.system.isolation import outcome_within

SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-([A-Za-z0-9]+)")
"""The subject entity of BIDS names. Source: Brain Imaging Data Structure 1.10, "Entities"."""

SUBJECTS = ("subject", "bids")
"""Words for the subjects of BIDS names."""

TABLES = (".csv", ".tsv")
"""Suffixes of tables of groups."""

GROUP_COLUMNS = ("group", "patient", "subject")
"""Headers that a table's column of groups may have."""

PATTERN_SECONDS = 10.0
"""Time for a regular expression and the names of all cases: some try ways without end, such as "(a+)+b"."""


def read_groups(how: str, dataset: Dataset) -> dict[str, str]:
    """The group of each case, by the case's name.

    Args:
        how: "subject" or "bids" for the subject of BIDS names (sub-01); the path of a table (.csv or .tsv) with columns "case" and
            "group", "patient" or "subject", or with two columns and no header; or a regular expression with one pair of
            parentheses around the part of the case's name that identifies the group.

    Raises:
        DatasetError: the table or the expression is not usable, takes too long, or leaves a case without a group.
    """
    if how.casefold() in SUBJECTS:
        return _by_subject(dataset)
    path = Path(how)
    if path.suffix.lower() in TABLES:
        return _by_table(path, dataset)
    return _by_pattern(how, dataset)


def find_subjects(dataset: Dataset) -> dict[str, str]:
    """The BIDS subject of each case, if all cases have one, and there are several subjects, and more cases; else {}."""
    subjects = {case.name: _subject(case, dataset.folder) for case in dataset.cases}
    known = {name: subject for name, subject in subjects.items() if subject}
    return known if len(known) == len(subjects) and 1 < len(set(known.values())) < len(known) else {}


def _by_subject(dataset: Dataset) -> dict[str, str]:
    subjects = {case.name: _subject(case, dataset.folder) for case in dataset.cases}
    for name, subject in subjects.items():
        if not subject:
            raise DatasetError(
                f"case {name}: no BIDS subject (sub-...) in its name or in the paths of its files; "
                "group by a table or a regular expression instead"
            )
    return subjects


def _subject(case: Case, folder: Path) -> str:
    """The subject in the case's name, or else in the paths of its files below the dataset's folder; "" if there is none."""
    inside = (file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name) for file in case.files)
    matches = (SUBJECT.search(text) for text in (case.name, *(path.as_posix() for path in inside)))
    return next((match[1] for match in matches if match), "")


def check_grouping(how: str) -> None:
    """Raise DatasetError for a regular expression that groups the cases of no dataset."""
    if how.casefold() not in SUBJECTS and Path(how).suffix.lower() not in TABLES:
        _compiled(how)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise DatasetError(f'"{pattern}" is neither "subject", a .csv or .tsv file, nor a regular expression: {error}') from None
    if compiled.groups != 1:
        raise DatasetError(
            f'"{pattern}" has {compiled.groups} pairs of parentheses; put one around the part of a case\'s name with its '
            r'group, like "(patient\d+)", or name a .csv file, or write "subject"'
        )
    return compiled


def _by_pattern(pattern: str, dataset: Dataset) -> dict[str, str]:
    _compiled(pattern)
    names = tuple(case.name for case in dataset.cases)
    found = outcome_within(partial(_search, pattern), names, PATTERN_SECONDS).result
    if found is None:
        advice = "write it without repetitions within one another, or use a table"
        names_of = f"the names of {counted(len(names), 'case')}"
        raise DatasetError(f'"{pattern}" is not done with {names_of} after {PATTERN_SECONDS:.0f} s; {advice}')
    for name, group in zip(names, found, strict=True):
        if not group:
            raise DatasetError(f'case {name}: "{pattern}" finds no group in its name; widen the expression, or use a table')
    return dict(zip(names, found, strict=True))


def _search(pattern: str, names: Sequence[str]) -> list[str]:
    """The group of each case by its name; "" where the expression finds none."""
    matches = map(re.compile(pattern).search, names)
    return [match[1] or "" if match else "" for match in matches]


def _by_table(path: Path, dataset: Dataset) -> dict[str, str]:
    table = read_case_table(path, headless=("case", "group"), lenient=True)
    column = next((name for name in GROUP_COLUMNS if name in table.columns), "")
    if not column:
        expected = f'one called "{GROUP_COLUMNS[0]}", {" or ".join(GROUP_COLUMNS[1:])} is expected'
        raise table.wrong(f"has the columns {', '.join(table.header)}", expected)
    groups: dict[str, str] = {}
    for row in table.rows:
        group = row.cells[column]
        if not group:
            raise table.wrong("is empty", "name the group, or remove the line", row, column)
        if groups.setdefault(row.case, group) != group:
            raise table.wrong(f"case {row.case} is in group {groups[row.case]} already, not in {group}", "keep one", row)
    names = {case.name for case in dataset.cases}
    unusable = {finding.case for finding in dataset.findings}
    if unknown := groups.keys() - names - unusable:
        advice = f"write names like {min(names)}, or remove the lines"
        raise DatasetError(f"{path} lists {listed(unknown)}, not in the dataset; {advice}")
    if missing := names - groups.keys():
        raise DatasetError(f"{path} does not list {listed(missing)}; add a line for each case")
    return {name: groups[name] for name in sorted(names)}
